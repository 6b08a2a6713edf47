"""CSV and TSV files."""

import csv
from collections.abc import Iterable, Iterator

from steps.common.corpus.readers.lines import UNQUOTED, WITH_NUL, Record, command, is_broken, other_delimiter
from steps.common.corpus.rows import RENAME, Column, missing, position
from steps.common.errors import UserError
from steps.common.storage.place import Place


def csv_records(
    place: Place, lines: Iterable, columns: list[Column], delimiter: str, is_tsv: bool, quoted: bool
) -> Iterator[Record]:
    undecodable: list[str] = []
    beginning: list[str] = []

    def texts() -> Iterator[str]:
        for _, line, reason in lines:
            if not beginning and line.strip():
                beginning.append(line)
            if reason:
                undecodable.append(reason)
            yield line

    quoting = {} if quoted else {"quoting": csv.QUOTE_NONE, "quotechar": None}
    reader = csv.reader(texts(), delimiter=delimiter, strict=True, **quoting)
    try:
        header = next(filter(None, reader), None)
    except csv.Error as error:
        guess = other_delimiter("".join(beginning), delimiter, columns)
        raise UserError(
            f"{place} line {reader.line_num}: this is not valid CSV: {str(error).partition(' - ')[0]}. {guess or UNQUOTED + '.'}"
        ) from None
    if header is None:
        raise UserError(f"{place} is empty: expected a header line that names its columns.")
    if undecodable:
        raise UserError(f"{place} line 1: {undecodable[0]}. {advice(place, undecodable[0])}")
    for column in columns:
        if column.name not in header:
            raise missing(place, header, column.name, other_delimiter("".join(beginning), delimiter, columns) or RENAME)
    picked = [position(place, header, column.name) for column in columns]
    last_line = reader.line_num
    nothing = [None] * len(columns)
    while True:
        try:
            row, broken = next(reader, None), None
        except csv.Error as error:
            row, broken = nothing, f"this is not valid CSV: {error}"
        if row is None:
            return
        first, last_line = last_line + 1, reader.line_num
        if broken and last_line > first:
            # A quote that is closed too late has swallowed rows: nobody can say which.
            raise UserError(
                f"{place} line {first}: {broken}, at line {last_line}. Look for a quote that is not closed. {UNQUOTED}."
            )
        if is_tsv and last_line > first:
            # Most TSV files quote nothing, so this is a stray quote that would swallow rows.
            raise UserError(
                f"{place} line {first}: a cell that starts with a quote runs over several lines, which TSV does not have. {UNQUOTED}, or save the file as CSV."
            )
        bytes_of_row = undecodable[0] if undecodable else None
        undecodable.clear()
        if broken:
            yield first, nothing, broken
        elif len(row) == len(header):
            yield first, *_csv_values([row[i] for i in picked], bytes_of_row)
        elif row:  # a blank line between records is no record, as in every CSV reader
            yield first, nothing, f"expected {len(header)} columns ({_shown(header)}), found {len(row)}"


def _csv_values(values: list[str], undecodable: str | None) -> tuple[list, str | None]:
    """The values of a row, null where one is not UTF-8, and what is wrong with them."""
    if undecodable is None:
        return values, None
    sound = [None if is_broken(value) else value for value in values]
    return sound, undecodable if None in sound else None


def _shown(names: list[str]) -> str:
    return ", ".join(name.encode("utf-8", "replace").decode() for name in names)


def advice(place: Place, reason: str) -> str:
    """What to do about a bad row."""
    if reason.startswith("expected UTF-8, "):
        if reason.endswith(WITH_NUL):
            # No text of Latin 1 holds a NUL: it would only hide what the file is.
            return f"Find out its encoding, such as utf-16le, and convert it: {command(place, 'iconv -f <encoding> -t utf-8', 'utf8')}"
        return f"Convert the file first: {command(place, 'iconv -f latin1 -t utf-8', 'utf8')}"
    if "columns (" in reason or "not valid CSV" in reason:
        return f'Quote cells that hold the delimiter or a quote, and write a quote in them twice (""). {UNQUOTED}.'
    return ""
