"""What files of lines have in common."""

import contextlib
import io
import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from steps.common.corpus.readers.encoding import wide_encoding
from steps.common.corpus.readers.format import Format, Request, refuse_archive, refuse_excel, split_name
from steps.common.corpus.rows import Column, Kind, Mark, Rows
from steps.common.errors import UserError, first_line
from steps.common.storage.place import Place, reaching
from steps.common.storage.stream import open_bytes

# A row: its line, a value for each column that is asked for, and what is wrong with it, if anything.
Record = tuple[int, list[Any], str | None]

# What a compressed file begins with.
MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}

# What a zip archive begins with, as a workbook of Excel is one, and a workbook of before 2007.
ZIP, OLD_EXCEL = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

# Bytes at the beginning of a file that its encoding is guessed from.
HEAD = 1 << 16

# A chunk of rows ends at this many characters, even before it has all its rows.
CHUNK_CHARACTERS = 8_000_000

# Ends the reason in a file that no encoding of single bytes explains.
WITH_NUL = ", in a file that begins with NUL bytes too"

# Commands that decompress a file to stdout.
UNPACK = {"gz": "gzip -dc", "bz2": "bzip2 -dc", "xz": "xz -dc", "zst": "zstd -dc"}

TR = "tr '\\r' '\\n'"


class Lines:
    """Number and text of every line, with its end, and what is wrong with it. A byte order mark is dropped.

    Bytes that are not UTF-8 become surrogates, so that the line can still be cut into cells. `number`: of the last line.
    """

    def __init__(self, place: Place, stream: io.BufferedReader, has_nul: bool, before: int = 0):
        """`has_nul`: the file begins with NUL bytes among others. `before`: lines of the file before the stream."""
        self.place, self.number = place, before
        self._stream, self._has_nul = stream, has_nul

    def __iter__(self) -> Iterator[tuple[int, str, str | None]]:
        for raw in self._stream:
            self.number += 1
            if self.number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield self.number, raw.decode("utf-8"), None
            except UnicodeDecodeError as error:
                if self.number == 1:
                    _check_magic(self.place, raw)
                found = f"byte 0x{raw[error.start]:02x} at position {error.start + 1} of line {self.number}"
                reason = f"expected UTF-8, found {found}{WITH_NUL if self._has_nul else ''}"
                yield self.number, raw.decode("utf-8", "surrogateescape"), reason


class LineFormat(Format):
    """A format whose files are read line by line, which makes records of the lines."""

    kind = Kind.cells

    def read_records(self, lines: Lines, request: Request, header: Any) -> Iterator[Record]:
        """The records of a file, or of the rest of one from a mark on. `header` is what `read_header` has returned."""
        raise NotImplementedError

    def read_header(self, lines: Lines, request: Request) -> Any:
        """What the first lines say about the others. They are read even when reading begins at a mark."""

    def check_head(self, place: Place, head: bytes) -> None:
        """Raises UserError where the first bytes show UTF-16, UTF-32, or lines that end in a carriage return alone."""
        check_encoding(place, head)
        # A text may hold a carriage return.
        check_line_ends(place, head, head.count(b"\r") - 1)

    def find_type(self, values: list[Any], column: Column) -> pa.DataType:
        """The type of some values of a column. Raises ValueError where they share none."""
        return pa.string()

    def advise(self, place: Place, reason: str) -> str:
        if not reason.startswith("expected UTF-8, "):
            return ""
        if reason.endswith(WITH_NUL):
            # No text of Latin 1 holds a NUL: it would only hide what the file is.
            return f"Find out its encoding, such as utf-16le, and convert it: {to_convert(place, 'iconv -f <encoding> -t utf-8', 'utf8')}"
        return f"Convert the file first: {to_convert(place, 'iconv -f latin1 -t utf-8', 'utf8')}"

    def read(self, request: Request) -> Iterator[Rows]:
        place, mark, compression = request.place, request.mark, split_name(request.place.name)[1]
        with reaching(place), contextlib.ExitStack() as opened:
            buffer = HEAD if mark.position else None
            stream = opened.enter_context(open_bytes(place, compression, request.digest, buffer=buffer))
            check_archive(place, stream.peek(1))
            self.check_head(place, stream.peek(1))
            has_nul = 0 in stream.peek(1)[:HEAD]
            lines = Lines(place, stream, has_nul)
            header = self.read_header(lines, request)
            if mark.position:
                stream = opened.enter_context(open_bytes(place, start=mark.position))
                lines = Lines(place, stream, has_nul, mark.lines)

            def find_mark(row: int) -> Mark | None:
                return Mark(row, stream.tell(), lines.number) if compression is None else None

            # Rows before the first are read, since only their reader knows where each ends.
            records = itertools.islice(self.read_records(lines, request, header), request.first - mark.row, None)
            yield from self._join(records, request, find_mark)

    def _join(
        self, records: Iterable[Record], request: Request, find_mark: Callable[[int], Mark | None]
    ) -> Iterator[Rows]:
        """Records as arrays, cut at `size` rows and where texts are long."""

        def to_rows(after: Mark | None) -> Rows:
            arrays = [self._to_array(request.place, *one) for one in zip(request.columns, values)]
            return Rows(arrays, pa.array(lines, pa.int64()), reasons, after)

        values: list[list[Any]] = [[] for _ in request.columns]
        lines: list[int] = []
        reasons: dict[int, str] = {}
        row, characters = request.first, 0
        for line, record, reason in records:
            for held, value in zip(values, record):
                held.append(value)
                characters += len(value) if isinstance(value, str) else 0
            if reason is not None:
                reasons[len(lines)] = reason
            lines.append(line)
            if len(lines) == request.size or characters >= CHUNK_CHARACTERS:
                row += len(lines)
                yield to_rows(find_mark(row))
                values, lines, reasons, characters = [[] for _ in request.columns], [], {}, 0
        if lines:
            yield to_rows(None)

    def _to_array(self, place: Place, column: Column, values: list[Any]) -> pa.Array:
        try:
            return pa.array(values, self.find_type(values, column))
        except (pa.ArrowException, OverflowError, ValueError) as error:
            raise UserError(
                f"column {column.name!r} of {place} holds values of several types: {first_line(error)}. Write them as one type, or as strings."
            ) from None


