"""Parquet files."""

from collections.abc import Iterator

import pyarrow.parquet as pq

from steps.common.corpus.readers.columns import CHUNK_BYTES, Batch, ColumnFormat, check_schema, names_of
from steps.common.corpus.readers.format import Request
from steps.common.errors import UserError
from steps.common.storage.stream import BUFFER


def _rows_at_once(file: pq.ParquetFile, size: int) -> int:
    """Rows to decode at a time: `size`, or fewer where they are long.

    By the size of whole row groups: reading the size of one column crashes the process where its statistics are damaged.
    """
    longest = 1.0
    for group in (file.metadata.row_group(i) for i in range(file.num_row_groups)):
        longest = max(longest, group.total_byte_size / max(group.num_rows, 1))
    return max(1, min(size, int(CHUNK_BYTES / longest)))


class Parquet(ColumnFormat):
    name, endings = "parquet", (".parquet", ".pq")

    def read_batches(self, request: Request) -> Iterator[Batch]:
        """From the row group that holds row `first`. The footer says where each row group begins, so no marks are needed."""
        place, names = request.place, names_of(request)
        with place.filesystem.open_input_file(place.path) as source:
            # A buffer, or a whole column of a row group would be read at once.
            file = pq.ParquetFile(source, buffer_size=BUFFER)
            check_schema(place, file.schema_arrow, request.columns)
            group = rows = 0
            while group < file.num_row_groups and rows + file.metadata.row_group(group).num_rows <= request.first:
                rows += file.metadata.row_group(group).num_rows
                group += 1
            groups = list(range(group, file.num_row_groups))
            for batch in file.iter_batches(
                batch_size=_rows_at_once(file, request.size), row_groups=groups, columns=names
            ):
                yield batch, rows, None
                rows += batch.num_rows
            if rows != file.metadata.num_rows:
                raise UserError(
                    f"{place} is damaged: it holds {rows} rows, but its footer says {file.metadata.num_rows}."
                )


FORMAT = Parquet()
