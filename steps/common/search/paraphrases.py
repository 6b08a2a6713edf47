"""Paraphrases of a corpus, as tables: its pairs, clusters, and the corpus without its duplicates."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.search.by_score import Pile, pair_equal, pair_rows, spread_out
from steps.common.search.groups import Cluster, Duplicates, find_clusters
from steps.common.search.index import OWN, ROWS, VECTORS
from steps.common.search.matrix import map_matrix
from steps.common.search.near import Distinct, Pairs, find_near

# The tables, as files.
PAIRS, CLUSTERS, DUPLICATES, KEPT = "pairs.parquet", "clusters.parquet", "duplicates.parquet", "deduplicated.parquet"

NONE = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))

# Rows that are written together.
WRITTEN = 65_536


class Corpus:
    """The rows of a corpus that have an embedding, as `collect` has written them to a folder."""

    def __init__(self, folder: Path):
        self.rows = pa.ipc.open_file(pa.memory_map(str(folder / ROWS))).read_all()
        self.distinct = Distinct(map_matrix(folder / VECTORS))

    def name(self, rows: np.ndarray, pattern: str) -> dict[str, pa.ChunkedArray]:
        """What some rows are called and say; `pattern` makes the name of each column."""
        named = self.rows.select([name for name in OWN if name in self.rows.column_names])
        found = named.take(pa.array(rows, pa.int64()))
        return {pattern.format(name): found.column(name) for name in found.column_names}


@dataclass(frozen=True)
class Mined:
    """Pairs of distinct vectors, and what they make duplicates."""

    pile: Pile
    duplicates: Duplicates


def mine(new: Corpus, old: Corpus | None, threshold: float, scratch: Path) -> Mined:
    """Find the pairs within a corpus, or between one and an older one, with a cosine of at least `threshold`."""
    pile, duplicates = Pile(scratch), Duplicates(len(new.distinct))
    for pairs in find_near(new.distinct, old.distinct if old else None, threshold):
        pile.add(pairs)
        if old is None:
            duplicates.add_within(pairs)
        else:
            duplicates.add_across(pairs)
    return Mined(pile, duplicates)


def write_pairs(mined: Mined, new: Corpus, old: Corpus | None, folder: Path) -> int:
    """Write all pairs of rows, the highest score first; returns how many they are."""
    second = old or new

    def found() -> Iterator[Pairs]:
        # So that a table without rows has its columns.
        yield NONE
        if old is None:
            yield from pair_equal(new.distinct)
        for pairs in mined.pile.by_score():
            yield from pair_rows(pairs, new.distinct, second.distinct)

    return write(
        folder / PAIRS,
        (
            pa.table(
                {"score": pa.array(pairs.scores[some])}
                | new.name(pairs.first[some], "{}_1")
                | second.name(pairs.second[some], "{}_2")
            )
            for pairs in found()
            for some in cut(len(pairs))
        ),
    )


def write_duplicates(mined: Mined, new: Corpus, old: Corpus | None, folder: Path) -> int:
    """Write which row stands for which, and the rows that are kept with the number of rows that each stands for.

    Returns how many rows are left out.
    """
    other, scores = stand_for(mined.duplicates, new.distinct, old.distinct if old else None)
    kept, left_out = np.flatnonzero(other < 0), np.flatnonzero(other >= 0)
    counts = np.ones(len(other), np.int64)
    if old is None:
        counts += np.bincount(other[left_out], minlength=len(other))
    tables = (
        pa.table(new.name(some, "{}") | (old or new).name(other[some], "kept_{}") | {"score": pa.array(scores[some])})
        for some in (left_out[piece] for piece in cut(len(left_out)))
    )
    write(folder / DUPLICATES, tables)
    name = "stands_for"
    while name in new.rows.column_names:
        name += "_"
    tables = (
        new.rows.take(pa.array(some)).append_column(name, pa.array(counts[some]))
        for some in (kept[piece] for piece in cut(len(kept)))
    )
    write(folder / KEPT, tables)
    return len(left_out)


def stand_for(duplicates: Duplicates, new: Distinct, old: Distinct | None) -> tuple[np.ndarray, np.ndarray]:
    """The row that stands for each row, int64, -1 where it stands for itself; and the score of the two, float32."""
    others, scores = np.repeat(duplicates.others, new.counts), np.repeat(duplicates.scores, new.counts)
    found = np.where(others >= 0, (old or new).firsts[others], -1)
    if old is None:
        # Rows that have the vector of a kept row.
        firsts = np.repeat(new.firsts, new.counts)
        equal = (found < 0) & (new.rows != firsts)
        found[equal], scores[equal] = firsts[equal], 1
    by_row = np.argsort(new.rows)
    return found[by_row], scores[by_row]


def write_clusters(mined: Mined, corpus: Corpus, least: int, folder: Path, scratch: Path) -> int:
    """Write the clusters of `least` rows or more, the largest first, each from its centre outwards; returns how many they are."""
    clusters = find_clusters(mined.pile, corpus.distinct, scratch, least)
    found = [list_rows(one, corpus.distinct) for one in clusters]
    rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in found)])
    sizes = np.array([one.rows for one in clusters], np.int64)
    own = {
        "cluster": np.repeat(np.arange(1, len(clusters) + 1), sizes),
        "rows": np.repeat(sizes, sizes),
        "score": np.concatenate([np.empty(0, np.float32), *(scores for _, scores in found)]),
    }
    tables = (
        pa.table({name: pa.array(values[some]) for name, values in own.items()} | corpus.name(rows[some], "{}"))
        for some in cut(len(rows))
    )
    write(folder / CLUSTERS, tables)
    return len(clusters)


def list_rows(cluster: Cluster, distinct: Distinct) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a cluster from its centre outwards, and their cosines with it."""
    members = cluster.vectors
    scores = np.minimum(distinct.take(members) @ distinct.take(members[:1])[0], 1)
    scores[0] = 1
    of, at = spread_out(distinct.starts[members], distinct.counts[members])
    rows, scores = distinct.rows[at], scores[of]
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]


def cut(rows: int) -> Iterator[slice]:
    """Rows that are written together; of none an empty slice, so that a table without rows has its columns."""
    for start in range(0, rows or 1, WRITTEN):
        yield slice(start, start + WRITTEN)


def write(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables of one schema one after another; returns their rows."""
    writer, rows = None, 0
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows
