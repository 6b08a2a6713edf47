"""Arrow and Feather files."""

from collections.abc import Iterator

import pyarrow as pa

from steps.common.corpus.readers.columns import Batch, ColumnFormat, check_schema, names_of
from steps.common.corpus.readers.format import Request
from steps.common.corpus.rows import Mark
from steps.common.errors import UserError
from steps.common.storage.place import Place

# How an Arrow stream begins (a continuation marker), and how it ends.
STREAM_BEGIN, STREAM_END = b"\xff" * 4, b"\xff" * 4 + bytes(4)


def _check_end(place: Place, source: pa.NativeFile) -> None:
    """Raises UserError where a file does not end where its stream does.

    pyarrow takes a stream that breaks off between two batches for complete, and reads only the first of several.
    """
    end = source.tell()
    source.seek(max(0, end - len(STREAM_END)))
    if source.read(len(STREAM_END)) != STREAM_END:
        raise UserError(f"{place} is damaged: it breaks off before its end.")
    if source.read(1):
        raise UserError(
            f"{place} holds more than one Arrow stream, or other bytes after it. Write one stream to a file."
        )


class Arrow(ColumnFormat):
    name, endings = "arrow", (".arrow", ".feather", ".ipc", ".arrows")

    def read_batches(self, request: Request) -> Iterator[Batch]:
        """Both forms of Arrow's own format: the file (also Feather, version 2) and the stream, which has no marks."""
        place, names = request.place, names_of(request)
        with place.filesystem.open_input_file(place.path) as source:
            magic = source.read(6)
            source.seek(0)
            if magic[:4] == b"FEA1":
                raise UserError(f"{place} is of Feather version 1; save it again as version 2, or as Parquet.")
            is_file = magic == b"ARROW1"
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            check_schema(place, reader.schema, request.columns)
            row, start = request.mark.row, request.mark.position
            batches = map(reader.get_batch, range(start, reader.num_record_batches)) if is_file else reader
            for number, batch in enumerate(batches, start=start + 1):
                end = row + batch.num_rows
                yield batch.select(names), row, Mark(end, number) if is_file else None
                row = end
            if magic == STREAM_BEGIN + magic[4:]:
                _check_end(place, source)


FORMAT = Arrow()
