"""Rows of files that hold columns: Parquet, Arrow and Feather, ORC. Knows neither MLflow nor Hydra."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.column_types import without_views
from steps.common.errors import UserError
from steps.common.files import BUFFER, Place, first_line
from steps.common.rows import BEGINNING, Column, Mark, Rows, position

# Bytes of text after which rows are handed on, however few they are.
CHUNK_BYTES = 32_000_000


def columnar_rows(
    place: Place, format: str, columns: list[Column], size: int, first: int = 0, mark: Mark = BEGINNING
) -> Iterator[Rows]:
    """The rows of a file from row `first` on; `mark` is a place at or before it."""
    batches = {"parquet": _parquet_batches, "arrow": _arrow_batches, "orc": _orc_batches}[format]
    try:
        for batch, row, after in batches(place, columns, size, first, mark):
            for slice, is_last in _slices(batch, size, skip=max(0, first - row)):
                yield replace(_columnar_chunk(slice, columns), next=after if is_last else None)
    except FileNotFoundError:
        raise UserError(f"there is nothing at {place} (any more). Check its spelling, or bring it back.") from None
    except PermissionError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}.") from None
    except (pa.ArrowException, OSError, OverflowError, ValueError, MemoryError) as error:
        raise UserError(f"{place} is damaged, or no file of {format}: {first_line(error)}.") from None


def _slices(batch: pa.RecordBatch, size: int, skip: int) -> Iterator[tuple[pa.RecordBatch, bool]]:
    """Cut a batch behind its first rows at `size` rows, and where rows are long: a slice copies nothing, but what is made
    of it does. With each, whether it is the last."""
    # Sound, or what is read of it may be outside its memory.
    batch.validate()
    batch = batch.slice(skip)
    while batch.num_rows:
        rows = min(size, batch.num_rows)
        while rows > 1 and batch.slice(0, rows).nbytes > CHUNK_BYTES:
            rows = (rows + 1) // 2
        yield batch.slice(0, rows), rows == batch.num_rows
        batch = batch.slice(rows)


def _columnar_chunk(batch: pa.RecordBatch, columns: list[Column]) -> Rows:
    reasons: dict[int, str] = {}
    arrays = []
    for column in columns:
        array = batch.column(column.name)
        if pa.types.is_dictionary(array.type):
            array.validate(full=True)
            array = array.cast(array.type.value_type)
        if _is_string(array.type):
            array = _sound_strings(array, column.name, reasons)
        else:
            array.validate(full=True)
            array = without_views(array)
        arrays.append(array.cast(pa.string()) if column.kind in ("string", "text") else array)
    return Rows(arrays, None, reasons)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _sound_strings(array: pa.Array, name: str, reasons: dict[int, str]) -> pa.Array:
    """The strings of an array, null where one is not UTF-8: Arrow itself looks only when asked."""
    try:
        array.validate(full=True)
        return array
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
    values = []
    for row, raw in enumerate(array.cast(pa.large_binary())):
        try:
            values.append(None if raw.as_py() is None else raw.as_py().decode("utf-8"))
        except UnicodeDecodeError as error:
            bad = raw.as_py()[error.start]
            reasons.setdefault(row, f"expected UTF-8 in {name!r}, found byte 0x{bad:02x} at position {error.start + 1}")
            values.append(None)
    return pa.array(values, array.type)


def _is_written(kind: pa.DataType) -> bool:
    """Whether values of a type can be cast to strings, whatever they are."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return False
    try:
        pa.nulls(1, kind).cast(pa.string())
    except pa.ArrowNotImplementedError:
        return False
    return True


def _check_schema(place: Place, schema: pa.Schema, columns: list[Column]) -> None:
    for column in columns:
        position(place, schema.names, column.name)
        kind = schema.field(column.name).type
        value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
        if column.kind == "string" and not (_is_string(value_type) or pa.types.is_null(value_type)):
            raise UserError(
                f"{place}: expected strings in column {column.name!r}, found {kind}. Name the column of the text with corpus.text_column=..., or make a text of several columns with corpus.template=..."
            )
        if column.kind == "text" and not _is_written(value_type):
            raise UserError(f"{place}: column {column.name!r} is {kind}, which cannot be written into a template.")


