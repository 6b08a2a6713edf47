"""What files of lines have in common."""

import codecs
import csv
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from steps.common.corpus.readers.formats import split_name
from steps.common.corpus.rows import Column, Rows
from steps.common.corpus.types import EXACT_INTEGER
from steps.common.errors import UserError
from steps.common.storage.place import Place, first_line

# What a compressed file begins with.
MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}

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

# Formats of lines. A record is (line, values, reason); without a reason the values are good.
Record = tuple[int, list, str | None]


def chunks(place: Place, records: Iterable[Record], columns: list[Column], size: int, format: str) -> Iterator[Rows]:
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
            yield _to_arrow(place, columns, values, lines, reasons, format)
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


def lines(place: Place, stream, has_nul: bool) -> Iterator[tuple[int, str, str | None]]:
    """Number and text of every line, without its end, and what is wrong with it. A byte order mark is dropped.

    Bytes that are not UTF-8 become surrogates, so that the line can still be cut into cells. has_nul: whether the file
    begins with bytes of which some are NUL.
    """
    for number, raw in enumerate(stream, start=1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            yield number, raw.decode("utf-8"), None
        except UnicodeDecodeError as error:
            if number == 1:
                _check_beginning(place, raw)
            found = f"byte 0x{raw[error.start]:02x} at position {error.start + 1} of line {number}"
            reason = f"expected UTF-8, found {found}{WITH_NUL if has_nul else ''}"
            yield number, raw.decode("utf-8", "surrogateescape"), reason


def _check_beginning(place: Place, raw: bytes) -> None:
    """Raises UserError for a compressed file whose name does not say so."""
    for magic, ending in MAGIC.items():
        if raw.startswith(magic):
            raise UserError(
                f"{place} line 1: expected text, found a compressed file. Give it a name that says so: {place.name}{ending}"
            )


def check_head(place: Place, format: str, head: bytes) -> None:
    """Look at the bytes that a file begins with, before they are cut into lines.

    Raises:
        UserError: a file of UTF-16 or UTF-32, or one whose lines end in a carriage return alone.
    """
    encoding = wide_encoding(head[:HEAD])
    if encoding is not None:
        said = encoding.upper().removesuffix("LE").removesuffix("BE")
        raise UserError(
            f"{place} line 1: expected UTF-8, found {said}. Convert the file first: {command(place, f'iconv -f {encoding} -t utf-8', 'utf8')}"
        )
    # A text may hold a carriage return, and one line of JSON may be laid out with them.
    ends = len(re.findall(rb"\}\s*\r\s*\{", head)) if format == "jsonl" else head.count(b"\r") - 1
    if b"\n" not in head and ends > 0:
        raise UserError(
            f"{place} line 1: expected lines that end in \\n, found \\r alone. Convert the file first: {command(place, TR, 'lf')}"
        )


TR = "tr '\\r' '\\n'"

JQ = "jq -c '.[]'"

# What writes a compressed file out.
UNPACK = {"gz": "gzip -dc", "bz2": "bzip2 -dc", "xz": "xz -dc", "zst": "zstd -dc"}


def command(place: Place, convert: str, prefix: str) -> str:
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


def other_delimiter(line: str, delimiter: str, columns: list[Column]) -> str | None:
    """What to type where another character separates the columns of a header; None where none seems to."""
    for other, typed in GUESSES.items():
        names = [name.strip().strip('"') for name in line.split(other)]
        if other != delimiter and len(names) > 1 and any(column.name in names for column in columns):
            return f"They look separated by {'a tab' if other == TAB else typed}: for a corpus, give corpus.delimiter={typed}; a suite, save with {'commas' if delimiter == ',' else 'tabs'}."
    return None


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
