"""Corpus -> backend -> parts: where the reader, the encoder and the writer meet. Knows neither MLflow nor Hydra."""

import logging
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from steps.common.backends import Backend
from steps.common.corpus import Corpus
from steps.common.embedding import shorten
from steps.common.errors import UserError
from steps.common.shards import Part, PartWriter, embedding_column, embedding_schema

logger = logging.getLogger("steps")

# Rows encoded at once: enough to sort by length, few enough for a sign of life every few seconds on a slow machine.
WINDOW = 512

# Embeddings shown at the end.
SAMPLES = 3

# Seconds between two progress lines where there is no terminal.
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """What is written, and how."""

    dtype: str
    truncate_dim: int | None
    normalize: bool
    rows_per_part: int
    keep_text: bool


@dataclass
class Result:
    """What a corpus became."""

    rows: int = 0
    tokens: int = 0
    truncated_rows: int = 0
    empty_rows: int = 0
    null_rows: int = 0
    seconds: float = 0.0
    dim: int = 0
    dtype: str = ""
    parts: list[Part] = field(default_factory=list)
    sample_texts: list[str] = field(default_factory=list)
    sample_embeddings: list[np.ndarray] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """The metrics of an encode run; seconds cover reading, encoding and writing."""
        seconds = max(self.seconds, 1e-9)
        return {
            "encode/rows": self.rows,
            "encode/seconds": self.seconds,
            "encode/rows_per_second": self.rows / seconds,
            "encode/tokens_per_second": self.tokens / seconds,
            "encode/truncated_rows": self.truncated_rows,
            "encode/empty_rows": self.empty_rows,
            "encode/null_rows": self.null_rows,
            "encode/peak_rss_mb": peak_rss_mb(),
        }

    def manifest(self) -> dict:
        """What the manifest says of the whole."""
        names = ("rows", "null_rows", "empty_rows", "truncated_rows", "tokens", "dim", "dtype")
        return {name: getattr(self, name) for name in names}


def peak_rss_mb() -> float:
    """Most memory this process has held, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def encode_corpus(
    corpus: Corpus, backend: Backend, folder: Path, options: Options, on_part: Callable[[Path], None] | None = None
) -> Result:
    """Embed every row of a corpus, in order, into parts in `folder`; `on_part` is told of each finished part.

    A null text gets a null embedding. A text that is longer than the model reads is cut by the model, and counted.

    Raises:
        UserError: `truncate_dim` is more than the model has.
    """
    if options.truncate_dim is not None and options.truncate_dim > backend.dim:
        raise UserError(
            f"embedding.truncate_dim is {options.truncate_dim}, but the model has {backend.dim} dimensions. Give {backend.dim} or less."
        )
    result = Result(dim=options.truncate_dim or backend.dim, dtype=options.dtype)
    schema = embedding_schema(
        corpus.id_type, result.dim, options.dtype, keep_text=options.keep_text, nulls=corpus.null_rows > 0
    )
    start = time.perf_counter()
    with PartWriter(folder, schema, options.rows_per_part, on_part) as writer, Progress(corpus.rows) as progress:
        for batch in corpus.batches(WINDOW):
            writer.write(encode_batch(batch, backend, schema, options, result))
            progress.advance(batch.num_rows)
    result.parts = writer.parts
    result.seconds = time.perf_counter() - start
    return result


def encode_batch(
    batch: pa.RecordBatch, backend: Backend, schema: pa.Schema, options: Options, result: Result
) -> pa.Table:
    """Embed one batch (`id`, `text`) into a table of `schema`, counting into `result`."""
    texts = batch.column("text")
    valid = pc.is_valid(texts).to_numpy(zero_copy_only=False)
    present = texts.drop_null().to_pylist()
    tokens = backend.count_tokens(present)
    vectors = shorten(backend.encode(present), options.truncate_dim, options.normalize)
    columns = {
        "id": batch.column("id"),
        "text": texts,
        "embedding": embedding_column(vectors, valid, schema.field("embedding").type),
    }

    limit = backend.max_tokens or np.iinfo(np.int64).max
    result.rows += batch.num_rows
    result.null_rows += batch.num_rows - len(present)
    result.empty_rows += sum(not text.strip() for text in present)
    result.truncated_rows += int((tokens > limit).sum())
    result.tokens += int(np.minimum(tokens, limit).sum())
    missing = SAMPLES - len(result.sample_texts)
    result.sample_texts += present[:missing]
    result.sample_embeddings += list(vectors[:missing])
    return pa.table([columns[name] for name in schema.names], schema=schema)


class Progress:
    """A bar on a terminal, a line in the log every few seconds elsewhere."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._start = self._last = time.perf_counter()
        self._bar = tqdm(total=total, unit="row", unit_scale=True, disable=not sys.stderr.isatty())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def advance(self, rows: int) -> None:
        self._done += rows
        self._bar.update(rows)
        now = time.perf_counter()
        if self._bar.disable and now - self._last >= PROGRESS_SECONDS:
            self._last = now
            rate = self._done / (now - self._start)
            logger.info(
                "%d of %d rows (%.0f %%), %.0f rows/s, %.0f s left",
                self._done,
                self._total,
                100 * self._done / self._total,
                rate,
                (self._total - self._done) / rate,
            )
