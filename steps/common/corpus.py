"""Files -> streams of Arrow batches with the columns `id` and `text`. Knows neither MLflow nor Hydra.

Text, CSV, TSV and JSON Lines are read by the standard library, line by line: it is many times faster than any
model reads text, needs no more memory for a larger file, and knows the line of every error. `open_corpus` reads
a corpus through once before anything is computed, so that a bad line at the end of a large corpus is reported
in seconds, not after hours.
"""

import contextlib
import csv
import glob
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.errors import UserError
from steps.common.repeats import RepeatCounter

# File name ending -> format.
FORMATS = {
    ".txt": "text", ".text": "text", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip

DELIMITERS = {"csv": ",", "tsv": "\t"}

# A number that is written as itself: no leading zero, no plus sign, within int64.
CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")

# A cell may be as long as a text may be.
csv.field_size_limit(sys.maxsize)


@dataclass(frozen=True)
class Source:
    """One file of a corpus."""

    path: Path
    bytes: int
    rows: int
    null_rows: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """A corpus that was found readable; `batches` streams it, as often as asked."""

    sources: list[Source]
    format: str
    text_column: str
    id_column: str | None
    id_type: pa.DataType
    # Texts that stand in more than one row: hash of the text in this process -> rows.
    repeats: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def null_rows(self) -> int:
        """Rows whose text is null."""
        return sum(source.null_rows for source in self.sources)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("id", self.id_type), ("text", pa.string())])

    def describe(self) -> dict:
        """What a result records of its corpus."""
        return {
            "format": self.format,
            "text_column": self.text_column,
            "id_column": self.id_column,
            "sources": [
                {"path": str(source.path), "bytes": source.bytes, "rows": source.rows, "sha256": source.sha256}
                for source in self.sources
            ],
        }

    def batches(self, size: int) -> Iterator[pa.RecordBatch]:
        """Stream the corpus in its own order, at most `size` rows at a time.

        Raises:
            UserError: a file that can no longer be read as it was when the corpus was opened.
        """
        first = 0
        columns = [self.text_column] if self.id_column is None else [self.text_column, self.id_column]
        for source in self.sources:
            start = first
            for texts, *ids in read_columns(source.path, self.format, columns, size):
                numbers = pa.array(range(first, first + len(texts)), pa.int64())
                id_values = _cast_ids(ids[0], self.id_type, source.path) if ids else numbers
                first += len(texts)
                if first - start > source.rows:
                    break
                yield pa.record_batch([id_values, texts], schema=self.schema)
            if first - start != source.rows:
                raise _changed(source.path, f"it held {source.rows} rows")


def open_corpus(
    path: Path | str, format: str = "auto", text_column: str = "text", id_column: str | None = None
) -> Corpus:
    """Find the files of a corpus and check that every row of them can be read.

    Args:
        path: a file, a folder (its files of a known format, in name order) or a glob.
        format: auto (by the file's ending), text, csv, tsv, jsonl or parquet.

    Raises:
        UserError: no file, an unknown or mixed format, a missing column, bytes that are not UTF-8, a broken
            line, a text that is not a string, or no row at all.
    """
    files = find_files(path, format)
    formats = {detect_format(file) if format == "auto" else format for file in files}
    if len(formats) > 1:
        raise UserError(
            f"{path} holds files of several formats ({', '.join(sorted(formats))}); give corpus.format=<one of them> or a glob such as '{path}/*.csv'."
        )
    kind = formats.pop()
    if kind == "text" and id_column is not None:
        raise UserError(
            f"a text file has no columns, so corpus.id_column={id_column} cannot be read from {files[0]}; leave it out to number the lines."
        )
    counter = RepeatCounter()
    scans = [scan(file, kind, text_column, id_column, counter) for file in files]
    id_type = (
        pa.int64()
        if id_column is None
        else _common_id_type(set().union(*(types for _, types in scans)), kind, path, id_column)
    )
    corpus = Corpus([source for source, _ in scans], kind, text_column, id_column, id_type, counter.repeats())
    if corpus.rows == 0:
        raise UserError(f"the corpus is empty: expected at least one row, found none in {path}.")
    return corpus


