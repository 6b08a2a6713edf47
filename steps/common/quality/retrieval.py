"""Suites of queries and the documents that answer them."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from steps.common.errors import UserError, clip
from steps.common.quality.columns import Role, name_suite, read_columns
from steps.common.quality.examples import Miss, count_words
from steps.common.quality.spec import SuiteSpec
from steps.common.quality.suite import Suite, Vectors, sample_rows
from steps.common.vectors import unit_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Documents that are looked at for each query, and what one at each place is worth.
TOP = 10

GAINS = 1 / np.log2(np.arange(2, TOP + 2))


@dataclass(frozen=True)
class Retrieval(Suite):
    """Queries, and ids of the documents that answer each, scored by nDCG@10."""

    kind: ClassVar[str] = "retrieval"
    unit: ClassVar[str] = "queries"
    metric: ClassVar[str] = "ndcg_at_10"
    figure: ClassVar[str] = "nDCG@10 by query"

    documents_path: Path
    queries: list[str]
    relevant: list[frozenset[str]]
    documents: dict[str, str] = field(repr=False)

    @classmethod
    def read(cls, spec: SuiteSpec, path: Path) -> Self:
        """Read queries with the ids of the documents that answer them, and those documents.

        Raises:
            UserError: as read_queries and check_known; a document given twice or without text.
        """
        if spec.documents is None:
            raise UserError("suite.documents is null; a suite of kind retrieval needs the file of its documents.")
        documents_file, documents = _read_documents(Path(spec.documents), spec.document_id, spec.document)
        file, wanted = read_queries(path, spec.query, spec.relevant)
        check_known(file, wanted, documents, str(documents_file))
        name, relevant = name_suite(spec.name, file), list(wanted.values())
        return cls(name, file, documents_file, queries=list(wanted), relevant=relevant, documents=documents)

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def texts(self) -> dict[Role, list[str]]:
        return {
            "query": list(dict.fromkeys(self.queries)),
            "document": list(dict.fromkeys(self.documents.values())),
        }

    @property
    def columns(self) -> dict[str, list]:
        return {"query": self.queries, "relevant": [" ".join(sorted(ids)) for ids in self.relevant]}

    def sample(self, most: int) -> Self:
        """At most so many queries, and beside the documents that answer them as many others."""
        if max(len(self), len(self.documents)) <= most:
            return self
        rows = sample_rows(len(self), most)
        relevant = [self.relevant[row] for row in rows]
        answers: set[str] = set().union(*relevant)
        others = [key for key in self.documents if key not in answers]
        step = max(1, len(others) // most)
        kept = answers | set(others[::step][:most])
        documents = {key: text for key, text in self.documents.items() if key in kept}
        return replace(self, queries=[self.queries[row] for row in rows], relevant=relevant, documents=documents)

    def compute_cosines(self, vectors: Vectors) -> np.ndarray:
        """Of each query with each document, in the order of the ids: float32 [queries, documents]."""
        queries = unit_length(vectors.of("query", self.queries))
        documents = vectors.of("document", [self.documents[key] for key in sorted(self.documents)])
        return queries @ unit_length(documents).T

    def compute_units(self, cosines: np.ndarray) -> np.ndarray:
        """The nDCG@10 of each query."""
        return _compute_ndcg(*self._find_hits(cosines))

    @staticmethod
    def compute_score(units: np.ndarray, *labels: np.ndarray, axis: int = -1) -> np.ndarray:
        return units.mean(axis=axis)

    def compute_metrics(self, cosines: np.ndarray) -> dict[str, float]:
        hits, wanted = self._find_hits(cosines)
        first = np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)
        return {
            "ndcg_at_10": float(_compute_ndcg(hits, wanted).mean()),
            "recall_at_10": float((hits.sum(axis=1) / wanted).mean()),
            "mrr_at_10": float(first.mean()),
            "accuracy_at_1": float(hits[:, 0].mean()),
        }

    @property
    def words(self) -> np.ndarray:
        """Of the longest document that answers each query."""
        return np.array(
            [count_words([self.documents[key] for key in wanted]).max() for wanted in self.relevant], np.int64
        )

    def find_misses(self, cosines: np.ndarray, most: int) -> list[Miss]:
        units, first = self.compute_units(cosines), self.find_first(cosines)
        missed = [row for row in np.argsort(units, kind="stable") if first[row][0] not in self.relevant[row]]
        return [
            Miss(
                self.name,
                query=self.queries[row],
                wanted=self.documents[min(self.relevant[row])],
                found=first[row][1],
                unit=float(units[row]),
            )
            for row in missed[:most]
        ]

    def find_first(self, cosines: np.ndarray) -> list[tuple[str | None, str]]:
        """The ID and the text that each query finds first; None where it finds nothing."""
        order = sorted(self.documents)
        return [(order[column], self.documents[order[column]]) for column in cosines.argmax(axis=1)]

    def _find_hits(self, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the ten documents nearest to each query answer it, bool [queries, <= 10], and how many there are."""
        order = sorted(self.documents)
        # Equal cosines are in the order of the ids, as in the library's evaluator.
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :TOP]
        hits = [[order[column] in wanted for column in row] for row, wanted in zip(nearest, self.relevant)]
        return np.array(hits), np.array([len(wanted) for wanted in self.relevant])

    @property
    def caption(self) -> str:
        return "How high the documents of each query rank: 1 is at the very top, 0 is not among the first ten."

    def draw(self, axes: "Axes", units: np.ndarray, colours: tuple[str, str]) -> None:
        axes.hist(units, bins=20, range=(0, 1), color=colours[0])
        axes.set(xlabel="nDCG@10", ylabel="queries")

    @property
    def files(self) -> list[Path]:
        return [self.path, self.documents_path]


