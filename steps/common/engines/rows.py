"""The rows of a table of Spark -> rows with embeddings, in a new table."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from steps.common.backends import Backend
from steps.common.corpus.conf import EncodedCorpusConf, LongText, OnBadRow
from steps.common.corpus.corpus import Corpus
from steps.common.corpus.texts import LINE, REASON, take_texts
from steps.common.embeddings.chunks import Chunker
from steps.common.embeddings.encoder import embed_window, tokenize_window
from steps.common.embeddings.job import Job, Limits, Options
from steps.common.embeddings.origin import Origin
from steps.common.embeddings.pipeline import Result
from steps.common.embeddings.windows import Counts, count_window, cut_windows, make_windows, to_table
from steps.common.engines.parts import load_backend, send_model
from steps.common.engines.spark import Spark
from steps.common.engines.tables import Table, TableFormat, note_origin
from steps.common.engines.watch import TaskProgress
from steps.common.errors import UserError
from steps.common.model.recipe import Recipe

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

logger = logging.getLogger("steps")

# Columns in which a window's first row has its counts, until they are summed up.
COUNTS = tuple(f"__{field.name}__" for field in fields(Counts))


@dataclass(frozen=True)
class RowEncoder:
    """Embeds the rows of a partition, window by window (a tasks.Stream)."""

    table: str
    conf: EncodedCorpusConf
    options: Options
    chunker: Chunker | None
    # Dimensions of the model.
    dim: int
    recipe: Recipe

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        backend: Backend | None = None
        limits = Limits()
        for rows in cut_windows(map(self._take, batches), limits.rows, limits.bytes, sys.maxsize):
            backend = backend or load_backend(self.recipe)
            yield from self._embed(rows, backend)

    def _take(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns of a corpus, of those of tables.open_table."""
        count = len(self.conf.text_columns)
        columns = [column.cast(pa.string()) for column in batch.columns[:count]]
        texts, reasons = take_texts(self.conf, columns, {})
        if reasons and self.conf.on_bad_row == OnBadRow.refuse_all:
            row = min(reasons)
            raise UserError(
                f"table {self.table}, id {batch.columns[count][row]}: the text is {reasons[row]}. corpus.on_bad_row=keep_all keeps such rows, with a null embedding."
            )
        nothing = [pa.nulls(len(batch), pa.int64()), pa.nulls(len(batch), pa.string())]
        names = ["id", "text", *batch.schema.names[count + 1 :], LINE, REASON]
        return pa.record_batch([batch.columns[count], texts, *batch.columns[count + 1 :], *nothing], names=names)

    def _embed(self, batch: pa.RecordBatch, backend: Backend) -> Iterator[pa.RecordBatch]:
        kept = {name: batch.schema.field(name).type for name in batch.schema.names[2:-2]}
        corpus = Corpus([], TableFormat(), self.conf, batch.schema.field("id").type, kept)
        job = Job(corpus, self.options, backend.dim, self.chunker)
        (window,) = make_windows(job, [batch], 0)
        embedded = embed_window(job, backend, tokenize_window(job, backend, window), lambda rows: None)
        counts = count_window(window, embedded, backend.max_tokens, chunked=self.chunker is not None)
        if counts.long_rows and self.conf.long_text == LongText.error:
            first = int(np.argmax(embedded.lengths > backend.max_tokens))
            row = batch.column("id")[np.flatnonzero(window.valid)[first]]
            raise UserError(
                f"corpus.long_text=error: table {self.table}, id {row}: the text has {embedded.lengths[first]} tokens, and the model reads {backend.max_tokens}. Take corpus.long_text=truncate or chunk, or shorten such texts."
            )
        written, _ = to_table(window, embedded, job.make_schema(nulls=True))
        for name, count in zip(COUNTS, asdict(counts).values()):
            written = written.append_column(name, pa.array([count] + [0] * (len(written) - 1), pa.int64()))
        yield from written.combine_chunks().to_batches()


def _spark_schema(table: Table, options: Options) -> "StructType":
    from pyspark.sql.types import ArrayType, ByteType, FloatType, IntegerType, LongType, StringType, StructType

    schema = StructType().add(table.frame.schema["id"])
    if options.row_per_chunk:
        schema = schema.add("chunk", IntegerType())
    if options.keep_text:
        schema = schema.add("text", StringType())
    for name in table.kept:
        schema = schema.add(table.frame.schema[name])
    schema = schema.add("embedding", ArrayType(FloatType() if options.dtype == "float32" else ByteType()))
    for name in COUNTS:
        schema = schema.add(name, LongType())
    return schema


def encode_table(
    spark: Spark,
    table: Table,
    encoder: RowEncoder,
    *,
    output: str,
    origin: Origin,
    tell: Callable[[dict[str, int]], None],
) -> Result:
    """Embed the rows of a table into a new one; raises UserError as Spark.wait_for. A job that fails leaves no table.

    `tell` is told now and then how many rows and tasks are done, as watch.TaskProgress does.
    """
    from pyspark.sql import Observation
    from pyspark.sql import functions as F

    start = time.perf_counter()
    encoder = replace(encoder, recipe=send_model(spark, encoder.recipe))
    rows = spark.row_counter()
    frame = spark.stream(table.frame, encoder, _spark_schema(table, encoder.options), rows)
    seen = Observation(f"encode {output}")
    sums = [F.sum(name).alias(name) for name in COUNTS]
    frame = frame.observe(seen, F.count(F.lit(1)).alias("written"), *sums).drop(*COUNTS)
    spark.wait_for(lambda: frame.write.saveAsTable(output), TaskProgress(rows, tell))
    found = {name: int(value or 0) for name, value in seen.get.items()}
    counts = Counts(*(found[name] for name in COUNTS))
    note_origin(spark, output, origin)
    result = Result(**asdict(counts), own=counts, written_rows=found["written"], dtype=encoder.options.dtype)
    result.dim = encoder.options.truncate_dim or encoder.dim
    result.seconds = time.perf_counter() - start
    return result