# Some rows of a file, the number of the first, and where the row after them can be read.
Batch = tuple[pa.RecordBatch, int, Mark | None]


def _parquet_batches(place: Place, columns: list[Column], size: int, first: int, mark: Mark) -> Iterator[Batch]:
    """From the row group on that row `first` is in: the end of the file says where each begins, and needs no marks."""
    names = list(dict.fromkeys(column.name for column in columns))
    with place.filesystem.open_input_file(place.path) as source:
        # A buffer, or a whole column of a row group would be read at once.
        file = pq.ParquetFile(source, buffer_size=BUFFER)
        _check_schema(place, file.schema_arrow, columns)
        group = rows = 0
        while group < file.num_row_groups and rows + file.metadata.row_group(group).num_rows <= first:
            rows += file.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, file.num_row_groups))
        for batch in file.iter_batches(batch_size=_rows_at_once(file, size), row_groups=groups, columns=names):
            yield batch, rows, None
            rows += batch.num_rows
        if rows != file.metadata.num_rows:
            raise UserError(f"{place} is damaged: it holds {rows} rows, and says {file.metadata.num_rows}.")


def _rows_at_once(file: pq.ParquetFile, size: int) -> int:
    """Rows to decode at a time: `size`, or fewer where they are long.

    By row group, all columns together: to look at a column's own size ends the process where its statistics are damaged.
    """
    longest = 1.0
    for group in (file.metadata.row_group(i) for i in range(file.num_row_groups)):
        longest = max(longest, group.total_byte_size / max(group.num_rows, 1))
    return max(1, min(size, int(CHUNK_BYTES / longest)))


def _arrow_batches(place: Place, columns: list[Column], size: int, first: int, mark: Mark) -> Iterator[Batch]:
    """Both forms of Arrow's own format: the file (also Feather, version 2) and the stream, which has no marks."""
    names = list(dict.fromkeys(column.name for column in columns))
    with place.filesystem.open_input_file(place.path) as source:
        magic = source.read(6)
        source.seek(0)
        if magic[:4] == b"FEA1":
            raise UserError(f"{place} is of Feather version 1; save it again as version 2, or as Parquet.")
        is_file = magic == b"ARROW1"
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        _check_schema(place, reader.schema, columns)
        row, start = mark.row, mark.position
        batches = map(reader.get_batch, range(start, reader.num_record_batches)) if is_file else reader
        for number, batch in enumerate(batches, start=start + 1):
            end = row + batch.num_rows
            yield batch.select(names), row, Mark(end, number) if is_file else None
            row = end
        if magic == STREAM_BEGIN + magic[4:]:
            _check_end(place, source)


# How an Arrow stream begins (a continuation marker), and how it ends.
STREAM_BEGIN, STREAM_END = b"\xff" * 4, b"\xff" * 4 + bytes(4)


def _check_end(place: Place, source: pa.NativeFile) -> None:
    """pyarrow takes a stream that breaks off between two batches for a whole one, and reads the first of several only.

    Raises:
        UserError: the file does not end where the stream does.
    """
    end = source.tell()
    source.seek(max(0, end - len(STREAM_END)))
    if source.read(len(STREAM_END)) != STREAM_END:
        raise UserError(f"{place} is damaged: it breaks off before its end.")
    if source.read(1):
        raise UserError(
            f"{place} holds more than one Arrow stream, or something behind it. Write one stream to a file."
        )


def _orc_batches(place: Place, columns: list[Column], size: int, first: int, mark: Mark) -> Iterator[Batch]:
    from pyarrow import orc

    names = list(dict.fromkeys(column.name for column in columns))
    with place.filesystem.open_input_file(place.path) as source:
        file = orc.ORCFile(source)
        _check_schema(place, file.schema, columns)
        row = mark.row
        for stripe in range(mark.position, file.nstripes):
            batch = file.read_stripe(stripe, columns=names)
            yield batch, row, Mark(row + batch.num_rows, stripe + 1)
            row += batch.num_rows
