"""What files with typed columns have in common."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from steps.common.corpus.readers.format import Format, Request
from steps.common.corpus.rows import Column, Kind, Mark, Rows, position
from steps.common.corpus.types import is_string, without_views
from steps.common.errors import UserError, first_line
from steps.common.storage.place import Place, reaching

# A chunk of rows ends at this many bytes, even before it has all its rows.
CHUNK_BYTES = 32_000_000

# Some rows of a file, the number of the first, and where the row after them can be read.
Batch = tuple[pa.RecordBatch, int, Mark | None]


class ColumnFormat(Format):
    """A format whose files are read in record batches."""

    kind = Kind.columns

    def read_batches(self, request: Request) -> Iterator[Batch]:
        """All rows from the mark on, or from another place before the first row asked for, with at least the columns
        asked for."""
        raise NotImplementedError

    def read(self, request: Request) -> Iterator[Rows]:
        with reaching(request.place):
            try:
                for batch, row, after in self.read_batches(request):
                    for slice, is_last in _slices(batch, request.size, skip=max(0, request.first - row)):
                        yield replace(_to_rows(slice, request.columns), next=after if is_last else None)
            except (FileNotFoundError, PermissionError):
                raise
            except (pa.ArrowException, OSError, OverflowError, ValueError, MemoryError) as error:
                raise UserError(
                    f"{request.place} is damaged, or is not a {self.name} file: {first_line(error)}."
                ) from None


def names_of(request: Request) -> list[str]:
    """The columns that are asked for, each once."""
    return list(dict.fromkeys(column.name for column in request.columns))


def _slices(batch: pa.RecordBatch, size: int, skip: int) -> Iterator[tuple[pa.RecordBatch, bool]]:
    """Skip rows of a batch and cut the rest: at `size` rows, or earlier where rows are long. With each slice, whether it
    is the last. A slice copies nothing, but what is made of it does."""
    # An unsound batch may point outside its memory.
    batch.validate()
    batch = batch.slice(skip)
    while batch.num_rows:
        rows = min(size, batch.num_rows)
        while rows > 1 and batch.slice(0, rows).nbytes > CHUNK_BYTES:
            rows = (rows + 1) // 2
        yield batch.slice(0, rows), rows == batch.num_rows
        batch = batch.slice(rows)


def _to_rows(batch: pa.RecordBatch, columns: list[Column]) -> Rows:
    reasons: dict[int, str] = {}
    arrays = []
    for column in columns:
        array = batch.column(column.name)
        if pa.types.is_dictionary(array.type):
            array.validate(full=True)
            array = array.cast(array.type.value_type)
        if is_string(array.type):
            array = _sound_strings(array, column.name, reasons)
        else:
            array.validate(full=True)
            array = without_views(array)
        arrays.append(array.cast(pa.string()) if column.kind in ("string", "text") else array)
    return Rows(arrays, None, reasons)


def _sound_strings(array: pa.Array, name: str, reasons: dict[int, str]) -> pa.Array:
    """The strings of an array, null where one is not UTF-8: Arrow itself checks only when asked."""
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
    """Whether every value of a type can be cast to a string."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return False
    try:
        pa.nulls(1, kind).cast(pa.string())
    except pa.ArrowNotImplementedError:
        return False
    return True


def check_schema(place: Place, schema: pa.Schema, columns: list[Column]) -> None:
    """Raises UserError for a file that lacks a column, or has it as a type that cannot be what it is asked for."""
    for column in columns:
        position(place, schema.names, column)
        kind = schema.field(column.name).type
        value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
        if column.kind == "string" and not (is_string(value_type) or pa.types.is_null(value_type)):
            raise UserError(
                f"{place}: expected strings in column {column.name!r}, found {kind}. Name the column of the text with corpus.text_column=..., or make a text of several columns with corpus.template=..."
            )
        if column.kind == "text" and not _is_written(value_type):
            raise UserError(f"{place}: column {column.name!r} is {kind}, which cannot be written into a template.")