def find_files(path: Path | str, format: str = "auto") -> list[Path]:
    """The files that a path, folder or glob names, in name order.

    Raises:
        UserError: there is none.
    """
    text = str(path)
    if Path(text).is_dir():
        files = [
            file for file in sorted(Path(text).rglob("*")) if file.is_file() and not _is_hidden(file.relative_to(text))
        ]
        if format == "auto":
            files = [file for file in files if file.suffix.lower() in FORMATS]
        if not files:
            raise UserError(f"the folder {text} holds no corpus file: expected one that ends in {', '.join(FORMATS)}.")
        return files
    if Path(text).exists():
        return [Path(text)]
    files = sorted(Path(match) for match in glob.glob(text, recursive=True) if Path(match).is_file())
    if not files:
        raise UserError(f"there is no corpus at {text}: expected a file, a folder or a glob that matches files.")
    return files


def _is_hidden(path: Path) -> bool:
    """Whether a part of a relative path starts with . or _, as the leavings of other tools do."""
    return any(part.startswith((".", "_")) for part in path.parts)


def detect_format(path: Path) -> str:
    """The format that a file's ending stands for.

    Raises:
        UserError: an ending that is not known.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UserError(
            f"cannot tell the format of {path} from its ending: expected one of {', '.join(FORMATS)}. "
            "Say it with corpus.format=text, csv, tsv, jsonl or parquet."
        ) from None


def scan(
    path: Path, format: str, text_column: str, id_column: str | None, counter: RepeatCounter
) -> tuple[Source, set[pa.DataType]]:
    """Read a file through: its rows, nulls and digest, and the types its ids were found to have.

    `counter` is shown its texts.
    """
    columns = [text_column] if id_column is None else [text_column, id_column]
    id_types = set()
    rows = nulls = 0
    for texts, *ids in read_columns(path, format, columns, 8192):
        rows += len(texts)
        nulls += texts.null_count
        counter.add(texts.to_pylist())
        if ids:
            id_types.add(_id_type_of_strings(ids[0]) if format in DELIMITERS else ids[0].type)
    with _reading(path), path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Source(path, path.stat().st_size, rows, nulls, digest), id_types


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_columns(path: Path, format: str, columns: list[str], size: int) -> Iterator[list[pa.Array]]:
    """Stream columns of a file, at most `size` rows at a time. The first column is text; in a text file it is the line.

    Raises:
        UserError: what cannot be read, with file and line.
    """
    if format == "parquet":
        yield from _parquet_batches(path, columns, size)
        return
    records = {"text": _text_records, "csv": _csv_records, "tsv": _csv_records, "jsonl": _json_records}[format]
    extra = {"delimiter": DELIMITERS[format]} if format in DELIMITERS else {}
    pending: list[list] = [[] for _ in columns]
    for record in records(path, columns, **extra):
        for values, value in zip(pending, record):
            values.append(value)
        if len(pending[0]) == size:
            yield _to_arrow(path, columns, pending)
            pending = [[] for _ in columns]
    if pending[0]:
        yield _to_arrow(path, columns, pending)


def _to_arrow(path: Path, columns: list[str], pending: list[list]) -> list[pa.Array]:
    arrays = [pa.array(pending[0], pa.string())]
    for name, values in zip(columns[1:], pending[1:]):
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise UserError(f"column {name!r} of {path} holds values of several types: {_first_line(error)}.") from None
    return arrays


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line, without its end. A byte order mark is dropped."""
    with _reading(path), path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise UserError(
                        f"{path} line 1: expected UTF-8, found UTF-16. Convert the file first: iconv -f utf-16 -t utf-8 {path.name} > utf8-{path.name}"
                    ) from None
                raise UserError(
                    f"{path} line {number}: expected UTF-8, found byte 0x{raw[error.start]:02x} at position {error.start + 1} of the line. "
                    f"Convert the file first: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}"
                ) from None


def _text_records(path: Path, columns: list[str]) -> Iterator[tuple[str]]:
    for _, line in _lines(path):
        yield (line.removesuffix("\n").removesuffix("\r"),)


def _csv_records(path: Path, columns: list[str], delimiter: str) -> Iterator[tuple]:
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise UserError(f"{path} is empty: expected a header line that names its columns.")
        picked = [_position(path, header, name) for name in columns]
        last_line = reader.line_num
        for row in reader:
            if delimiter == "\t" and reader.line_num > last_line + 1:
                # Most TSV files quote nothing, so this is a stray quote that would swallow rows.
                raise UserError(
                    f"{path} line {last_line + 1}: a cell that starts with a quote runs over several lines, which TSV does not have. Remove the quote, or save the file as CSV."
                )
            last_line = reader.line_num
            if len(row) != len(header):
                if not row:
                    continue  # a blank line between records is no record, as in every CSV reader
                raise UserError(
                    f"{path} line {reader.line_num}: expected {len(header)} columns ({', '.join(header)}), found {len(row)}. Quote cells that hold the delimiter."
                )
            yield tuple(row[i] for i in picked)
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: this is not valid CSV: {error}.") from None


