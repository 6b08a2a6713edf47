"""Parquet files."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.corpus.readers.columns import CHUNK_BYTES, check_schema
from steps.common.corpus.rows import Column
from steps.common.errors import UserError
from steps.common.storage.place import Place
from steps.common.storage.stream import BUFFER


def parquet_batches(place: Place, columns: list[Column], size: int) -> Iterator[pa.RecordBatch]:
    names = list(dict.fromkeys(column.name for column in columns))
    with place.filesystem.open_input_file(place.path) as source:
        # A buffer, or a whole column of a row group would be read at once.
        file = pq.ParquetFile(source, buffer_size=BUFFER)
        check_schema(place, file.schema_arrow, columns)
        rows = 0
        for batch in file.iter_batches(batch_size=_rows_at_once(file, size), columns=names):
            rows += batch.num_rows
            yield batch
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
