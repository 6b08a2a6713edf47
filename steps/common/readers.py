"""One file -> its rows, for every format. Knows neither MLflow nor Hydra.

Text, CSV, TSV and JSON Lines are read by the standard library, line by line: it is many times faster than any
model reads text, needs no more memory for a larger file, and knows the line of every error. What is wrong with a
single row is a reason beside that row; what leaves no rows to speak of (a quote that is never closed, a damaged
Parquet page) raises.
"""

import codecs
import contextlib
import csv
import io
import itertools
import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from steps.common.column_types import EXACT_INTEGER
from steps.common.columnar import columnar_rows
from steps.common.errors import UserError
from steps.common.files import Place, first_line, open_bytes, reaching
from steps.common.rows import BEGINNING, RENAME, Column, Mark, Rows, missing, position

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
TAB = "\t"

# What else stands between cells, and how it is typed.
GUESSES = {TAB: "tab", ";": "';'", "|": "'|'", ",": "','"}

# Bytes at a file's beginning by which its encoding is told.
HEAD = 1 << 16

# Lists and objects in each other that a value of JSON may be: a Parquet file of 250 cannot be read back.
DEEPEST = 100

# Names of a file's columns that are kept for an error, where every object may bring its own.
SHOWN_KEYS = 50


@dataclass(frozen=True)
class Dialect:
    """How the cells of CSV and TSV are told apart.

    delimiter: a character, None for that of the format. quoted: whether a cell may stand in quotes.
    """

    delimiter: str | None = None
    quoted: bool = True


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


def read_rows(
    place: Place,
    format: str,
    columns: list[Column],
    size: int,
    digest=None,
    dialect: Dialect = Dialect(),
    keys: dict[str, None] | None = None,
    first: int = 0,
    mark: Mark = BEGINNING,
) -> Iterator[Rows]:
    """Stream columns of a file, at most `size` rows at a time. A text file has one column, the line.

    Args:
        digest: a hashlib object that is shown the file's bytes, in formats of lines; only where all of it is read.
        keys: takes the keys of the objects of JSON Lines, those asked for and some others. Without it a key that none
            of a file's objects has is an error.
        first: number of the first row that is asked for, from 0.
        mark: a place of this file at or before it, as the rows of an earlier reading have brought them.

    Raises:
        UserError: a file that cannot be read, with the line where there is one.
    """
    if format not in LINE_FORMATS:
        yield from columnar_rows(place, format, columns, size, first, mark)
        return
    compression = split_name(place.name)[1]
    dialect = Dialect(dialect.delimiter or DELIMITERS.get(format), dialect.quoted)
    with reaching(place), contextlib.ExitStack() as opened:
        stream = opened.enter_context(open_bytes(place, compression, digest, buffer=HEAD if mark.position else None))
        _check_head(place, format, stream.peek(1))
        has_nul = 0 in stream.peek(1)[:HEAD]
        lines = _Lines(place, stream, has_nul)
        cells = _Cells(lines, dialect) if format in DELIMITERS else None
        header = _csv_header(place, cells, columns, dialect.delimiter) if cells else None
        if mark.position:
            stream = opened.enter_context(open_bytes(place, start=mark.position))
            lines = _Lines(place, stream, has_nul, mark.lines)
            cells = _Cells(lines, dialect) if cells else None
        if cells:
            records = _csv_records(place, cells, header, columns, format == "tsv")
        elif format == "jsonl":
            records = _json_records(place, lines, columns, keys)
        else:
            records = _text_records(lines)

        def find_mark(row: int) -> Mark | None:
            return Mark(row, stream.tell(), lines.number) if compression is None else None

        # Rows before the first are read, since only their reader knows where each ends.
        records = itertools.islice(records, first - mark.row, None)
        yield from _chunks(place, records, columns, size, format, first, find_mark)


# Formats of lines. A record is (line, values, reason); without a reason the values are good.
Record = tuple[int, list, str | None]


def _chunks(
    place: Place,
    records: Iterable[Record],
    columns: list[Column],
    size: int,
    format: str,
    row: int,
    find_mark: Callable[[int], Mark | None],
) -> Iterator[Rows]:
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
            row += len(lines)
            yield replace(_to_arrow(place, columns, values, lines, reasons, format), next=find_mark(row))
            values, lines, reasons, characters = [[] for _ in columns], [], {}, 0
    if lines:
        yield _to_arrow(place, columns, values, lines, reasons, format)


