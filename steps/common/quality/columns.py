"""The columns of a suite's file."""

import re
from pathlib import Path

from steps.common.corpus import corpus
from steps.common.corpus.readers.formats import detect_format
from steps.common.errors import UserError

# What a text is to a model that has prompts for it: nothing special, a query, or a document.
Role = str | None


def name(given: str | None, file: Path) -> str:
    """A name that mlflow takes in that of a metric."""
    return re.sub(r"[^A-Za-z0-9_.\- ]", "_", given or file.stem)


def read_columns(path: Path, columns: list[str], key: str = "suite.path") -> tuple[Path, list[list]]:
    """Columns of the one file that a path names, whole."""
    place, *others = corpus.find_files(path)
    file = place.local
    if others:
        raise UserError(f"{path} names {len(others) + 1} files; expected one suite. Give one of them, such as {file}.")
    kind = detect_format(place)
    if kind == "text":
        raise UserError(
            f"{key}: {file} is a text file; expected a suite with the columns {', '.join(columns[:-1])} and {columns[-1]}."
        )
    values: list[list] = [[] for _ in columns]
    for arrays in corpus.read_columns(place, kind, columns, 8192):
        for column, array in zip(values, arrays):
            column += array.to_pylist()
    return file, values