def read_queries(path: Path, query: str, relevant: str) -> tuple[Path, dict[str, frozenset[str]]]:
    """The file of the queries, and the ids of the documents that answer each. Rows with the same query are one query.

    Args:
        query, relevant: the columns. Ids are a string with spaces between them (in JSON Lines and Parquet also a list).

    Raises:
        UserError: a missing column, a row without a query or without documents, or fewer than two queries.
    """
    file, (queries, answers) = read_columns(path, {"query": query, "relevant": relevant})
    wanted: dict[str, set[str]] = {}
    for row, (text, given) in enumerate(zip(queries, answers), start=1):
        keys = given.split() if isinstance(given, str) else list(given) if isinstance(given, list) else [given]
        if not isinstance(text, str) or not keys or None in keys:
            raise UserError(
                f"{file} row {row}: expected a query in {query!r} and ids of documents in {relevant!r}, found {text!r} and {given!r}."
            )
        wanted.setdefault(text, set()).update(map(str, keys))
    if len(wanted) < 2:
        raise UserError(f"{file} has {len(wanted)} quer{'y' if len(wanted) == 1 else 'ies'}; expected at least two.")
    return file, {text: frozenset(keys) for text, keys in wanted.items()}


def check_known(file: Path, wanted: dict[str, frozenset[str]], known: Collection[str], where: str) -> None:
    """Raises UserError for a query that is answered by a document that is not there."""
    for text, keys in wanted.items():
        if unknown := sorted(keys.difference(known)):
            raise UserError(
                f"{file}: {clip(text)!r} is answered by {unknown[0]!r}, and there is no such id in {where}."
            )


def _compute_ndcg(hits: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    best = np.cumsum(GAINS)[np.minimum(wanted, TOP) - 1]
    return hits @ GAINS[: hits.shape[1]] / best


def _read_documents(path: Path, id_column: str, text_column: str) -> tuple[Path, dict[str, str]]:
    """The file of the documents, and their texts by id."""
    file, (texts, ids) = read_columns(path, {"document": text_column, "document_id": id_column}, "suite.documents")
    documents: dict[str, str] = {}
    for row, (key, text) in enumerate(zip(ids, texts), start=1):
        if key is None or not isinstance(text, str):
            raise UserError(
                f"{file} row {row}: expected an id in {id_column!r} and a text in {text_column!r}, found {key!r} and {text!r}."
            )
        if str(key) in documents:
            raise UserError(f"{file} row {row}: the id {key!r} is there twice; expected each id once.")
        documents[str(key)] = text
    return file, documents
