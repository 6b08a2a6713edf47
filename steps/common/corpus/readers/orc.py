"""ORC files."""

from collections.abc import Iterator

from pyarrow import orc

from steps.common.corpus.readers.columns import Batch, ColumnFormat, check_schema, names_of
from steps.common.corpus.readers.format import Request
from steps.common.corpus.rows import Mark


class Orc(ColumnFormat):
    name, endings = "orc", (".orc",)

    def read_batches(self, request: Request) -> Iterator[Batch]:
        place, names = request.place, names_of(request)
        with place.filesystem.open_input_file(place.path) as source:
            file = orc.ORCFile(source)
            check_schema(place, file.schema, request.columns)
            row = request.mark.row
            for stripe in range(request.mark.position, file.nstripes):
                batch = file.read_stripe(stripe, columns=names)
                yield batch, row, Mark(row + batch.num_rows, stripe + 1)
                row += batch.num_rows


FORMAT = Orc()
