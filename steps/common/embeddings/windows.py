"""Rows that are sorted and computed together: cut from a corpus, and made rows of a part again."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steps.common.backends import TokenizedTexts
from steps.common.corpus.corpus import Corpus
from steps.common.corpus.texts import LINE, REASON
from steps.common.embeddings.job import Job, consecutive
from steps.common.embeddings.parts import embedding_column, rejects_schema
from steps.common.embeddings.repeats import KeptVectors, Repeats, find_repeats
from steps.common.embeddings.reuse import Held


@dataclass(frozen=True)
class Window:
    """Rows of one part that are sorted and computed together."""

    part: int
    # Number of the window's first row in the corpus, and whether the part ends with the window.
    first_row: int
    is_last: bool
    batch: pa.RecordBatch
    repeats: Repeats
    # Shared with the other windows that `repeats` was planned with.
    kept: KeptVectors

    @functools.cached_property
    def valid(self) -> np.ndarray:
        """Which rows have a text: bool [rows]."""
        return pc.is_valid(self.batch.column("text")).to_numpy(zero_copy_only=False)

    @functools.cached_property
    def texts(self) -> list[str]:
        """The texts of these rows."""
        return self.batch.column("text").drop_null().to_pylist()


@dataclass(frozen=True)
class Sample:
    """Reused texts that are computed anew: as `encoder.tokenize` makes them ready, and their stored vectors [n, width]."""

    pieces: list[list[str]] | None
    tokens: TokenizedTexts
    vectors: np.ndarray


@dataclass(frozen=True)
class TokenizedWindow:
    """A window that is ready to be computed. Its units are the texts that get a vector each: its distinct texts, or their pieces."""

    window: Window
    # With a chunker: the pieces of each text whose vector is their mean, of those to compute; or, where each piece has a
    # vector, of each distinct text.
    pieces: list[list[str]] | None
    # Of the units to compute, and what there is of the others.
    tokens: TokenizedTexts
    held: Held | None
    sample: Sample | None = None


@dataclass(frozen=True)
class Embedded:
    """The vectors of a window, as they are stored, and what was found of its texts."""

    # Of each text, or of each of its pieces one after another: [n, width].
    vectors: np.ndarray
    # Pieces of each text, and their words; None where there is a vector for each text.
    pieces: list[list[str]] | None
    # Tokens of what each vector is of, before truncation: [n].
    lengths: np.ndarray
    # Whether all of a text's vectors come from another output: [texts].
    reused: np.ndarray
    # Distinct texts that were computed.
    computed: int


@dataclass
class Counts:
    """What was found in some rows of a corpus."""

    rows: int = 0
    tokens: int = 0
    # Rows longer than the model reads, and those of them that were cut.
    long_rows: int = 0
    truncated_rows: int = 0
    empty_rows: int = 0
    null_rows: int = 0
    # Rows that were computed: those with a text that is not reused, less the repeats of another.
    computed_rows: int = 0
    # Rows whose vectors come from another output.
    reused_rows: int = 0

    def add(self, other: "Counts") -> None:
        for name in (one.name for one in fields(Counts)):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def read_windows(job: Job, parts: Iterable[int]) -> Iterator[list[Window]]:
    """Read parts, in growing order: lists of windows, those of a whole part or of as many bytes as may be read ahead.

    Where a list ends depends on the rows of its part alone, so the repeats in it do too.
    """
    for run in consecutive(parts):
        row, end = job.rows_of(run.start).start, job.rows_of(run.stop - 1).stop
        batches = job.corpus.batches(job.limits.read, row, end)
        held: list[pa.RecordBatch] = []
        size = 0
        for batch in cut_windows(batches, job.limits.rows, job.limits.bytes, job.options.rows_per_part):
            held.append(batch)
            size += sum(_size(column) for column in batch.columns)
            rows = sum(one.num_rows for one in held)
            if size >= job.limits.ahead or row + rows == job.rows_of(row // job.options.rows_per_part).stop:
                yield make_windows(job, held, row)
                row, held, size = row + rows, [], 0


def make_windows(job: Job, batches: list[pa.RecordBatch], row: int) -> list[Window]:
    """Windows of the batches of one part, the first of which begins at a row of the corpus."""
    part = row // job.options.rows_per_part
    plans, count = find_repeats([batch.column("text").drop_null() for batch in batches], job.most_kept)
    # The system gives memory only to rows that are written.
    kept = KeptVectors(np.empty((count, job.width), job.stored_dtype), np.empty(count, np.int64), np.empty(count, bool))
    windows = []
    for batch, repeats in zip(batches, plans):
        end = row + batch.num_rows
        is_last = end == job.rows_of(part).stop
        windows.append(Window(part, row, is_last, batch=batch, repeats=repeats, kept=kept))
        row = end
    return windows


def _size(column: pa.Array) -> int:
    """About how many bytes a column takes, by its values alone: Arrow's own figure depends on how it was cut."""
    kind = column.type
    try:
        if pa.types.is_struct(kind):
            return sum(_size(child) for child in column.flatten())
        if pa.types.is_nested(kind) and not pa.types.is_union(kind):
            return 8 * len(column) + _size(column.flatten())
        return pc.sum(pc.binary_length(column)).as_py() or 0
    except pa.ArrowNotImplementedError:
        return 8 * len(column)


