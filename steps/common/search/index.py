"""An index: vectors to search, and the rows they stand for, as files of a folder that are mapped into memory."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from steps.common.errors import UserError
from steps.common.search.approximate import Graph
from steps.common.search.compressed import SMALLER, score_again
from steps.common.search.filters import choose_rows
from steps.common.search.matrix import Rows, map_matrix
from steps.common.search.scan import Float32, Hits, Scored, find_top

FACTS, VECTORS, ROWS = "index.json", "vectors.npy", "rows.arrow"

# Columns of rows.arrow that say which row it is, and what; the others are kept columns.
OWN = ("id", "chunk", "text")

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Facts:
    """What index.json says."""

    rows: int
    dim: int
    # cosine (the vectors have unit length) or dot.
    metric: str
    # exact or approximate.
    method: str = "exact"
    # The numbers that are compared: float32, float16, int8 or binary.
    vectors: str = "float32"
    # Candidates for each hit that are scored again by float32 vectors; 0: none is.
    rescore: int = 0
    # Of a graph: how many vectors a query keeps on its way.
    effort: int = 0
    format_version: int = FORMAT_VERSION


class Searcher(Protocol):
    """What finds rows."""

    def find(self, queries: np.ndarray, k: int, chosen: np.ndarray | None = None) -> Hits:
        """The `k` best rows of each query, float32 [queries, dim]; of `chosen` rows, in order, where they are given."""
        ...


class Exhaustive:
    """Compares every vector; of smaller numbers, with `rescore` the best candidates again as they are."""

    def __init__(self, vectors: Scored, whole: Rows | None = None, rescore: int = 0):
        self._vectors, self._whole, self._rescore = vectors, whole, rescore

    def find(self, queries: np.ndarray, k: int, chosen: np.ndarray | None = None) -> Hits:
        if self._whole is None:
            return find_top(self._vectors, queries, k, chosen)
        candidates = find_top(self._vectors, queries, k * self._rescore, chosen)
        return score_again(candidates.rows, self._whole, queries, k)


class Approximate:
    """Follows a graph; chosen rows are all compared, as they are."""

    def __init__(self, graph: Graph, exact: Exhaustive, whole: Rows | None, rescore: int):
        self._graph, self._exact, self._whole, self._rescore = graph, exact, whole, rescore

    def find(self, queries: np.ndarray, k: int, chosen: np.ndarray | None = None) -> Hits:
        if chosen is not None:
            return self._exact.find(queries, k, chosen)
        if self._whole is None:
            return self._graph.find_top(queries, k)
        # As many as the graph looks at for k hits: more would take it longer.
        candidates = min(k * self._rescore, max(k, self._graph.effort))
        return score_again(self._graph.find_top(queries, candidates).rows, self._whole, queries, k)


def open_searcher(folder: Path, facts: Facts, graph: Graph | None = None) -> Searcher:
    """What searches the files of a folder; `graph` is its graph, where it is in memory already."""
    whole = Rows(folder / VECTORS) if facts.rescore else None
    if facts.method == "approximate":
        exact = Exhaustive(Float32(map_matrix(folder / VECTORS)))
        return Approximate(graph or Graph.read(folder, facts.effort), exact, whole, facts.rescore)
    if facts.vectors == "float32":
        return Exhaustive(Float32(map_matrix(folder / VECTORS)))
    return Exhaustive(SMALLER[facts.vectors](folder, facts.dim), whole, facts.rescore)


class Index:
    """Answers queries from a folder that `build.build` has made."""

    def __init__(self, folder: Path):
        content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if content.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"the index has format {content.get('format_version')}, this version of the project reads {FORMAT_VERSION}. Run index again."
            )
        self.facts = Facts(**content)
        self.rows = pa.ipc.open_file(pa.memory_map(str(folder / ROWS))).read_all()
        self._searcher = open_searcher(folder, self.facts)

    def search(
        self, queries: np.ndarray, top_k: int, minimum_score: float | None = None, filter: str | None = None
    ) -> Hits:
        """The best rows for each query; row -1 is none, or one with a score below `minimum_score`.

        Args:
            queries: float32 [queries, dim], of unit length where the metric is cosine.
            filter: as filters.choose_rows takes it; what it does not let through is not ranked.

        Raises:
            UserError: a filter that cannot be used.
        """
        hits = self._searcher.find(queries, min(top_k, self.facts.rows), choose_rows(self.rows, filter))
        if minimum_score is not None:
            hits.rows[hits.scores < minimum_score] = -1
        return hits

    def take(self, numbers: np.ndarray) -> pa.Table:
        """The rows of some numbers, in their order: all columns but the embedding."""
        return self.rows.take(pa.array(numbers, pa.int64()))


def write_facts(folder: Path, facts: Facts) -> None:
    """Write index.json, last of all: it says that the index is whole."""
    (folder / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")