def _position(path: Path, names: list[str], wanted: str) -> int:
    if names.count(wanted) > 1:
        raise UserError(f"{path} has {names.count(wanted)} columns named {wanted!r}; expected one. Rename the others.")
    if wanted not in names:
        raise UserError(
            f"{path} has no column {wanted!r}; its columns are {', '.join(map(repr, names))}. Name the right one, with corpus.text_column=... or corpus.id_column=... for a corpus, suite.sentence1=..., suite.sentence2=... or suite.score=... for a suite."
        )
    return names.index(wanted)


def _json_records(path: Path, columns: list[str]) -> Iterator[tuple]:
    checked = False
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number}: expected one JSON object a line; {error}.") from None
        except RecursionError:
            raise UserError(f"{path} line {number}: the JSON object is nested too deeply.") from None
        if not isinstance(record, dict):
            raise UserError(f"{path} line {number}: expected a JSON object, found {type(record).__name__}.")
        if not checked:
            # A key that the first object lacks is a wrong name; later objects may leave it out (null).
            for name in columns:
                _position(path, list(record), name)
            checked = True
        values = tuple(record.get(name) for name in columns)
        if values[0] is not None and not isinstance(values[0], str):
            raise UserError(
                f"{path} line {number}: expected a string in {columns[0]!r}, found {type(values[0]).__name__} {str(values[0])[:40]!r}."
            )
        for name, value in zip(columns, values):
            _check_value(path, number, name, value)
        yield values


def _check_value(path: Path, number: int, column: str, value) -> None:
    if isinstance(value, (dict, list)):
        raise UserError(
            f"{path} line {number}: expected a string or a number in {column!r}, found {type(value).__name__}."
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(
            f"{path} line {number}: {column!r} is {str(value)[:40]}, which 64 bits cannot hold. Write it as a string."
        )
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"{path} line {number}: {column!r} holds half a character (a lone surrogate), which no UTF-8 text can hold."
            ) from None


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {_first_line(error)}.") from None


def _parquet_columns(path: Path, file: pq.ParquetFile, columns: list[str]) -> None:
    for name in columns:
        _position(path, file.schema_arrow.names, name)
    kind = file.schema_arrow.field(columns[0]).type
    value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (
        pa.types.is_string(value_type)
        or pa.types.is_large_string(value_type)
        or pa.types.is_string_view(value_type)
        or pa.types.is_null(value_type)
    ):
        raise UserError(
            f"{path}: expected strings in column {columns[0]!r}, found {kind}. Name the column of the text with corpus.text_column=..."
        )


def _parquet_batches(path: Path, columns: list[str], size: int) -> Iterator[list[pa.Array]]:
    file = _open_parquet(path)
    _parquet_columns(path, file, columns)
    try:
        for batch in file.iter_batches(batch_size=size, columns=columns):
            batch.validate(full=True)  # text that is not UTF-8 would pass until something decodes it
            yield [batch.column(columns[0]).cast(pa.string()), *(batch.column(name) for name in columns[1:])]
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is damaged: {_first_line(error)}.") from None


def _id_type_of_strings(values: pa.Array) -> pa.DataType:
    """int64 when every id is a number written as itself, so that '007' stays '007'."""
    return pa.int64() if all(CANONICAL_INTEGER.fullmatch(value) for value in values.to_pylist()) else pa.string()


def _common_id_type(types: set[pa.DataType], format: str, path: Path | str, id_column: str) -> pa.DataType:
    """The one type of all ids. Those of CSV files that are not all numbers are strings."""
    known = {t for t in types if not pa.types.is_null(t)}
    if len(known) == 1:
        return known.pop()
    if not known or format in DELIMITERS or all(pa.types.is_string(t) or pa.types.is_large_string(t) for t in known):
        return pa.string()
    if all(pa.types.is_integer(t) for t in known) and pa.uint64() not in known:
        return pa.int64()
    names = " and ".join(sorted(map(str, known)))
    raise UserError(
        f"the ids in column {id_column!r} of {path} are of several types ({names}); expected one. Write them all as strings, or leave corpus.id_column out."
    )


def _cast_ids(values: pa.Array, id_type: pa.DataType, path: Path) -> pa.Array:
    try:
        return values if values.type == id_type else values.cast(id_type)
    except pa.ArrowInvalid as error:
        raise _changed(path, _first_line(error)) from None


def _changed(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} has changed since it was opened: {what}. Run the step again on files that stay as they are."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
