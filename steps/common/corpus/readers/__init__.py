"""A file of any known format -> its rows."""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence

import pyarrow as pa

from steps.common.corpus.readers.format import (
    COMPRESSIONS,
    EXCEL,
    Format,
    Request,
    refuse_archive,
    refuse_excel,
    split_name,
)
from steps.common.corpus.rows import Column
from steps.common.errors import UserError
from steps.common.storage.place import Place

# What corpus.format says where the endings of the files tell it.
AUTO = "auto"

_formats: dict[str, Format] = {}


def register(format: Format) -> None:
    """Make a format known; raises ValueError where another one has its name or one of its endings."""
    taken = {*_formats, *known_endings(), AUTO} & {format.name, *format.endings}
    if taken:
        raise ValueError(f"format {format.name}: another format has {', '.join(sorted(taken))}")
    _formats[format.name] = format


def known_endings() -> dict[str, Format]:
    """Ending of a file's name, with its dot -> format."""
    return {ending: format for format in _formats.values() for ending in format.endings}


def names() -> list[str]:
    """What corpus.format may be."""
    return [AUTO, *_formats]


def find_format(name: str) -> Format:
    """The format of a name; raises UserError where there is none."""
    if name not in _formats:
        raise UserError(f"corpus.format={name} is not known; expected one of {', '.join(names())}.")
    return _formats[name]


def detect_format(place: Place) -> Format:
    """The format of a file, by its ending.

    Raises UserError for an unknown ending, and for one of compression after a format that compresses internally.
    """
    ending, compression = split_name(place.name)
    format = known_endings().get(ending)
    if ending in EXCEL:
        raise refuse_excel(place)
    if ending == ".zip":
        raise refuse_archive(place)
    if format is None:
        raise UserError(
            f"cannot tell the format of {place} from its ending: expected one of {', '.join(known_endings())}, and {', '.join(COMPRESSIONS)} after those of lines. Give corpus.format=<one of {', '.join(_formats)}>."
        )
    if compression and not format.has_lines:
        raise UserError(f"{place}: a file of {format.name} is already compressed internally. Decompress it first.")
    return format


def read_columns(
    place: Place, format: Format, names: list[str], size: int, keys: Sequence[str] = ()
) -> Iterator[list[pa.Array]]:
    """Stream columns of a suite's file, at most `size` rows at a time; the first column holds strings.

    `keys`: those of the config that name the columns.

    Raises UserError for a file or a row that cannot be read, with its line.
    """
    kinds = ["value" if i else "string" for i in range(len(names))]
    columns = [Column(*one) for one in zip(names, kinds, keys or [""] * len(names))]
    first = 0
    for rows in format.read(Request(place, columns, size, has_dialect=False)):
        for row, reason in sorted(rows.reasons.items()):
            raise UserError(f"{place} {rows.where(row, first)}: {reason}. {format.advise(place, reason)}".strip())
        first += len(rows)
        yield rows.arrays


for _module in pkgutil.iter_modules(__path__):
    _found = getattr(importlib.import_module(f"{__name__}.{_module.name}"), "FORMAT", None)
    if _found is not None:
        register(_found)
