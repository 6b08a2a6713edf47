"""One file -> its rows, for every format. Knows neither MLflow nor Hydra.

Text, CSV, TSV and JSON Lines are read by the standard library, line by line: it is many times faster than any
model reads text, needs no more memory for a larger file, and knows the line of every error. What is wrong with a
single row is a reason beside that row; what leaves no rows to speak of (a quote that is never closed, a damaged
Parquet page) raises.
"""

import csv
import json
from collections.abc import Iterable, Iterator

import pyarrow as pa

from steps.common.columnar import columnar_rows
from steps.common.errors import UserError
from steps.common.files import Place, first_line, open_bytes, reaching
from steps.common.rows import Column, Rows, position

# File name ending -> format.
FORMATS = {
    ".txt": "text", ".text": "text", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".arrows": "arrow", ".orc": "orc",
}  # fmt: skip

# Ending after the format's -> how the file is compressed. The other formats compress inside.
COMPRESSIONS = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}
# What a compressed file begins with.
MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
LINE_FORMATS = ("text", "csv", "tsv", "jsonl")

DELIMITERS = {"csv": ",", "tsv": "\t"}

# Characters of text after which rows are handed on, however few they are.
CHUNK_CHARACTERS = 8_000_000

# A cell may be long, but a quote that is never closed must not take the memory of a whole file.
csv.field_size_limit(100_000_000)


def split_name(name: str) -> tuple[str, str | None]:
    """The ending that names a file's format, in lower case, and its compression."""
    stem, dot, last = name.lower().rpartition(".")
    compression = COMPRESSIONS.get(dot + last)
    if compression is None:
        return dot + last, None
    _, dot, ending = stem.rpartition(".")
    return dot + ending, compression


def detect_format(place: Place) -> str:
    """The format that a file's ending stands for.

    Raises:
        UserError: an ending that is not known, or a compressed file of a format that compresses inside.
    """
    ending, compression = split_name(place.name)
    if ending not in FORMATS:
        raise UserError(
            f"cannot tell the format of {place} from its ending: expected one of {', '.join(FORMATS)}, and {', '.join(COMPRESSIONS)} after those of lines. "
            "Say it with corpus.format=text, csv, tsv, jsonl, parquet, arrow or orc."
        )
    if compression and FORMATS[ending] not in LINE_FORMATS:
        raise UserError(f"{place}: a file of {FORMATS[ending]} compresses inside. Decompress it first.")
    return FORMATS[ending]


def read_rows(place: Place, format: str, columns: list[Column], size: int, digest=None) -> Iterator[Rows]:
    """Stream columns of a file, at most `size` rows at a time. A text file has one column, the line.

    Args:
        digest: a hashlib object that is shown the file's bytes, in formats of lines.

    Raises:
        UserError: a file that cannot be read, with the line where there is one.
    """
    if format not in LINE_FORMATS:
        yield from columnar_rows(place, format, columns, size)
        return
    with reaching(place), open_bytes(place, split_name(place.name)[1], digest) as stream:
        if format == "jsonl" and stream.peek(1)[:1] == b"[":
            raise UserError(
                f"{place} holds one JSON array; expected one JSON object a line. Convert it first: jq -c '.[]' {place.name} > {place.name.rpartition('.')[0]}.jsonl"
            )
        lines = _lines(place, stream)
        records = {"text": _text_records, "csv": _csv_records, "tsv": _csv_records, "jsonl": _json_records}[format]
        extra = {"delimiter": DELIMITERS[format]} if format in DELIMITERS else {}
        yield from _chunks(place, records(place, lines, columns, **extra), columns, size)


# Formats of lines. A record is (line, values, reason); without a reason the values are good.
Record = tuple[int, list, str | None]


def _chunks(place: Place, records: Iterable[Record], columns: list[Column], size: int) -> Iterator[Rows]:
    values: list[list] = [[] for _ in columns]
    lines, reasons, characters = [], {}, 0
    for line, record, reason in records:
        for held, value in zip(values, record):
            held.append(value)
            characters += len(value) if isinstance(value, str) else 0
        if reason is not None:
            reasons[len(lines)] = reason
        lines.append(line)
        if len(lines) == size or characters >= CHUNK_CHARACTERS:
            yield _to_arrow(place, columns, values, lines, reasons)
            values, lines, reasons, characters = [[] for _ in columns], [], {}, 0
    if lines:
        yield _to_arrow(place, columns, values, lines, reasons)


def _to_arrow(place: Place, columns: list[Column], values: list[list], lines: list[int], reasons: dict) -> Rows:
    arrays = []
    for column, held in zip(columns, values):
        try:
            arrays.append(pa.array(held, pa.string() if column.kind in ("string", "text") else None))
        except (pa.ArrowException, OverflowError, ValueError) as error:
            raise UserError(
                f"column {column.name!r} of {place} holds values of several types: {first_line(error)}."
            ) from None
    return Rows(arrays, pa.array(lines, pa.int64()), reasons)