def _to_arrow(
    place: Place, columns: list[Column], values: list[list], lines: list[int], reasons: dict, format: str
) -> Rows:
    arrays = []
    for column, held in zip(columns, values):
        # Only JSON has other values than strings.
        plain = format != "jsonl" or column.kind in ("string", "text")
        try:
            kind = pa.string() if plain else _json_type(held, column.kind == "id")
            arrays.append(pa.array(held, kind))
        except (pa.ArrowException, OverflowError, ValueError) as error:
            raise UserError(
                f"column {column.name!r} of {place} holds values of several types: {first_line(error)}. Write them all as one, or as strings."
            ) from None
    return Rows(arrays, pa.array(lines, pa.int64()), reasons)


JSON_NAMES = {dict: "object", list: "list", str: "string", bool: "true or false", int: "integer", float: "fraction"}


def _json_type(values: list, is_id: bool = False) -> pa.DataType:
    """The type of values of JSON, whatever their order: pyarrow itself makes 1.0 of a true that follows 1.5.

    Raises:
        ValueError: values of several types. Integers and fractions share one where a double keeps them all exactly, but
            not as ids.
    """
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.null()
    if kinds == {dict}:
        objects = [value for value in values if value is not None]
        names = dict.fromkeys(name for value in objects for name in value)
        return pa.struct([(name, _json_type([value.get(name) for value in objects])) for name in names])
    if kinds == {list}:
        return pa.list_(_json_type([item for value in values if value is not None for item in value]))
    if kinds == {int, float} and not is_id:
        odd = next((value for value in values if type(value) is int and abs(value) > EXACT_INTEGER), None)
        if odd is not None:
            raise ValueError(f"fractions, and the integer {odd}, which no double holds")
        return pa.float64()
    if len(kinds) > 1:
        raise ValueError(" and ".join(sorted(JSON_NAMES[kind] for kind in kinds)))
    return {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[kinds.pop()]


class _Lines:
    """Number and text of every line, with its end, and what is wrong with it. A byte order mark is dropped.

    Bytes that are not UTF-8 become surrogates, so that the line can still be cut into cells. `number` is that of the
    line that was handed out last.
    """

    def __init__(self, place: Place, stream: io.BufferedReader, has_nul: bool, before: int = 0):
        """
        Args:
            has_nul: whether the file begins with bytes of which some are NUL.
            before: lines of the file before those of the stream.
        """
        self._place, self._stream, self._has_nul, self.number = place, stream, has_nul, before

    def __iter__(self) -> Iterator[tuple[int, str, str | None]]:
        for raw in self._stream:
            self.number += 1
            if self.number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield self.number, raw.decode("utf-8"), None
            except UnicodeDecodeError as error:
                if self.number == 1:
                    _check_beginning(self._place, raw)
                found = f"byte 0x{raw[error.start]:02x} at position {error.start + 1} of line {self.number}"
                reason = f"expected UTF-8, found {found}{WITH_NUL if self._has_nul else ''}"
                yield self.number, raw.decode("utf-8", "surrogateescape"), reason


def _check_beginning(place: Place, raw: bytes) -> None:
    """Raises UserError for a compressed file whose name does not say so."""
    for magic, ending in MAGIC.items():
        if raw.startswith(magic):
            raise UserError(
                f"{place} line 1: expected text, found a compressed file. Give it a name that says so: {place.name}{ending}"
            )


def _check_head(place: Place, format: str, head: bytes) -> None:
    """Look at the bytes that a file begins with, before they are cut into lines.

    Raises:
        UserError: a file of UTF-16 or UTF-32, one whose lines end in a carriage return alone, or a JSON array.
    """
    encoding = wide_encoding(head[:HEAD])
    if encoding is not None:
        said = encoding.upper().removesuffix("LE").removesuffix("BE")
        raise UserError(
            f"{place} line 1: expected UTF-8, found {said}. Convert the file first: {_command(place, f'iconv -f {encoding} -t utf-8', 'utf8')}"
        )
    # A text may hold a carriage return, and one line of JSON may be laid out with them.
    ends = len(re.findall(rb"\}\s*\r\s*\{", head)) if format == "jsonl" else head.count(b"\r") - 1
    if b"\n" not in head and ends > 0:
        raise UserError(
            f"{place} line 1: expected lines that end in \\n, found \\r alone. Convert the file first: {_command(place, TR, 'lf')}"
        )
    if format == "jsonl" and head[:1] == b"[":
        raise UserError(
            f"{place} holds one JSON array; expected one JSON object a line. Convert it first: {_command(place, JQ, 'lines')}"
        )


TR = "tr '\\r' '\\n'"
JQ = "jq -c '.[]'"

# What writes a compressed file out.
UNPACK = {"gz": "gzip -dc", "bz2": "bzip2 -dc", "xz": "xz -dc", "zst": "zstd -dc"}


def _command(place: Place, convert: str, prefix: str) -> str:
    """What to type to convert a file, into one of another name; what is compressed comes out as it is."""
    name, compression = place.name, split_name(place.name)[1]
    source = shlex.quote(name)
    if compression is not None:
        made = shlex.quote(f"{prefix}-{name.rpartition('.')[0]}")
        return f"{UNPACK[compression]} {source} | {convert} > {made}"
    return f"{convert} {'< ' if convert is TR else ''}{source} > {shlex.quote(f'{prefix}-{name}')}"


def wide_encoding(head: bytes) -> str | None:
    """utf-16, utf-16le, utf-16be or the like of UTF-32, where the bytes that a text begins with are that; else None.

    Without a byte order mark bytes are that where they read as a text of assigned characters, and not as UTF-8, or as
    UTF-8 with control characters in places that only the wide encoding explains.
    """
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(head.translate(None, CONTROLS)) == len(head):
        return None
    for encoding in ("utf-32le", "utf-32be"):
        if head.count(0) > 1 and _wide_text(head, encoding):
            return encoding
    found = {encoding: _wide_text(head, encoding) for encoding in ("utf-16le", "utf-16be")}
    found = {encoding: text for encoding, text in found.items() if text and _is_regular(head, encoding, text)}
    # Both can be sound: the letters of ASCII are Chinese the other way round.
    return max(found, key=lambda encoding: sum(map(str.isascii, found[encoding])), default=None)


def _decoded(head: bytes, encoding: str) -> str | None:
    """The text of bytes, without a character that they break off in; None where they are not of the encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None


def _wide_text(head: bytes, encoding: str) -> str | None:
    """The text of bytes where nearly all of its characters are such as texts have."""
    text = _decoded(head, encoding)
    if not text:
        return None
    odd = sum(unicodedata.category(one) in ("Cc", "Cn", "Co", "Cs") and one not in "\t\r\n" for one in text)
    return text if odd <= 0.01 * len(text) else None


# Control characters, without and with those that UTF-8 text has too.
CONTROLS, LOW = bytes({*range(32)} - {*b"\t\n\f\r"}), bytes(range(32))


def _is_regular(head: bytes, encoding: str, text: str) -> bool:
    """Whether the bytes of a text of UTF-16 are that rather than UTF-8 with some NUL characters."""
    high, low = (head[1::2], head[::2]) if encoding == "utf-16le" else (head[::2], head[1::2])
    controls, low_controls = (len(half) - len(half.translate(None, CONTROLS)) for half in (high, low))
    if len(text) > 1 and controls and len(high.translate(None, LOW)) <= 0.1 * len(high):
        # Scripts of the first 8192 characters, as Latin, Arabic, Hindi and Thai: often they are UTF-8 as well.
        return low_controls < controls or _decoded(head, "utf-8") is None
    if head.count(0) > 1 and high.count(0) and controls >= 0.3 * len(high) and low_controls <= 0.1 * controls:
        return True
    if high.count(0) >= max(16, 0.04 * len(high)) and low.count(0) <= 0.1 * high.count(0):
        return True
    # Line ends of two bytes each, in text that is no UTF-8.
    wide_ends = 2 * text.count("\n") > head.count(b"\n")
    return _decoded(head, "utf-8") is None and 0 in head and (wide_ends or b"\n" not in head)


def _text_records(lines: Iterable) -> Iterator[Record]:
    for number, line, reason in lines:
        yield number, [None if reason else line.removesuffix("\n").removesuffix("\r")], reason


class _Cells:
    """The cells of the records of CSV. Which lines one came from, and what of them is not UTF-8, is here after it."""

    def __init__(self, lines: _Lines, dialect: Dialect):
        self.lines, self.beginning = lines, ""
        self.undecodable: list[str] = []
        quoting = {} if dialect.quoted else {"quoting": csv.QUOTE_NONE, "quotechar": None}
        self._reader = csv.reader(self._texts(), delimiter=dialect.delimiter, strict=True, **quoting)

    def _texts(self) -> Iterator[str]:
        for _, line, reason in self.lines:
            if not self.beginning and line.strip():
                self.beginning = line
            if reason:
                self.undecodable.append(reason)
            yield line

    def __iter__(self) -> "_Cells":
        return self

    def __next__(self) -> list[str]:
        """Raises csv.Error for a record that cannot be told apart."""
        self.undecodable.clear()
        return next(self._reader)


def _csv_header(place: Place, cells: _Cells, columns: list[Column], delimiter: str) -> list[str]:
    """The names in the first line that is not blank.

    Raises:
        UserError: there is none, or it has not all of the columns.
    """
    try:
        header = next(filter(None, cells), None)
    except csv.Error as error:
        guess = _other_delimiter(cells.beginning, delimiter, columns)
        raise UserError(
            f"{place} line {cells.lines.number}: this is not valid CSV: {str(error).partition(' - ')[0]}. {guess or UNQUOTED + '.'}"
        ) from None
    if header is None:
        raise UserError(f"{place} is empty: expected a header line that names its columns.")
    if cells.undecodable:
        raise UserError(f"{place} line 1: {cells.undecodable[0]}. {advice(place, cells.undecodable[0])}")
    for column in columns:
        if column.name not in header:
            raise missing(place, header, column.name, _other_delimiter(cells.beginning, delimiter, columns) or RENAME)
    return header


def _csv_records(
    place: Place, cells: _Cells, header: list[str], columns: list[Column], is_tsv: bool
) -> Iterator[Record]:
    picked = [position(place, header, column.name) for column in columns]
    nothing = [None] * len(columns)
    last_line = cells.lines.number
    while True:
        try:
            row, broken = next(cells, None), None
        except csv.Error as error:
            row, broken = nothing, f"this is not valid CSV: {error}"
        if row is None:
            return
        first, last_line = last_line + 1, cells.lines.number
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
        if broken:
            yield first, nothing, broken
        elif len(row) == len(header):
            yield first, *_csv_values([row[i] for i in picked], cells.undecodable[0] if cells.undecodable else None)
        elif row:  # a blank line between records is no record, as in every CSV reader
            yield first, nothing, f"expected {len(header)} columns ({_shown(header)}), found {len(row)}"


def _other_delimiter(line: str, delimiter: str, columns: list[Column]) -> str | None:
    """What to type where another character separates the columns of a header; None where none seems to."""
    for other, typed in GUESSES.items():
        names = [name.strip().strip('"') for name in line.split(other)]
        if other != delimiter and len(names) > 1 and any(column.name in names for column in columns):
            return f"They look separated by {'a tab' if other == TAB else typed}: for a corpus, give corpus.delimiter={typed}; a suite, save with {'commas' if delimiter == ',' else 'tabs'}."
    return None


def _csv_values(values: list[str], undecodable: str | None) -> tuple[list, str | None]:
    """The values of a row, null where one is not UTF-8, and what is wrong with them."""
    if undecodable is None:
        return values, None
    sound = [None if is_broken(value) else value for value in values]
    return sound, undecodable if None in sound else None


def _shown(names: list[str]) -> str:
    return ", ".join(name.encode("utf-8", "replace").decode() for name in names)


def _json_records(
    place: Place, lines: Iterable, columns: list[Column], keys: dict[str, None] | None
) -> Iterator[Record]:
    names = {column.name for column in columns}
    seen: dict[str, None] = {} if keys is None else keys
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
        if not seen.keys() >= record.keys():
            seen.update((key, None) for key in record if key in names or len(seen) < SHOWN_KEYS)
        values, wrong = [], None
        for column in columns:
            value = record.get(column.name)
            if type(value) is not str or not value.isascii():  # most are sound, and need no look
                value, reason = _json_value(value, column)
                wrong = wrong or reason
            values.append(value)
        yield number, values, wrong
    if keys is None and seen:
        # Any object may leave a key out (null); one that all of them lack is a wrong name.
        for column in columns:
            position(place, list(seen), column.name)


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


def _json_value(value, column: Column, depth: int = 0) -> tuple[object, str | None]:
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
        if depth == DEEPEST:
            return None, f"{name!r} is nested more than {DEEPEST} deep"
        inner = [value] if isinstance(value, list) else [list(value), list(value.values())]
        reasons = (_json_value(item, column, depth + 1)[1] for items in inner for item in items)
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


# What a reason says of a file that cannot be of an encoding of single bytes.
WITH_NUL = ", in a file that begins with NUL bytes too"

# What reads cells in which a quote is a character like any other.
UNQUOTED = "Where a quote is a character like any other, give corpus.quoting=none"


def advice(place: Place, reason: str) -> str:
    """What to do about a bad row."""
    if reason.startswith("expected UTF-8, "):
        if reason.endswith(WITH_NUL):
            # No text of Latin 1 holds a NUL: it would only hide what the file is.
            return f"Find out its encoding, such as utf-16le, and convert it: {_command(place, 'iconv -f <encoding> -t utf-8', 'utf8')}"
        return f"Convert the file first: {_command(place, 'iconv -f latin1 -t utf-8', 'utf8')}"
    if "columns (" in reason or "not valid CSV" in reason:
        return f'Quote cells that hold the delimiter or a quote, and write a quote in them twice (""). {UNQUOTED}.'
    return ""