def _check_magic(place: Place, raw: bytes) -> None:
    """Raises UserError for a compressed file whose name does not say so."""
    for magic, ending in MAGIC.items():
        if raw.startswith(magic):
            raise UserError(
                f"{place} line 1: expected text, found a compressed file. Give it a name that says so: {place.name}{ending}"
            )


def check_archive(place: Place, head: bytes) -> None:
    """Raises UserError for a workbook of Excel or another archive, whatever its name says."""
    if head.startswith(OLD_EXCEL) or (head.startswith(ZIP) and (b"[Content_Types].xml" in head or b"xl/" in head)):
        raise refuse_excel(place)
    if head.startswith(ZIP):
        raise refuse_archive(place)


def check_encoding(place: Place, head: bytes) -> None:
    """Raises UserError for a file of UTF-16 or UTF-32."""
    encoding = wide_encoding(head[:HEAD])
    if encoding is not None:
        said = encoding.upper().removesuffix("LE").removesuffix("BE")
        raise UserError(
            f"{place} line 1: expected UTF-8, found {said}. Convert the file first: {to_convert(place, f'iconv -f {encoding} -t utf-8', 'utf8')}"
        )


def check_line_ends(place: Place, head: bytes, carriage_returns: int) -> None:
    """Raises UserError for a file that begins with no \\n, but with carriage returns that look like ends of lines."""
    if b"\n" not in head and carriage_returns > 0:
        raise UserError(
            f"{place} line 1: expected lines that end in \\n, found \\r alone. Convert the file first: {to_convert(place, TR, 'lf')}"
        )


def to_convert(place: Place, convert: str, prefix: str) -> str:
    """What to type to convert a file, into one of another name beside it; what is compressed comes out as it is."""
    name, compression = place.name, split_name(place.name)[1]
    # A file that is elsewhere has to be fetched first.
    folder, source = ("", name) if place.local is None else (place.path.removesuffix(name), place.path)
    source = shlex.quote(source)
    if compression is not None:
        made = shlex.quote(f"{folder}{prefix}-{name.rpartition('.')[0]}")
        return f"{UNPACK[compression]} {source} | {convert} > {made}"
    return f"{convert} {'< ' if convert is TR else ''}{source} > {shlex.quote(f'{folder}{prefix}-{name}')}"


def is_broken(text: str) -> bool:
    """Whether a string holds a surrogate, which UTF-8 cannot."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
