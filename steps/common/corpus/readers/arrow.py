"""Arrow and Feather files."""

from collections.abc import Callable, Iterator

import pyarrow as pa

from steps.common.corpus.readers.columns import check_schema
from steps.common.corpus.rows import Column
from steps.common.errors import UserError
from steps.common.storage.place import Place

# How an Arrow stream begins (a continuation marker), and how it ends.
STREAM_BEGIN, STREAM_END = b"\xff" * 4, b"\xff" * 4 + bytes(4)


def arrow_batches(place: Place, columns: list[Column], size: int) -> Iterator[pa.RecordBatch]:
    """Both forms of Arrow's own format: the file (also Feather, version 2) and the stream."""
    names = list(dict.fromkeys(column.name for column in columns))
    with place.filesystem.open_input_file(place.path) as source:
        magic = source.read(6)
        source.seek(0)
        if magic[:4] == b"FEA1":
            raise UserError(f"{place} is of Feather version 1; save it again as version 2, or as Parquet.")
        opened: Callable = pa.ipc.open_file if magic == b"ARROW1" else pa.ipc.open_stream
        reader = opened(source)
        check_schema(place, reader.schema, columns)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if magic == b"ARROW1" else reader
        for batch in batches:
            yield batch.select(names)
        if magic == STREAM_BEGIN + magic[4:]:
            _check_end(place, source)


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
