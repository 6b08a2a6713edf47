"""CSV and TSV files."""

import csv
from collections.abc import Iterator
from typing import Any

from steps.common.corpus.readers.format import Request
from steps.common.corpus.readers.lines import LineFormat, Lines, Record, is_broken
from steps.common.corpus.rows import missing, position
from steps.common.errors import UserError
from steps.common.storage.place import Place

TAB = "\t"

# Delimiters in use, and how each is typed on the command line.
GUESSES = {TAB: "tab", ";": "';'", "|": "'|'", ",": "','"}

UNQUOTED = "Where a quote is a character like any other, give corpus.quoting=none"

STRAY_RETURN = "a cell without quotes holds a carriage return (\\r)"

# A cell may be long, but a quote that is never closed must not take the memory of a whole file.
csv.field_size_limit(100_000_000)


class Cells:
    """The cells of each record. `undecodable` says what in its lines is not UTF-8."""

    def __init__(self, lines: Lines, request: Request, delimiter: str):
        self.lines, self.beginning = lines, ""
        self.delimiter = request.dialect.delimiter or delimiter
        self.undecodable: list[str] = []
        quoting: dict[str, Any] = {} if request.dialect.quoted else {"quoting": csv.QUOTE_NONE, "quotechar": None}
        self._reader = csv.reader(self._texts(), delimiter=self.delimiter, strict=True, **quoting)

    def _texts(self) -> Iterator[str]:
        for _, line, reason in self.lines:
            if not self.beginning and line.strip():
                self.beginning = line
            if reason:
                self.undecodable.append(reason)
            yield line

    def __iter__(self) -> "Cells":
        return self

    def __next__(self) -> list[str]:
        """Raises csv.Error for a record that is not valid CSV."""
        self.undecodable.clear()
        return next(self._reader)


class DelimitedFormat(LineFormat):
    """Cells between delimiters, below a header line that names the columns."""

    delimiter: str

    def __init__(self, name: str, endings: tuple[str, ...], delimiter: str, *, has_long_cells: bool = True):
        """`has_long_cells`: whether a quoted cell may run over several lines."""
        self.name, self.endings, self.delimiter = name, endings, delimiter
        self._has_long_cells = has_long_cells

    def read_header(self, lines: Lines, request: Request) -> list[str]:
        """The names in the first line that is not blank; raises UserError without one, and for a missing column."""
        place, columns = request.place, request.columns
        cells = Cells(lines, request, self.delimiter)
        try:
            header = next(filter(None, cells), None)
        except csv.Error as error:
            guess = _guess_delimiter(cells, request) or self.advise(place, _explain(error))
            raise UserError(
                f"{place} line {lines.number}: this is not valid CSV: {_explain(error)}. {guess or UNQUOTED + '.'}"
            ) from None
        if header is None:
            raise UserError(f"{place} is empty: expected a header line that names its columns.")
        if cells.undecodable:
            raise UserError(
                f"{place} line {lines.number}: {cells.undecodable[0]}. {self.advise(place, cells.undecodable[0])}"
            )
        for column in columns:
            if column.name not in header:
                raise missing(place, header, column, _guess_delimiter(cells, request))
        return header

    def read_records(self, lines: Lines, request: Request, header: list[str]) -> Iterator[Record]:
        place, cells = request.place, Cells(lines, request, self.delimiter)
        picked = [position(place, header, column) for column in request.columns]
        nothing: list[str | None] = [None] * len(picked)
        last_line = lines.number
        while True:
            try:
                row, broken = next(cells, None), None
            except csv.Error as error:
                row, broken = [], f"this is not valid CSV: {_explain(error)}"
            if row is None:
                return
            first, last_line = last_line + 1, lines.number
            if last_line > first:
                _check_cells(place, first, last_line, broken, self._has_long_cells)
            if broken:
                yield first, nothing, broken
            elif len(row) == len(header):
                values = [row[i] for i in picked]
                sound = [None if is_broken(value) else value for value in values] if cells.undecodable else values
                yield first, sound, cells.undecodable[0] if None in sound else None
            elif row:  # a blank line is not a record, as in every CSV reader
                names = ", ".join(header).encode("utf-8", "replace").decode()
                yield first, nothing, f"expected {len(header)} columns ({names}), found {len(row)}"

    def advise(self, place: Place, reason: str) -> str:
        if reason.endswith(STRAY_RETURN):
            return "Put the cell in quotes, or take the carriage return out of it."
        if "columns (" in reason or "not valid CSV" in reason:
            return f'Quote cells that hold the delimiter or a quote, and write a quote in them twice (""). {UNQUOTED}.'
        return super().advise(place, reason)


def _explain(error: csv.Error) -> str:
    """What Python's reader says, without its advice to a programmer."""
    text = str(error)
    return STRAY_RETURN if text.startswith("new-line character seen") else text.partition(" - ")[0]


def _guess_delimiter(cells: Cells, request: Request) -> str | None:
    """What to type where another character separates the columns of a header; None where none seems to."""
    for other, typed in GUESSES.items():
        names = [name.strip().strip('"') for name in cells.beginning.split(other)]
        if other != cells.delimiter and len(names) > 1 and any(column.name in names for column in request.columns):
            save = f"save the file with {'commas' if cells.delimiter == ',' else 'tabs'}"
            remedy = f"give corpus.delimiter={typed}" if request.has_dialect else save
            return f"They look separated by {'a tab' if other == TAB else typed}: {remedy}."
    return None


def _check_cells(place: Place, first: int, last: int, broken: str | None, has_long_cells: bool) -> None:
    """Raises UserError for a record of several lines: a stray quote may have joined rows, and nothing tells which."""
    if broken:
        raise UserError(
            f"{place} line {first}: {broken}, at line {last}. Look for a quote that is not closed. {UNQUOTED}."
        )
    if not has_long_cells:
        raise UserError(
            f"{place} line {first}: a cell that starts with a quote runs over several lines, which TSV does not have. {UNQUOTED}, or save the file as CSV."
        )


FORMAT = DelimitedFormat("csv", (".csv",), ",")
