"""What a corpus format is: its name, the endings of its files, and how they are read."""

from collections.abc import Iterator
from dataclasses import dataclass

from steps.common.corpus.rows import BEGINNING, Column, Kind, Mark, Rows
from steps.common.errors import UserError
from steps.common.storage.place import Place
from steps.common.storage.stream import Digest

# Ending after the format's -> how the file is compressed. Only files of lines may be: the others compress inside.
COMPRESSIONS = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}

# Endings of what people take for a table, and no reader reads.
EXCEL = (".xlsx", ".xls", ".xlsm", ".xlsb")


@dataclass(frozen=True)
class Dialect:
    """How a line of CSV, or of a format like it, is cut into cells.

    delimiter: a character, None for that of the format. quoted: whether quotes around a cell are taken off.
    """

    delimiter: str | None = None
    quoted: bool = True


@dataclass(frozen=True)
class Request:
    """The rows that are asked for of one file: all from row `first` on, at most `size` at a time.

    mark: a place at or before row `first`, from `Rows.next` of an earlier reading. digest: gets the bytes of a file of
    lines that is read whole. keys: takes keys of the objects; without it a key that no object has is an error.
    has_dialect: whether the user can give another dialect, as of a corpus.
    """

    place: Place
    columns: list[Column]
    size: int
    dialect: Dialect = Dialect()
    first: int = 0
    mark: Mark = BEGINNING
    digest: Digest | None = None
    keys: dict[str, None] | None = None
    has_dialect: bool = True


class Format:
    """A corpus format. A module beside this one that has one under the name FORMAT makes it known.

    name: as typed in corpus.format. endings: of its files, in lower case, with their dot. has_columns: False where a
    row is one text without a name. delimiter: what separates cells; None where corpus.delimiter has no meaning.
    """

    name: str
    endings: tuple[str, ...]
    kind: Kind
    has_columns: bool = True
    delimiter: str | None = None

    @property
    def has_lines(self) -> bool:
        """Whether a row has a line number, and the file may be compressed as a whole."""
        return self.kind is not Kind.columns

    def read(self, request: Request) -> Iterator[Rows]:
        """Stream rows of a file. What is wrong with a single row is a reason beside it.

        Raises UserError for a file that cannot be read, with the line where there is one.
        """
        raise NotImplementedError

    def advise(self, place: Place, reason: str) -> str:
        """What to do about a bad row of a file; empty where there is nothing to say."""
        return ""


def refuse_excel(place: Place) -> UserError:
    return UserError(f"{place}: Excel files are not read. Save the sheet as CSV (UTF-8).")


def refuse_archive(place: Place) -> UserError:
    return UserError(f"{place}: a zip archive is not read. Unpack it first.")


def split_name(name: str) -> tuple[str, str | None]:
    """The ending that names a file's format, in lower case, and its compression."""
    stem, dot, last = name.lower().rpartition(".")
    compression = COMPRESSIONS.get(dot + last)
    if compression is None:
        return dot + last, None
    _, dot, ending = stem.rpartition(".")
    return dot + ending, compression
