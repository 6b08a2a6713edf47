"""Windows of texts -> the vectors that are stored: tokens, chunks, repeats, dimensions, number formats.

Knows neither MLflow nor Hydra.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steps.common.backends import Backend, TokenizedTexts
from steps.common.corpus.corpus import Corpus
from steps.common.corpus.texts import LINE
from steps.common.embeddings.chunks import Chunker
from steps.common.embeddings.parts import Part, VectorReader
from steps.common.embeddings.repeats import MAX_KEPT, KeptVectors, RepeatPlanner, WindowPlan
from steps.common.embeddings.windows import WINDOW, WINDOW_BYTES, Embedded, Window, cut_windows
from steps.common.errors import UserError
from steps.common.storage.output import Output
from steps.common.vectors import STORED, shorten, store, unit_length, value_ranges

# Rows read at a time.
READ = 512

# Embeddings shown at the end.
SAMPLES = 3

# Texts whose embeddings say what the range of each dimension is, where `int8` is stored.
RANGE_TEXTS = 2048


@dataclass(frozen=True)
class Options:
    """What is written, and how."""

    dtype: str
    truncate_dim: int | None
    normalize: bool
    rows_per_part: int
    keep_text: bool
    format: str = "parquet"
    # With a chunker: the mean of a text's chunks, or a row for each.
    row_per_chunk: bool = False
    # Whether the mean of unit vectors is made one of them.
    normalize_mean: bool = False


class Encoder:
    """Windows -> vectors, by a backend; keeps those of texts that come again."""

    def __init__(
        self, backend: Backend, options: Options, chunker: Chunker | None, ranges: np.ndarray | None, width: int
    ):
        self._backend, self._options, self._chunker, self._ranges = backend, options, chunker, ranges
        # A text with a row for each chunk has several vectors: it is computed again.
        most = 0 if options.row_per_chunk else MAX_KEPT // (4 * backend.dim)
        self.kept = KeptVectors(most, width, STORED[options.dtype])
        self._width = width
        self._reader: tuple[str, VectorReader] | None = None
        self.sample_texts: list[str] = []
        self.sample_embeddings: list[np.ndarray] = []

    def prepare(self, texts: list[str]) -> tuple[list[list[str]] | None, TokenizedTexts]:
        """What is done before computing; may run in another thread."""
        if self._chunker is None:
            return None, self._backend.tokenize(texts)
        pieces = self._chunker.split(texts)
        return pieces, self._backend.tokenize([piece for of_text in pieces for piece in of_text])

    def compute(
        self, pieces: list[list[str]] | None, tokens: TokenizedTexts, on_rows: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `prepare` has made of texts -> the vectors that are stored, in float32, and the tokens of each text.

        A vector for each text, or with row_per_chunk for each piece: [n, dim].
        """
        vectors, lengths = self._backend.embed(tokens, on_rows), tokens.lengths
        if pieces:
            counts = np.array([len(of_text) for of_text in pieces])
            starts = np.cumsum(counts) - counts
            lengths = np.add.reduceat(lengths, starts)
            if not self._options.row_per_chunk:
                vectors = self._pool(vectors, starts, counts)
        return shorten(vectors, self._options.truncate_dim, self._options.normalize), lengths

    def embed(self, window: Window, on_rows: Callable[[int], None]) -> Embedded:
        vectors, lengths = self.compute(window.pieces, window.tokens, on_rows)
        vectors = store(vectors, self._options.dtype, self._ranges)
        if self._options.row_per_chunk:
            embedded = _rows_of_pieces(vectors, window, lengths)
        else:
            vectors, lengths = self._with_repeats(vectors, lengths, window.plan)
            embedded = Embedded(vectors, None, lengths)
        self._sample(window.texts, lambda row: embedded.vectors[row])
        return embedded

    def _pool(self, vectors: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        means = np.add.reduceat(vectors, starts) / counts[:, None].astype(np.float32)
        if self._options.normalize_mean:
            means[counts > 1] = unit_length(means[counts > 1])
        return means

    def _with_repeats(self, vectors: np.ndarray, lengths: np.ndarray, plan: WindowPlan) -> tuple:
        """Rows for all texts of a window: those computed, and those that were before."""
        if plan.recall:
            recalled, counts = self.kept.get(plan.recall)
            vectors, lengths = np.concatenate([vectors, recalled]), np.concatenate([lengths, counts])
        for position, key in plan.keep.items():
            self.kept.put(key, vectors[position], int(lengths[position]))
        for key in plan.forget:
            self.kept.forget(key)
        return vectors[plan.source], lengths[plan.source]

    def replay(self, window: Window, output: Output, part: Part) -> None:
        """Take from a finished part what was kept when it was computed."""
        plan = window.plan
        rows = np.flatnonzero(window.valid) + window.row_in_part
        wanted = len(self.sample_texts) < SAMPLES or plan.keep
        if wanted and (self._reader is None or self._reader[0] != part.name):
            self._reader = (part.name, VectorReader(output, part, self._width))
        if len(self.sample_texts) < SAMPLES and not self._options.row_per_chunk:
            self._sample(window.texts, lambda row: self._reader[1].row(rows[row]))
        if plan.keep:
            lengths = self._whole_lengths([plan.compute[position] for position in plan.keep])
            firsts = {position: row for row, position in reversed(list(enumerate(plan.source.tolist())))}
            for (position, key), length in zip(plan.keep.items(), lengths):
                self.kept.put(key, self._reader[1].row(rows[firsts[position]]), int(length))
        for key in plan.forget:
            self.kept.forget(key)

    def _whole_lengths(self, texts: list[str]) -> np.ndarray:
        pieces, tokens = self.prepare(texts)
        if pieces is None:
            return tokens.lengths
        counts = np.array([len(of_text) for of_text in pieces])
        return np.add.reduceat(tokens.lengths, np.cumsum(counts) - counts)

    def _sample(self, texts: list[str], vector: Callable[[int], np.ndarray]) -> None:
        for row in range(min(SAMPLES - len(self.sample_texts), len(texts))):
            self.sample_texts.append(texts[row])
            self.sample_embeddings.append(np.array(vector(row)))


def _rows_of_pieces(vectors: np.ndarray, window: Window, lengths: np.ndarray) -> Embedded:
    """The vectors of every piece of every text, repeats written out."""
    counts = [len(pieces) for pieces in window.pieces]
    starts = np.cumsum([0, *counts])
    source = window.plan.source.tolist()
    rows = [row for text in source for row in range(starts[text], starts[text + 1])]
    return Embedded(vectors[rows], [window.pieces[text] for text in source], lengths[window.plan.source])


def prepare_all(
    corpus: Corpus, encoder: "Encoder", options: Options, stems: list[str], finished: Container[str]
) -> Iterator[Window]:
    """All that is done before computing, window by window."""
    planner = RepeatPlanner(corpus.repeats, encoder.kept.most)
    first = 0
    for batch in cut_windows(corpus.batches(READ), WINDOW, WINDOW_BYTES, options.rows_per_part):
        end = first + batch.num_rows
        stem = stems[first // options.rows_per_part]
        column = batch.column("text")
        texts = column.drop_null().to_pylist()
        plan = planner.plan(texts)
        pieces, tokens = (None, None) if stem in finished else encoder.prepare(plan.compute)
        yield Window(
            stem,
            first,
            first % options.rows_per_part,
            end % options.rows_per_part == 0 or end == corpus.rows,
            batch,
            pc.is_valid(column).to_numpy(zero_copy_only=False),
            texts,
            plan,
            pieces,
            tokens,
        )
        first = end


def sample_ranges(corpus: Corpus, backend: Backend, options: Options, chunker: Chunker | None = None) -> np.ndarray:
    """What `int8` is scaled between, [2, dim]: the extremes of what is stored of texts taken evenly from the corpus.

    Raises:
        UserError: they are not finite.
    """
    dim = options.truncate_dim or backend.dim
    encoder = Encoder(backend, options, chunker, None, dim)
    extremes = [
        value_ranges(encoder.compute(*encoder.prepare(texts), lambda rows: None)[0])
        for texts in _groups(_evenly(corpus, RANGE_TEXTS), WINDOW_BYTES)
    ]
    if not extremes:
        return np.zeros((2, dim), np.float32)
    lows, highs = zip(*extremes)
    ranges = np.stack([np.min(lows, axis=0), np.max(highs, axis=0)])
    if not np.isfinite(ranges).all():
        raise UserError(
            "embedding.dtype=int8 is scaled between the least and greatest values, and some embeddings of this model are not finite. Run validate to see what is wrong with it, or take embedding.dtype=float32."
        )
    return ranges


def _evenly(corpus: Corpus, count: int) -> Iterator[str]:
    """About `count` texts taken evenly from a corpus, those that are null left out."""
    step = max(1, corpus.rows // count)
    first = 0
    for batch in corpus.batches(READ):
        rows = range(-first % step, batch.num_rows, step)
        yield from batch.column("text").take(pa.array(rows, pa.int64())).drop_null().to_pylist()
        first += batch.num_rows


def _groups(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Texts together until they hold `size` characters: the chunks of books would not fit into memory at once."""
    group, held = [], 0
    for text in texts:
        group.append(text)
        held += len(text)
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group


def refuse_long(corpus: Corpus, backend: Backend) -> None:
    """Look for texts that the model would cut, before anything is computed.

    Raises:
        UserError: there are some; it names the first.
    """
    found, first, example = 0, 0, ""
    for batch in corpus.batches(WINDOW):
        valid = np.flatnonzero(pc.is_valid(batch.column("text")).to_numpy(zero_copy_only=False))
        lengths = backend.tokenize(batch.column("text").drop_null().to_pylist()).lengths
        long = np.flatnonzero(lengths > (backend.max_tokens or np.iinfo(np.int64).max))
        if len(long) and not example:
            source, row = corpus.where(first + int(valid[long[0]]))
            line = batch.column(LINE)[int(valid[long[0]])].as_py()
            example = (
                f"the first is {source.place} {f'line {line}' if line else f'row {row + 1}'} with {lengths[long[0]]}"
            )
        found += len(long)
        first += batch.num_rows
    if found:
        raise UserError(
            f"corpus.long_text=error: {found} texts are longer than the {backend.max_tokens} tokens that the model reads; {example}. Take corpus.long_text=truncate or chunk, or shorten them."
        )
