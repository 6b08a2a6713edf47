"""Corpus -> backend -> parts: where the reader, the encoder and the writer meet. Knows neither MLflow nor Hydra.

Three threads: one reads and tokenises the next window, this one computes, one writes the last.
"""

import contextlib
import ctypes
import logging
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from steps.common.backends import Backend, TokenizedTexts
from steps.common.corpus import Corpus
from steps.common.embedding import shorten
from steps.common.errors import UserError
from steps.common.repeats import MAX_KEPT, RepeatPlanner, WindowPlan
from steps.common.shards import Part, PartWriter, embedding_column, embedding_schema

logger = logging.getLogger("steps")

# Rows sorted by length together: enough that the texts of a batch are of about one length, few enough to hold.
WINDOW = 8192
# Longest texts fill a window before its rows do; in bytes of UTF-8.
WINDOW_BYTES = 16_000_000
# Rows read at a time.
READ = 512

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
    # Rows that were computed: those with a text, less the repeats of another.
    computed_rows: int = 0
    padding_share: float | None = None
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
            "encode/computed_rows": self.computed_rows,
            "encode/peak_rss_mb": peak_rss_mb(),
            **({} if self.padding_share is None else {"encode/padding_share": self.padding_share}),
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
    kept = KeptVectors(MAX_KEPT // (4 * backend.dim), result.dim)
    start = time.perf_counter()
    with (
        PartWriter(folder, schema, options.rows_per_part, on_part) as writer,
        Progress(corpus.rows) as progress,
        Behind() as behind,
    ):
        planner = RepeatPlanner(corpus.repeats, kept.most)
        windows = cut_windows(corpus.batches(READ), WINDOW, WINDOW_BYTES, options.rows_per_part)
        with contextlib.closing(ahead(prepare(batch, planner, backend) for batch in windows)) as prepared:
            for window in prepared:
                vectors, lengths = embed_window(window, backend, kept, options, progress)
                behind.do(writer.write, to_table(window, vectors, schema))
                count(window, vectors, lengths, backend.max_tokens, result)
                progress.window_done(window.batch.num_rows)
                give_back_memory()
    result.parts = writer.parts
    result.padding_share = backend.padding_share
    result.seconds = time.perf_counter() - start
    return result


@dataclass(frozen=True)
class Window:
    """Rows that are sorted and computed together, read and tokenised."""

    batch: pa.RecordBatch
    valid: np.ndarray
    texts: list[str]
    plan: WindowPlan
    tokens: TokenizedTexts


def cut_windows(
    batches: Iterable[pa.RecordBatch], rows: int, bytes: int, rows_per_part: int
) -> Iterator[pa.RecordBatch]:
    """Join the batches of a corpus, and cut them again at `rows`, after about `bytes` of text, and where a part ends.

    A window belongs to one part: no batch is shared with another part.
    """
    pending: list[pa.RecordBatch] = []
    held = size = done = 0
    for batch in batches:
        while batch.num_rows:
            room = min(rows - held, rows_per_part - (done + held) % rows_per_part)
            head, batch = batch.slice(0, room), batch.slice(room)
            pending.append(head)
            held += head.num_rows
            size += pc.sum(pc.binary_length(head.column("text"))).as_py() or 0
            if held == rows or size >= bytes or (done + held) % rows_per_part == 0:
                yield pa.concat_batches(pending)
                done += held
                pending, held, size = [], 0, 0
    if pending:
        yield pa.concat_batches(pending)


def prepare(batch: pa.RecordBatch, planner: RepeatPlanner, backend: Backend) -> Window:
    """All that is done before computing."""
    column = batch.column("text")
    texts = column.drop_null().to_pylist()
    plan = planner.plan(texts)
    valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
    return Window(batch, valid, texts, plan, backend.tokenize(plan.compute))


def embed_window(
    window: Window,
    backend: Backend,
    kept: "KeptVectors",
    options: Options,
    progress: "Progress",
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors [n, dim] and token counts [n] of a window's n texts; `kept` holds those that come again."""
    plan = window.plan
    vectors = shorten(backend.embed(window.tokens, progress.advance), options.truncate_dim, options.normalize)
    lengths = window.tokens.lengths
    if plan.recall:
        recalled, counts = kept.get(plan.recall)
        vectors, lengths = np.concatenate([vectors, recalled]), np.concatenate([lengths, counts])
    for position, key in plan.keep.items():
        kept.put(key, vectors[position], int(lengths[position]))
    for key in plan.forget:
        kept.forget(key)
    return vectors[plan.source], lengths[plan.source]


class KeptVectors:
    """Vectors and token counts by key, in one block: thousands of small arrays would keep the memory between them."""

    def __init__(self, most: int, dim: int):
        self.most = most
        # Memory is taken when a row is written.
        self._vectors = np.empty((most, dim), np.float32)
        self._lengths = np.empty(most, np.int64)
        self._rows: dict[int, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: int, vector: np.ndarray, length: int) -> None:
        row = self._free.pop() if self._free else len(self._rows)
        self._rows[key] = row
        self._vectors[row], self._lengths[row] = vector, length

    def get(self, keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [n, dim] and token counts [n]."""
        rows = [self._rows[key] for key in keys]
        return self._vectors[rows], self._lengths[rows]

    def forget(self, key: int) -> None:
        self._free.append(self._rows.pop(key))


def give_back_memory() -> None:
    """Let the C library return what is free to the system (glibc has this call): windows leave holes in its heaps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def to_table(window: Window, vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The rows of a window as they are written."""
    columns = {
        "id": window.batch.column("id"),
        "text": window.batch.column("text"),
        "embedding": embedding_column(vectors, window.valid, schema.field("embedding").type),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def count(window: Window, vectors: np.ndarray, lengths: np.ndarray, max_tokens: int | None, result: Result) -> None:
    """Count a window into the result."""
    limit = max_tokens or np.iinfo(np.int64).max
    texts = window.texts
    result.rows += window.batch.num_rows
    result.null_rows += window.batch.num_rows - len(texts)
    result.empty_rows += sum(not text.strip() for text in texts)
    result.computed_rows += len(window.plan.compute)
    result.truncated_rows += int((lengths > limit).sum())
    result.tokens += int(np.minimum(lengths, limit).sum())
    missing = SAMPLES - len(result.sample_texts)
    result.sample_texts += texts[:missing]
    result.sample_embeddings += list(vectors[:missing])


T = TypeVar("T")
_END = object()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items of an iterator, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, items, _END)
            yield item


class Behind:
    """Does one thing after another in a thread; whoever brings the next waits until the last is done."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1, "behind")
        self._last: Future | None = None

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._thread.shutdown()

    def do(self, call: Callable, *arguments) -> None:
        """Raises what the thing before it raised."""
        self._wait()
        self._last = self._thread.submit(call, *arguments)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


class Progress:
    """A bar on a terminal, a line in the log every few seconds elsewhere."""

    def __init__(self, total: int):
        self._total, self._done, self._ahead = total, 0, 0
        # A backend reports from its own threads.
        self._lock = threading.Lock()
        self._start = self._last = time.perf_counter()
        self._bar = tqdm(total=total, unit="row", unit_scale=True, disable=not sys.stderr.isatty())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def advance(self, rows: int) -> None:
        """Some texts of the current window are embedded."""
        with self._lock:
            self._ahead += rows
            self._show(rows)

    def window_done(self, rows: int) -> None:
        """The current window is done, with rows that needed no computing."""
        with self._lock:
            rest, self._ahead = rows - self._ahead, 0
            self._show(rest)

    def _show(self, rows: int) -> None:
        self._done += rows
        self._bar.update(rows)
        now = time.perf_counter()
        if self._bar.disable and self._done and now - self._last >= PROGRESS_SECONDS:
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
