"""The rows beside vectors, as collect writes them."""

from pathlib import Path

import pyarrow as pa

from steps.common.search.index import ROWS


def write_rows(folder: Path, *, most: int | None = None, **columns) -> None:
    """Write the columns of all rows into the folder of their vectors, in batches of `most` rows, or in one."""
    rows = pa.table(columns)
    with pa.ipc.new_file(folder / ROWS, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=most)
