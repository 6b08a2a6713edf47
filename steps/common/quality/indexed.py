"""Suites of queries that an index answers, with the ids of the rows that it should find."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import pyarrow as pa

from steps.common.errors import UserError
from steps.common.quality.columns import Role, name_suite
from steps.common.quality.retrieval import TOP, Retrieval, check_known, read_queries
from steps.common.quality.spec import SuiteSpec
from steps.common.quality.suite import Vectors, sample_rows
from steps.common.vectors import shorten, unit_length

if TYPE_CHECKING:
    from steps.common.search.index import Index

# Ids that are looked at together.
BATCH = 65_536

Encode = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Opened:
    """An index, and what was done to its vectors, which queries need too (as embedding.* of encode)."""

    index: "Index"
    truncate_dim: int | None
    normalize: bool

    def search(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best rows for queries as their model makes them, float32 [n, dim]: scores float32 and rows int64, [n, top_k]."""
        vectors = shorten(queries, self.truncate_dim, self.normalize)
        hits = self.index.search(unit_length(vectors) if self.index.facts.metric == "cosine" else vectors, top_k)
        return hits.scores, hits.rows

    def ids(self, rows: np.ndarray) -> list[str]:
        return [str(key) for key in self.index.take(rows).column("id").to_pylist()]


@dataclass(frozen=True)
class Indexed(Retrieval):
    """Queries, and ids of the rows that answer each, scored by nDCG@10 of what an index finds for them.

    What is found is what users get: by stored vectors, in the numbers and by the method of the index. Of a text in chunks the
    best chunk counts. `documents` holds the texts of the rows that answer a query, once an index is opened.
    """

    kind: ClassVar[str] = "index"
    of_one_model: ClassVar[bool] = True

    opened: Opened | None = field(default=None, repr=False)

    @classmethod
    def read(cls, spec: SuiteSpec, path: Path) -> Self:
        """Read queries with the ids of the rows that answer them; `on` gives the index.

        Raises:
            UserError: no index is named, or as read_queries.
        """
        if not spec.index:
            raise UserError("suite.index is not given; a suite of kind index needs one. Type suite.index=<index run>.")
        file, wanted = read_queries(path, spec.query, spec.relevant)
        name, relevant = name_suite(spec.name, file), list(wanted.values())
        return cls(name, file, file, queries=list(wanted), relevant=relevant, documents={})

    def on(self, opened: Opened, where: str) -> Self:
        """The suite on an index.

        Args:
            where: what the user knows the index by.

        Raises:
            UserError: an id that the index does not hold.
        """
        wanted: set[str] = set().union(*self.relevant)
        columns = [name for name in ("id", "text") if name in opened.index.rows.column_names]
        documents: dict[str, str] = {}
        for batch in opened.index.rows.select(columns).to_batches(max_chunksize=BATCH):
            keys = [str(key) for key in batch.column("id").to_pylist()]
            rows = [row for row, key in enumerate(keys) if key in wanted and key not in documents]
            texts = batch.column("text").take(pa.array(rows, pa.int64())).to_pylist() if "text" in columns else None
            documents |= {keys[row]: texts[place] if texts else keys[row] for place, row in enumerate(rows)}
        check_known(self.path, dict(zip(self.queries, self.relevant)), documents, where)
        return replace(self, opened=opened, documents=documents)

    @property
    def texts(self) -> dict[Role, list[str]]:
        return {"query": self.queries}

    def sample(self, most: int) -> Self:
        rows = sample_rows(len(self), most)
        return replace(self, queries=[self.queries[row] for row in rows], relevant=[self.relevant[row] for row in rows])

    def ask(self, encode: Encode, query: str) -> np.ndarray:
        """The rows that one query finds, as a user asks it: int64 [1, <= 10]."""
        return self._opened.search(encode([query]), TOP)[1]

    def compute_cosines(self, vectors: Vectors) -> np.ndarray:
        """The score of each hit and, behind them, the rows of the hits, -1 for none: float64 [queries, 2, <= 10].

        No row of a document is there twice, which in an index of chunks it could be.
        """
        queries = vectors.of("query", self.queries)
        rows = self._opened.index.facts.rows
        count = asked = min(TOP, rows)
        found = np.full((len(queries), 2, count), -1, np.float64)
        left = np.arange(len(queries))
        while len(left):
            kept = [self._keep_distinct(*hits) for hits in zip(*self._opened.search(queries[left], asked))]
            for query, (scores, numbers) in zip(left, kept):
                size = min(count, len(numbers))
                found[query, :, :size] = scores[:size], numbers[:size]
            left = left[[len(numbers) < count for _, numbers in kept]] if asked < rows else left[:0]
            asked = min(2 * asked, rows)
        return found

    def _keep_distinct(self, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hits of one query, best first, without those of a document that is there already."""
        scores, rows = scores[rows >= 0], rows[rows >= 0]
        _, first = np.unique(self._opened.ids(rows), return_index=True)
        return scores[np.sort(first)], rows[np.sort(first)]

    def find_first(self, cosines: np.ndarray) -> list[tuple[str | None, str]]:
        rows = cosines[:, 1, 0].astype(np.int64)
        found = self._opened.index.take(rows[rows >= 0]).to_pylist()
        shown = iter((str(row["id"]), row.get("text", str(row["id"]))) for row in found)
        return [next(shown) if row >= 0 else (None, "nothing") for row in rows]

    def _find_hits(self, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = cosines[:, 1].astype(np.int64)
        keys = np.full(rows.shape, None, object)
        keys[rows >= 0] = self._opened.ids(rows[rows >= 0])
        hits = [[key in wanted for key in found] for found, wanted in zip(keys, self.relevant)]
        return np.array(hits), np.array([len(wanted) for wanted in self.relevant])

    @property
    def _opened(self) -> Opened:
        if self.opened is None:
            raise UserError(f"suite {self.name} is of kind index, which validate scores; expected another kind here.")
        return self.opened

    @property
    def caption(self) -> str:
        return "How high the index ranks the rows that answer each query: 1 is at the very top, 0 is not among the first ten."

    @property
    def files(self) -> list[Path]:
        return [self.path]
