"""The columns of a suite's file."""

import math
import re
from pathlib import Path

from steps.common.corpus import readers
from steps.common.corpus.opening import find_files
from steps.common.errors import UserError

# What a text is to a model that has prompts for it: nothing special (None), a query, or a document.
Role = str | None


def read_columns(path: Path, columns: dict[str, str], key: str = "suite.path") -> tuple[Path, list[list]]:
    """The file that a path names, and the values of its columns, whole.

    Args:
        columns: their names, by the keys of a suite that give them. key: the config key that names the file.

    Raises:
        UserError: several files, a text file, or a missing column.
    """
    names = list(columns.values())
    place, *others = find_files(path)
    file = Path(place.local or path)
    if others:
        raise UserError(f"{path} names {len(others) + 1} files; expected one suite. Give one of them, such as {file}.")
    format = readers.detect_format(place)
    if not format.has_columns:
        raise UserError(
            f"{key}: {file} is a {format.name} file; expected a suite with the columns {', '.join(names[:-1])} and {names[-1]}."
        )
    values: list[list] = [[] for _ in columns]
    for arrays in readers.read_columns(place, format, names, 8192, [f"suite.{one}" for one in columns]):
        for column, array in zip(values, arrays):
            column += array.to_pylist()
    return file, values


def read_number(value: object) -> float | None:
    """A value of a column as a finite number; None if it is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def name_suite(given: str | None, file: Path) -> str:
    """The name of a suite, its file's where none is given, in characters that mlflow takes in the name of a metric."""
    return re.sub(r"[^A-Za-z0-9_.\- ]", "_", given or file.stem)
