"""ORC files."""

from collections.abc import Iterator

import pyarrow as pa

from steps.common.corpus.readers.columns import check_schema
from steps.common.corpus.rows import Column
from steps.common.storage.place import Place


def orc_batches(place: Place, columns: list[Column], size: int) -> Iterator[pa.RecordBatch]:
    from pyarrow import orc

    names = list(dict.fromkeys(column.name for column in columns))
    with place.filesystem.open_input_file(place.path) as source:
        file = orc.ORCFile(source)
        check_schema(place, file.schema, columns)
        for stripe in range(file.nstripes):
            yield file.read_stripe(stripe, columns=names)