def _lines(place: Place, stream) -> Iterator[tuple[int, str, str | None]]:
    """Number and text of every line, without its end, and what is wrong with it. A byte order mark is dropped.

    Bytes that are not UTF-8 become surrogates, so that the line can still be cut into cells.
    """
    for number, raw in enumerate(stream, start=1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            yield number, raw.decode("utf-8"), None
        except UnicodeDecodeError as error:
            if number == 1:
                _check_beginning(place, raw)
            reason = (
                f"expected UTF-8, found byte 0x{raw[error.start]:02x} at position {error.start + 1} of line {number}"
            )
            yield number, raw.decode("utf-8", "surrogateescape"), reason


def _check_beginning(place: Place, raw: bytes) -> None:
    """Raises UserError for a file that is no UTF-8 from its first byte on."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(
            f"{place} line 1: expected UTF-8, found UTF-16. Convert the file first: iconv -f utf-16 -t utf-8 {place.name} > utf8-{place.name}"
        )
    for magic, ending in MAGIC.items():
        if raw.startswith(magic):
            raise UserError(
                f"{place} line 1: expected text, found a compressed file. Give it a name that says so: {place.name}{ending}"
            )


def _text_records(place: Place, lines: Iterable, columns: list[Column]) -> Iterator[Record]:
    for number, line, reason in lines:
        yield number, [None if reason else line.removesuffix("\n").removesuffix("\r")], reason


def _csv_records(place: Place, lines: Iterable, columns: list[Column], delimiter: str) -> Iterator[Record]:
    undecodable: list[str] = []

    def texts() -> Iterator[str]:
        for _, line, reason in lines:
            if reason:
                undecodable.append(reason)
            yield line

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    header = _csv_header(place, reader)
    if undecodable:
        raise UserError(f"{place} line 1: {undecodable[0]}. {_convert(place)}")
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
                f"{place} line {first}: {broken}, at line {last_line}. Look for a quote that is not closed."
            )
        if delimiter == "\t" and last_line > first:
            # Most TSV files quote nothing, so this is a stray quote that would swallow rows.
            raise UserError(
                f"{place} line {first}: a cell that starts with a quote runs over several lines, which TSV does not have. Remove the quote, or save the file as CSV."
            )
        bytes_of_row = undecodable[0] if undecodable else None
        undecodable.clear()
        if broken:
            yield first, nothing, broken
        elif len(row) == len(header):
            yield first, *_csv_values([row[i] for i in picked], bytes_of_row)
        elif row:  # a blank line between records is no record, as in every CSV reader
            yield first, nothing, f"expected {len(header)} columns ({_shown(header)}), found {len(row)}"


def _csv_header(place: Place, reader) -> list[str]:
    try:
        header = next(filter(None, reader), None)
    except csv.Error as error:
        remedy = " Its lines end in \\r alone: tr '\\r' '\\n' mends that." if "new-line character" in str(error) else ""
        raise UserError(
            f"{place} line {reader.line_num}: this is not valid CSV: {str(error).partition(' - ')[0]}.{remedy}"
        ) from None
    if header is None:
        raise UserError(f"{place} is empty: expected a header line that names its columns.")
    return header


def _csv_values(values: list[str], undecodable: str | None) -> tuple[list, str | None]:
    """The values of a row, null where one is not UTF-8, and what is wrong with them."""
    if undecodable is None:
        return values, None
    sound = [None if is_broken(value) else value for value in values]
    return sound, undecodable if None in sound else None


def _shown(names: list[str]) -> str:
    return ", ".join(name.encode("utf-8", "replace").decode() for name in names)


def _json_records(place: Place, lines: Iterable, columns: list[Column]) -> Iterator[Record]:
    checked = False
    nothing = [None] * len(columns)
    for number, line, reason in lines:
        if not line.strip():
            continue
        record = None
        if reason is None:
            record, reason = _json_object(line)
        if record is None:
            yield number, nothing, reason
            continue
        if not checked:
            # A key that the first object lacks is a wrong name; later objects may leave it out (null).
            for column in columns:
                position(place, list(record), column.name)
            checked = True
        values, wrong = [], None
        for column in columns:
            value = record.get(column.name)
            if type(value) is not str or not value.isascii():  # most are sound, and need no look
                value, reason = _json_value(value, column)
                wrong = wrong or reason
            values.append(value)
        yield number, values, wrong


def _json_object(line: str) -> tuple[dict | None, str | None]:
    try:
        record = json.loads(line)
    except ValueError as error:
        return None, f"expected one JSON object a line; {error}"
    except RecursionError:
        return None, "the JSON object is nested too deeply"
    if not isinstance(record, dict):
        return None, f"expected a JSON object, found {type(record).__name__}"
    return record, None


def _json_value(value, column: Column) -> tuple[object, str | None]:
    """A value as its column takes it, or null and what is wrong with it."""
    name = column.name
    if value is None:
        return None, None
    if isinstance(value, str):
        if is_broken(value):
            return None, f"{name!r} holds half a character (a lone surrogate), which no UTF-8 text can hold"
        return value, None
    if column.kind == "string":
        return None, f"expected a string in {name!r}, found {type(value).__name__} {str(value)[:40]!r}"
    if isinstance(value, (dict, list)):
        if column.kind != "value":
            return None, f"expected a string or a number in {name!r}, found {type(value).__name__}"
        inner = [value] if isinstance(value, list) else [list(value), list(value.values())]
        reasons = (_json_value(item, column)[1] for items in inner for item in items)
        reason = next(filter(None, reasons), None)
        return (None if reason else value), reason
    if column.kind == "text":
        return json.dumps(value), None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None, f"{name!r} is {str(value)[:40]}, which 64 bits cannot hold. Write it as a string"
    return value, None


def is_broken(text: str) -> bool:
    """Whether a string holds a surrogate, which UTF-8 cannot."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _convert(place: Place) -> str:
    return f"Convert the file first: iconv -f latin1 -t utf-8 {place.name} > utf8-{place.name}"


def advice(place: Place, reason: str) -> str:
    """What to do about a bad row."""
    if reason.startswith("expected UTF-8"):
        return _convert(place)
    if "columns (" in reason or "not valid CSV" in reason:
        return 'Quote cells that hold the delimiter or a quote, and write a quote in them twice ("").'
    return ""
