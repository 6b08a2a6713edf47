"""Rows that are sorted and computed together: cut from a corpus, and made rows of a part again.

Knows neither MLflow nor Hydra.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steps.common.backends import TokenizedTexts
from steps.common.corpus.corpus import Corpus
from steps.common.corpus.texts import LINE, REASON
from steps.common.embeddings.parts import embedding_column, rejects_schema
from steps.common.embeddings.repeats import WindowPlan

# Rows sorted by length together: enough that the texts of a batch are of about one length, few enough to hold.
WINDOW = 8192

# Longest texts fill a window before its rows do; in bytes of UTF-8.
WINDOW_BYTES = 16_000_000


@dataclass(frozen=True)
class Window:
    """Rows that are sorted and computed together, read and tokenised. They belong to one part."""

    stem: str
    # Numbers of the window's first row, in the corpus and in its part, and whether the part ends with it.
    first_row: int
    row_in_part: int
    is_last: bool
    batch: pa.RecordBatch
    valid: np.ndarray
    texts: list[str]
    plan: WindowPlan
    # What each text to compute is cut into; None without a chunker.
    pieces: list[list[str]] | None
    # None where the part is finished.
    tokens: TokenizedTexts | None


@dataclass(frozen=True)
class Embedded:
    """The vectors of a window, as they are stored, and what was found of its texts."""

    # Of each text, or of each of its pieces one after another: [n, width].
    vectors: np.ndarray
    # Pieces of each text, and their words; None where there is a vector for each text.
    pieces: list[list[str]] | None
    # Tokens of each text, before truncation; with pieces those of all of them.
    lengths: np.ndarray


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
    # Rows that were computed: those with a text, less the repeats of another.
    computed_rows: int = 0

    def add(self, other: "Counts") -> None:
        for name in (one.name for one in fields(Counts)):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def cut_windows(
    batches: Iterable[pa.RecordBatch], rows: int, bytes: int, rows_per_part: int
) -> Iterator[pa.RecordBatch]:
    """Join the batches of a corpus, and cut them again at `rows`, with the row that fills `bytes`, and where a part ends.

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


def count(window: Window, embedded: Embedded, max_tokens: int | None, *, chunked: bool) -> Counts:
    """What is to be counted in a window."""
    limit = max_tokens or np.iinfo(np.int64).max
    lengths = embedded.lengths
    long_rows = int((lengths > limit).sum())
    return Counts(
        rows=window.batch.num_rows,
        tokens=int(lengths.sum() if chunked else np.minimum(lengths, limit).sum()),
        long_rows=long_rows,
        truncated_rows=0 if chunked else long_rows,
        empty_rows=sum(not text.strip() for text in window.texts),
        null_rows=window.batch.num_rows - len(window.texts),
        computed_rows=len(window.plan.compute),
    )


def rejects_of(window: Window, corpus: Corpus) -> pa.Table:
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


def to_table(window: Window, embedded: Embedded, schema: pa.Schema) -> pa.Table:
    """The rows of a window as they are written."""
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
    return pa.table([columns[name] for name in schema.names], schema=schema)