def cut_windows(
    batches: Iterable[pa.RecordBatch], rows: int, bytes: int, rows_per_part: int
) -> Iterator[pa.RecordBatch]:
    """Join batches that begin with the first row of a part, and cut them again at `rows`, with the row that fills `bytes`,
    and where a part ends.

    Where a window is cut depends on the rows of its part alone, so that a part that is encoded again is the same.
    """
    pending: list[pa.RecordBatch] = []
    held = size = done = 0
    for batch in batches:
        while batch.num_rows:
            room = min(rows - held, rows_per_part - (done + held) % rows_per_part)
            sizes = np.cumsum(pc.fill_null(pc.binary_length(batch.column("text").slice(0, room)), 0).to_numpy())
            room = min(room, int(np.searchsorted(sizes, bytes - size)) + 1)
            head, batch = batch.slice(0, room), batch.slice(room)
            pending.append(head)
            held += head.num_rows
            size += int(sizes[head.num_rows - 1])
            if held == rows or size >= bytes or (done + held) % rows_per_part == 0:
                yield pa.concat_batches(pending)
                done += held
                pending, held, size = [], 0, 0
    if pending:
        yield pa.concat_batches(pending)


def count_window(window: Window, embedded: Embedded, max_tokens: int | None, *, chunked: bool) -> Counts:
    """What is to be counted in a window."""
    limit = max_tokens or np.iinfo(np.int64).max
    lengths = embedded.lengths
    if embedded.pieces:
        counts = np.array([len(pieces) for pieces in embedded.pieces])
        lengths = np.add.reduceat(lengths, np.cumsum(counts) - counts)
    long_rows = int((lengths > limit).sum())
    return Counts(
        rows=window.batch.num_rows,
        tokens=int(lengths.sum() if chunked else np.minimum(lengths, limit).sum()),
        long_rows=long_rows,
        truncated_rows=0 if chunked else long_rows,
        empty_rows=sum(not text.strip() for text in window.texts),
        null_rows=window.batch.num_rows - len(window.texts),
        computed_rows=embedded.computed,
        reused_rows=int(embedded.reused.sum()),
    )


def find_rejects(window: Window, corpus: Corpus) -> pa.Table:
    """The rows of a window that get no embedding, as they stand in rejects.parquet. Ids stay in Arrow: Python has not
    every type of them, and JSON has few."""
    reasons = window.batch.column(REASON)
    rows = pc.indices_nonzero(pc.is_valid(reasons))
    numbers = [window.first_row + row for row in rows.to_pylist()]
    columns = [
        pa.array(numbers, pa.int64()),
        _take(window.batch.column("id"), rows),
        pa.array(corpus.files_of(numbers), pa.string()),
        window.batch.column(LINE).take(rows),
        reasons.take(rows),
    ]
    return pa.table(columns, schema=rejects_schema(corpus.id_type))


def _take(column: pa.Array, rows: pa.Array) -> pa.Array:
    """Some rows of a column, of any type: Arrow's own `take` has none for string views and the like."""
    try:
        return column.take(rows)
    except pa.ArrowNotImplementedError:
        return pa.concat_arrays([column.slice(row, 1) for row in rows.to_pylist()] or [column.slice(0, 0)])


def to_table(window: Window, embedded: Embedded, schema: pa.Schema) -> tuple[pa.Table, pa.Array]:
    """The rows of a window as they are written, and their texts, written or not."""
    batch, valid = window.batch, window.valid
    columns = {name: batch.column(name) for name in schema.names if name in batch.schema.names}
    if embedded.pieces is not None:
        repeats = np.ones(batch.num_rows, np.int64)
        repeats[valid] = [len(pieces) for pieces in embedded.pieces]
        rows = np.repeat(np.arange(batch.num_rows), repeats)
        columns = {name: _take(column, pa.array(rows)) for name, column in columns.items()}
        valid = valid[rows]
        words = np.full(len(rows), None, object)
        words[valid] = [piece for pieces in embedded.pieces for piece in pieces]
        numbers = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        columns |= {"text": pa.array(words, pa.string()), "chunk": pa.array(numbers, pa.int32())}
    columns["embedding"] = embedding_column(embedded.vectors, valid, schema.field("embedding").type)
    texts = columns.get("text", batch.column("text"))
    return pa.table([columns[name] for name in schema.names], schema=schema), texts
