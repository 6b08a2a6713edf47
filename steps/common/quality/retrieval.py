"""Suites of queries and the documents that answer them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from steps.common.errors import UserError
from steps.common.quality import columns
from steps.common.quality.columns import Role, read_columns


def ndcg(found: Sequence[str], wanted: frozenset[str]) -> float:
    discounts = 1 / np.log2(np.arange(2, 12))
    gained = sum(discount for key, discount in zip(found, discounts) if key in wanted)
    return float(gained / discounts[: len(wanted)].sum())


@dataclass(frozen=True)
class RetrievalSuite:
    """Queries, documents, and which documents answer which query."""

    name: str
    path: Path
    documents_path: Path
    queries: list[str]
    relevant: list[frozenset[str]]
    documents: dict[str, str] = field(repr=False)
    kind: str = "retrieval"

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def unit(self) -> str:
        return "queries"

    @property
    def metric(self) -> str:
        return "ndcg_at_10"

    @property
    def texts(self) -> dict[Role, list[str]]:
        return {
            "query": list(dict.fromkeys(self.queries)),
            "document": list(dict.fromkeys(self.documents.values())),
        }

    @property
    def columns(self) -> dict[str, list]:
        return {"query": self.queries, "relevant": [" ".join(sorted(ids)) for ids in self.relevant]}

    def sample(self, most: int) -> "RetrievalSuite":
        """At most so many queries, and beside the documents that answer them as many others."""
        rows = np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(int)
        relevant = [self.relevant[row] for row in rows]
        answers = set().union(*relevant)
        others = [key for key in self.documents if key not in answers]
        step = max(1, len(others) // most)
        kept = answers | set(others[::step][:most])
        return RetrievalSuite(
            self.name,
            self.path,
            self.documents_path,
            [self.queries[row] for row in rows],
            relevant,
            {key: text for key, text in self.documents.items() if key in kept},
        )


def read_retrieval(
    path: Path, documents: Path, name: str | None, query: str, relevant: str, document_id: str, document: str
) -> RetrievalSuite:
    """Read queries with the ids of the documents that answer them, and those documents.

    Rows with the same query are one query. Ids are a string with spaces between them (in Parquet also a list).

    Raises:
        UserError: a missing column, a document given twice or without text, a query without documents or with one
            that is not there.
    """
    documents_file, (texts, ids) = read_columns(documents, [document, document_id], "suite.documents")
    known: dict[str, str] = {}
    for row, (key, text) in enumerate(zip(ids, texts), start=1):
        if key is None or not isinstance(text, str):
            raise UserError(
                f"{documents_file} row {row}: expected an id in {document_id!r} and a text in {document!r}, found {key!r} and {text!r}."
            )
        if str(key) in known:
            raise UserError(f"{documents_file} row {row}: the id {key!r} stands there twice; expected each once.")
        known[str(key)] = text
    file, (queries, answers) = read_columns(path, [query, relevant])
    wanted: dict[str, set[str]] = {}
    for row, (text, given) in enumerate(zip(queries, answers), start=1):
        keys = given.split() if isinstance(given, str) else list(given) if isinstance(given, list) else [given]
        if not isinstance(text, str) or not keys or None in keys:
            raise UserError(
                f"{file} row {row}: expected a query in {query!r} and ids of documents in {relevant!r}, found {text!r} and {given!r}."
            )
        unknown = [key for key in keys if str(key) not in known]
        if unknown:
            raise UserError(f"{file} row {row}: there is no document {unknown[0]!r} in {documents_file}.")
        wanted.setdefault(text, set()).update(map(str, keys))
    if len(wanted) < 2:
        raise UserError(f"{file} holds {len(wanted)} quer{'y' if len(wanted) == 1 else 'ies'}; expected at least two.")
    return RetrievalSuite(
        columns.name(name, file),
        file,
        documents_file,
        list(wanted),
        [frozenset(keys) for keys in wanted.values()],
        known,
    )
