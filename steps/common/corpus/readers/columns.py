"""What files with typed columns have in common."""

from collections.abc import Iterator

import pyarrow as pa

from steps.common.corpus.rows import Column, Rows, position
from steps.common.corpus.types import without_views
from steps.common.errors import UserError
from steps.common.storage.place import Place

# Bytes of text after which rows are handed on, however few they are.
CHUNK_BYTES = 32_000_000


def slices(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    """Cut a batch at `size` rows, and where rows are long: a slice copies nothing, but what is made of it does."""
    # Sound, or what is read of it may be outside its memory.
    batch.validate()
    while batch.num_rows:
        rows = min(size, batch.num_rows)
        while rows > 1 and batch.slice(0, rows).nbytes > CHUNK_BYTES:
            rows = (rows + 1) // 2
        yield batch.slice(0, rows)
        batch = batch.slice(rows)


def columnar_chunk(batch: pa.RecordBatch, columns: list[Column]) -> Rows:
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


def check_schema(place: Place, schema: pa.Schema, columns: list[Column]) -> None:
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
