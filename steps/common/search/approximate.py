"""Approximate search: a graph of near vectors (HNSW, Malkov and Yashunin 2016, arxiv.org/abs/1603.09320), by faiss.

faiss is imported when a graph is made or read.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from steps.common.backends.hardware import usable_cores
from steps.common.errors import UserError
from steps.common.search.matrix import Rows
from steps.common.search.scan import Hits, in_order

GRAPH = "graph.faiss"

# Rows that are added together.
TOGETHER = 16_384

# What the graph holds of a vector: faiss' own names, and None for all of it.
HELD: dict[str, str | None] = {"float32": None, "float16": "QT_fp16", "int8": "QT_8bit"}

# Vectors that int8 is trained on.
TRAINED = 65_536


def load_faiss() -> ModuleType:
    """faiss; raises UserError where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise UserError("method=approximate needs faiss: pip install faiss-cpu, or take method=exact.") from None
    return faiss


class Graph:
    """A graph over the rows of an index, by inner product."""

    def __init__(self, index: Any, effort: int):
        """`effort`: how many vectors a query keeps on its way (efSearch): more is slower, and finds more."""
        self._index = index
        self._graph = load_faiss().downcast_index(index.index)
        self._graph.hnsw.efSearch = effort

    @property
    def effort(self) -> int:
        return self._graph.hnsw.efSearch

    @classmethod
    def make(cls, vectors: Rows, held: str, *, links: int, effort: int, build_effort: int) -> "Graph":
        """A graph without rows yet.

        Args:
            held: what it holds of a vector, one of HELD. links: of each vector (M). build_effort: as effort, for each vector
                that is added (efConstruction).
        """
        faiss = load_faiss()
        kind = HELD[held]
        if kind is None:
            graph = faiss.IndexHNSWFlat(vectors.width, links, faiss.METRIC_INNER_PRODUCT)
        else:
            quantizer = getattr(faiss.ScalarQuantizer, kind)
            graph = faiss.IndexHNSWSQ(vectors.width, quantizer, links, faiss.METRIC_INNER_PRODUCT)
            graph.train(vectors.take(np.linspace(0, len(vectors) - 1, min(TRAINED, len(vectors))).astype(np.int64)))
        graph.hnsw.efConstruction = build_effort
        # Room for all rows at once: memory that grows by doubling holds everything twice. Each row has twice `links` links, and a
        # few more on the upper levels.
        storage = faiss.downcast_index(graph.storage)
        for held_in, size in (
            (storage.codes, storage.code_size * len(vectors)),
            (graph.hnsw.neighbors, (2 * links + 2) * len(vectors)),
        ):
            held_in.resize(size)
            held_in.resize(0)
        return cls(faiss.IndexIDMap(graph), effort)

    def add(self, vectors: Rows, rows: np.ndarray) -> None:
        """Add some rows."""
        load_faiss().omp_set_num_threads(usable_cores())
        for first in range(0, len(rows), TOGETHER):
            numbers = rows[first : first + TOGETHER]
            self._index.add_with_ids(vectors.take(numbers), numbers)

    def save(self, folder: Path) -> None:
        load_faiss().write_index(self._index, str(folder / GRAPH))

    @classmethod
    def read(cls, folder: Path, effort: int) -> "Graph":
        return cls(load_faiss().read_index(str(folder / GRAPH)), effort)

    def find_top(self, queries: np.ndarray, k: int) -> Hits:
        """About the `k` best rows of each query; -1 where fewer were found."""
        faiss = load_faiss()
        # One query is one thread's work, and waiting for idle ones may take longer than it.
        faiss.omp_set_num_threads(min(len(queries), usable_cores()) or 1)
        # A query cannot find more than it keeps.
        parameters = faiss.SearchParametersHNSW(efSearch=max(self.effort, k))
        scores, rows = self._index.search(queries, k, params=parameters)
        scores[rows < 0] = -np.inf
        return in_order(rows, scores)
