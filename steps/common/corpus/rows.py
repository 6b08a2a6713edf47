"""Rows of a file of any format: the columns asked for, and what was read of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steps.common.errors import UserError
from steps.common.storage.place import Place


class Kind(StrEnum):
    """What the values of a file are."""

    # Lines of strings: a column of ids that are all integers is int64.
    cells = "cells"
    # Lines of JSON values; any object may leave a key out.
    objects = "objects"
    # Columns of Arrow's types.
    columns = "columns"


# The key of a config that names a column of a corpus, by its kind.
KEYS = {
    "string": "corpus.text_column",
    "text": "corpus.template",
    "id": "corpus.id_column",
    "value": "corpus.keep_columns",
}


@dataclass(frozen=True)
class Column:
    """A column that is asked for, and what its values have to be.

    string: a string, or the row is bad. text: anything that can be written as a string. id: a string or a number.
    value: of any type, kept.
    """

    name: str
    kind: str = "value"
    # The key of the config that names it, where that does not follow from its kind.
    key: str = field(default="", compare=False)

    @property
    def rename(self) -> str:
        """What to do where there is no such column."""
        return f"Name the right one, with {self.key or KEYS[self.kind]}=<name>."


@dataclass(frozen=True)
class Mark:
    """A place in a file where reading can begin.

    row: number of the first row there, from 0. position: bytes before it in a file of lines, else its record batches or
    stripes. lines: lines before it, in a file of lines.
    """

    row: int
    position: int
    lines: int = 0


# Where every file can be read from.
BEGINNING = Mark(0, 0)


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, an array for each column asked for. A bad row has null for what could not be read."""

    arrays: list[pa.Array]
    # Line of each row in the file, the first where it has several; None where the format has no lines.
    lines: pa.Array | None = None
    # Position -> what is wrong with the row.
    reasons: dict[int, str] = field(default_factory=dict)
    # Where the row after these can be read; None where reading has to begin before it.
    next: Mark | None = None

    def __len__(self) -> int:
        return len(self.arrays[0])

    def where(self, row: int, first: int) -> str:
        """Where in its file one of these rows is, for an error; `first` is the number of the first of them there."""
        return f"line {self.lines[row].as_py()}" if self.lines is not None else f"row {first + row + 1}"


def position(place: Place | str, names: list[str], column: Column) -> int:
    """The index of a column; raises UserError where it is missing or not the only one of its name."""
    wanted = column.name
    if names.count(wanted) > 1:
        raise UserError(f"{place} has {names.count(wanted)} columns named {wanted!r}; expected one. Rename the others.")
    if wanted not in names:
        raise missing(place, names, column)
    return names.index(wanted)


def missing(place: Place | str, names: list[str], column: Column, remedy: str | None = None) -> UserError:
    """The error of a column that is not there."""
    has = ", ".join(map(repr, names))
    return UserError(f"{place} has no column {column.name!r}; its columns are {has}. {remedy or column.rename}")


def null_like(array: pa.Array, bad: Iterable[int]) -> pa.Array:
    """An array with null at some positions."""
    mask = np.zeros(len(array), bool)
    mask[list(bad)] = True
    return pc.if_else(pa.array(mask), pa.scalar(None, array.type), array) if mask.any() else array
