"""Texts -> the vectors that are stored: tokens, chunks, repeats, dimensions, number formats."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sentence_transformers import quantize_embeddings

from steps.common.backends import Backend, TokenizedTexts
from steps.common.backends.check import TOLERANCE, relative_errors
from steps.common.corpus.texts import LINE
from steps.common.embeddings.job import Job, gather
from steps.common.embeddings.progress import prefetch
from steps.common.embeddings.reuse import Held
from steps.common.embeddings.windows import Embedded, Sample, TokenizedWindow, Window, read_windows
from steps.common.errors import UserError
from steps.common.vectors import STORED, nearest_stored, shorten, unit_length, value_ranges

logger = logging.getLogger("steps")

# Texts whose embeddings say what the range of each dimension is, where `int8` is stored.
RANGE_TEXTS = 2048

# Share of the numbers of a window's new texts beyond the ranges of another output that is worth a warning: of texts like the
# RANGE_TEXTS that ranges come from, one in a thousand is.
BEYOND = 0.05


def tokenize_windows(job: Job, backend: Backend, parts: Iterable[int]) -> Iterator[TokenizedWindow]:
    """All that is done before computing, window by window; reads in another thread than the one it is called in."""
    with contextlib.closing(prefetch(read_windows(job, parts))) as lists:
        for windows in lists:
            # From the end, so that a window and its texts are free as soon as it is written.
            windows.reverse()
            while windows:
                yield tokenize_window(job, backend, windows.pop())


def tokenize_window(job: Job, backend: Backend, window: Window) -> TokenizedWindow:
    """The tokens of what is to be computed of a window, and the vectors of the rest of it."""
    units, pieces = [window.texts[row] for row in window.repeats.compute], None
    if job.options.row_per_chunk and job.chunker is not None:
        pieces = job.chunker.split(units)
        units = [piece for of_text in pieces for piece in of_text]
    held, sample = _find_held(job, backend, units), None
    if held is not None:
        sample = _take_sample(job, backend, units, held)
        units = [units[i] for i in np.flatnonzero(~held.found)]
    cut, tokens = _tokenize_units(job, backend, units)
    return TokenizedWindow(window, pieces if pieces is not None else cut, tokens, held, sample)


def _take_sample(job: Job, backend: Backend, units: list[str], held: Held) -> Sample | None:
    """Some reused texts to compute anew; None once this process has computed enough of them."""
    reused = np.flatnonzero(held.found)
    count = 0 if job.reuse is None else min(len(reused), job.reuse.unchecked)
    if job.reuse is None or not count:
        return None
    job.reuse.unchecked -= count
    taken = reused[np.linspace(0, len(reused) - 1, count).astype(np.int64)]
    return Sample(*_tokenize_units(job, backend, [units[i] for i in taken]), held.vectors[taken])


def _find_held(job: Job, backend: Backend, units: list[str]) -> Held | None:
    """What another output has of some texts; tokens that it has not counted are counted now."""
    if job.reuse is None or not units:
        return None
    held = job.reuse.find(units)
    unknown = np.flatnonzero(held.found & (held.lengths < 0))
    if len(unknown):
        texts = [units[i] for i in unknown]
        held.lengths[unknown] = _count_tokens(job, *_tokenize_units(job, backend, texts))
    return held


def _tokenize_units(job: Job, backend: Backend, units: list[str]) -> tuple[list[list[str]] | None, TokenizedTexts]:
    """As `tokenize`, of texts that may be pieces already."""
    return (None, backend.tokenize(units)) if job.options.row_per_chunk else tokenize(job, backend, units)


def tokenize(job: Job, backend: Backend, texts: list[str]) -> tuple[list[list[str]] | None, TokenizedTexts]:
    """The pieces that a chunker cuts texts into, None without one, and the tokens of texts or pieces."""
    if job.chunker is None:
        return None, backend.tokenize(texts)
    pieces = job.chunker.split(texts)
    return pieces, backend.tokenize([piece for of_text in pieces for piece in of_text])


def embed_window(job: Job, backend: Backend, ready: TokenizedWindow, on_rows: Callable[[int], None]) -> Embedded:
    """The stored vectors of every text of a window, repeats written out. Windows come in the order of their rows.

    `on_rows` is told how many texts were embedded since it was last called.
    """
    if ready.sample is not None:
        _check_sample(job, backend, ready.sample)
    vectors, lengths = _compute(job, backend, ready.pieces, ready.tokens, on_rows)
    _check_ranges(job, vectors)
    vectors = _store(vectors, job)
    found = np.zeros(len(vectors), bool)
    if ready.held is not None:
        found = ready.held.found
        vectors, lengths = ready.held.fill(vectors, lengths)
    if job.options.row_per_chunk:
        return _write_out_pieces(vectors, lengths, found, ready)
    return _write_out_repeats(vectors, lengths, found, ready.window)


def _check_sample(job: Job, backend: Backend, sample: Sample) -> None:
    """Raises UserError where reused vectors are further from those computed now than the precision explains."""
    vectors, _ = _compute(job, backend, sample.pieces, sample.tokens, lambda rows: None)
    nearest = nearest_stored(vectors, sample.vectors, job.options.dtype, job.ranges)
    errors, tolerance = relative_errors(nearest, vectors), TOLERANCE[backend.precision]
    far = int((errors > tolerance).sum())
    if far and job.reuse is not None:
        raise UserError(
            f"The vectors of reuse={job.reuse.where} differ from those computed now: {far} of {len(errors)} reused texts by up to {errors.max():.2g} (relative); at most {tolerance:g} is expected of {backend.precision}. Leave reuse out to compute every text, or encode with the code and the libraries that its manifest names."
        )
    logger.info("%d reused texts were computed again and agree within %.2g (relative)", len(errors), errors.max())


def _check_ranges(job: Job, vectors: np.ndarray) -> None:
    """Warn once where the ranges of a reused output do not fit new vectors, which lose much as int8 then."""
    if job.reuse is None or job.ranges is None or job.reuse.warned or not len(vectors):
        return
    share = float(np.mean((vectors < job.ranges[0]) | (vectors > job.ranges[1])))
    if share > BEYOND:
        job.reuse.warned = True
        logger.warning(
            "%.0f %% of the numbers in the new embeddings are outside the int8 ranges of reuse=%s and were clipped. Without reuse, new ranges are computed.",
            100 * share,
            job.reuse.where,
        )


def _compute(
    job: Job,
    backend: Backend,
    pieces: list[list[str]] | None,
    tokens: TokenizedTexts,
    on_rows: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """What `tokenize` has made of texts -> float32 vectors, and the tokens of each text.

    A vector for each text, or with row_per_chunk for each piece: [n, dim].
    """
    vectors, lengths = backend.embed(tokens, on_rows), _count_tokens(job, pieces, tokens)
    if pieces and not job.options.row_per_chunk:
        counts = np.array([len(of_text) for of_text in pieces])
        vectors = np.add.reduceat(vectors, np.cumsum(counts) - counts) / counts[:, None].astype(np.float32)
        if job.options.normalize_mean:
            vectors[counts > 1] = unit_length(vectors[counts > 1])
    return shorten(vectors, job.options.truncate_dim, job.options.normalize), lengths


def _count_tokens(job: Job, pieces: list[list[str]] | None, tokens: TokenizedTexts) -> np.ndarray:
    """Tokens of each text that gets a vector, those of its pieces together: int64 [n]."""
    if not pieces or job.options.row_per_chunk:
        return tokens.lengths
    counts = np.array([len(of_text) for of_text in pieces])
    return np.add.reduceat(tokens.lengths, np.cumsum(counts) - counts)


def _store(vectors: np.ndarray, job: Job) -> np.ndarray:
    """Embeddings [n, dim] as they are stored: [n, width]. int8 and binary are those of sentence-transformers; a value
    outside the ranges of int8 is clipped."""
    dtype = job.options.dtype
    if dtype not in ("int8", "binary"):
        return vectors.astype(STORED[dtype], copy=False)
    precision: Literal["int8", "binary"] = "int8" if dtype == "int8" else "binary"
    return np.asarray(quantize_embeddings(vectors, precision=precision, ranges=job.ranges))


def _write_out_repeats(vectors: np.ndarray, lengths: np.ndarray, found: np.ndarray, window: Window) -> Embedded:
    """The vectors of all texts of a window, from those that are there now and those that were before.

    `found`: whether a vector comes from another output.
    """
    repeats, kept, computed = window.repeats, window.kept, int((~found).sum())
    if len(repeats.recall):
        vectors = np.concatenate([vectors, kept.vectors[repeats.recall]])
        lengths = np.concatenate([lengths, kept.lengths[repeats.recall]])
        found = np.concatenate([found, kept.reused[repeats.recall]])
    kept.vectors[repeats.slots], kept.lengths[repeats.slots] = vectors[repeats.keep], lengths[repeats.keep]
    kept.reused[repeats.slots] = found[repeats.keep]
    source = repeats.source
    return Embedded(vectors[source], None, lengths[source], reused=found[source], computed=computed)


def _write_out_pieces(vectors: np.ndarray, lengths: np.ndarray, found: np.ndarray, ready: TokenizedWindow) -> Embedded:
    """The vectors of all pieces of all texts of a window; `found`: whether one comes from another output."""
    pieces, texts = ready.pieces or [], ready.window.repeats.source.tolist()
    counts = np.array([len(of_text) for of_text in pieces], np.int64)
    starts = np.cumsum([0, *counts])
    rows = [row for text in texts for row in range(starts[text], starts[text + 1])]
    reused = np.logical_and.reduceat(found, starts[:-1]) if len(counts) else np.empty(0, bool)
    return Embedded(
        vectors[rows],
        [pieces[text] for text in texts],
        lengths[rows],
        reused=reused[texts],
        computed=int((~reused).sum()),
    )


def make_ranges(job: Job, backend: Backend, sample: Callable[[Job], Iterable[str]]) -> np.ndarray | None:
    """What `int8` is scaled between, [2, dim]: the ranges of the output that is reused, or sample_ranges of the texts that
    `sample` gives; None for other types."""
    if job.options.dtype != "int8":
        return None
    if job.reuse is not None:
        return job.reuse.manifest.plan_record.ranges_of_int8
    return sample_ranges(job, backend, sample(job))


def sample_ranges(job: Job, backend: Backend, texts: Iterable[str]) -> np.ndarray:
    """What `int8` is scaled between, [2, dim]: the extremes of what is stored of some texts.

    Raises UserError where they are not finite.
    """
    # By characters: the chunks of books would not fit into memory at once.
    extremes = [
        value_ranges(_compute(job, backend, *tokenize(job, backend, group), lambda rows: None)[0])
        for group in gather(texts, job.limits.bytes)
    ]
    if not extremes:
        return np.zeros((2, job.dim), np.float32)
    ranges = value_ranges(np.concatenate(extremes))
    if not np.isfinite(ranges).all():
        raise UserError(
            "embedding.dtype=int8 needs the range of each dimension, and some embeddings of this model are NaN or infinite. Run validate to see what is wrong with it, or take embedding.dtype=float32."
        )
    return ranges


def sample_texts(job: Job, rows: range) -> Iterator[str]:
    """Of RANGE_TEXTS to twice as many texts taken evenly from a corpus, those in some rows; null texts are left out."""
    step = max(1, job.corpus.rows // RANGE_TEXTS)
    sampled = range(-(-rows.start // step) * step, rows.stop, step)
    if not sampled:
        return
    first = sampled[0]
    for batch in job.corpus.batches(job.limits.read, first, sampled[-1] + 1):
        taken = range(-first % step, batch.num_rows, step)
        yield from batch.column("text").take(pa.array(taken, pa.int64())).drop_null().to_pylist()
        first += batch.num_rows


@dataclass(frozen=True)
class LongTexts:
    """How many texts are longer than the model reads, and where the first of them is."""

    count: int
    first: str


def find_long(job: Job, backend: Backend, rows: range) -> LongTexts:
    """Count the texts that the model would cut, in some rows of a corpus."""
    count, first, row = 0, "", rows.start
    for batch in job.corpus.batches(job.limits.rows, rows.start, rows.stop):
        valid = np.flatnonzero(pc.is_valid(batch.column("text")).to_numpy(zero_copy_only=False))
        lengths = backend.tokenize(batch.column("text").drop_null().to_pylist()).lengths
        long = np.flatnonzero(lengths > (backend.max_tokens or np.iinfo(np.int64).max))
        if len(long) and not first:
            source, number = job.corpus.where(row + int(valid[long[0]]))
            line = batch.column(LINE)[int(valid[long[0]])].as_py()
            first = f"{source.place} {f'line {line}' if line else f'row {number + 1}'} with {lengths[long[0]]}"
        count += len(long)
        row += batch.num_rows
    return LongTexts(count, first)


def refuse_long(found: Iterable[LongTexts], most: int | None) -> None:
    """Raises UserError for texts that the model would cut, `found` in runs of rows that follow each other; names the first.

    `most`: tokens that the model reads.
    """
    some = [one for one in found if one.count]
    if some:
        raise UserError(
            f"corpus.long_text=error: {sum(one.count for one in some)} texts are longer than the {most} tokens that the model reads; the first is {some[0].first}. Take corpus.long_text=truncate or chunk, or shorten them."
        )
