"""Quality suites: graded pairs, paraphrases, and queries with the documents that answer them. Knows neither MLflow nor Hydra."""

import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from steps.common import corpus
from steps.common.errors import UserError

# What a text is to a model that has prompts for it: nothing special, a query, or a document.
Role = str | None


@dataclass(frozen=True)
class SuiteSpec:
    """What conf/suite says."""

    kind: str
    name: str | None
    path: str | None
    hub_id: str | None
    revision: str | None
    split: str
    sentence1: str
    sentence2: str
    score: str
    query: str
    relevant: str
    documents: str | None
    document_id: str
    document: str
    threshold: float
    references: dict[str, float]
    below_reference: float | None
    below_champion: float | None


@dataclass(frozen=True)
class Suite:
    """Sentence pairs with a human grade (kind sts), or with 1 for the same meaning and 0 for another (paraphrase)."""

    name: str
    path: Path
    first: list[str]
    second: list[str]
    scores: np.ndarray
    kind: str = "sts"

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def unit(self) -> str:
        return "pairs"

    @property
    def metric(self) -> str:
        return {"sts": "spearman", "paraphrase": "average_precision"}[self.kind]

    @property
    def sentences(self) -> list[str]:
        """Every distinct sentence once."""
        return list(dict.fromkeys([*self.first, *self.second]))

    @property
    def texts(self) -> dict[Role, list[str]]:
        """What has to be embedded."""
        return {None: self.sentences}

    @property
    def columns(self) -> dict[str, list]:
        """The suite as a table, for the record."""
        return {"sentence1": self.first, "sentence2": self.second, "score": self.scores.tolist()}

    def sample(self, most: int) -> "Suite":
        """At most so many pairs, evenly from the whole suite."""
        if len(self) <= most:
            return self
        rows = np.linspace(0, len(self) - 1, most).round().astype(int)
        return Suite(
            self.name,
            self.path,
            [self.first[row] for row in rows],
            [self.second[row] for row in rows],
            self.scores[rows],
            self.kind,
        )


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


AnySuite = Suite | RetrievalSuite


def digest(suite: AnySuite) -> str:
    """SHA-256 of the files a suite was read from."""
    paths = [suite.path, *([suite.documents_path] if isinstance(suite, RetrievalSuite) else [])]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _name(given: str | None, file: Path) -> str:
    """A name that mlflow takes in that of a metric."""
    return re.sub(r"[^A-Za-z0-9_.\- ]", "_", given or file.stem)


def read_suite(path: Path, name: str | None, sentence1: str, sentence2: str, score: str, kind: str = "sts") -> Suite:
    """Read graded pairs, or paraphrases, from JSON Lines, CSV, TSV or Parquet.

    Raises:
        UserError: a missing column, a row without sentence or number, fewer than two rows, equal grades, or
            paraphrases that are graded otherwise than with 0 and 1.
    """
    file, (first, second, scores) = _read_columns(path, [sentence1, sentence2, score])
    for row, (a, b, grade) in enumerate(zip(first, second, scores), start=1):
        if not isinstance(a, str) or not isinstance(b, str):
            raise UserError(
                f"{file} row {row}: expected two sentences in {sentence1!r} and {sentence2!r}, found {a!r} and {b!r}."
            )
        if _number(grade) is None:
            raise UserError(f"{file} row {row}: expected a number in {score!r}, found {grade!r}.")
        if kind == "paraphrase" and _number(grade) not in (0, 1):
            raise UserError(
                f"{file} row {row}: expected 1 (same meaning) or 0 in {score!r}, found {grade!r}. Graded pairs are suite.kind=sts."
            )
    if len(scores) < 2:
        raise UserError(f"{file} holds {len(scores)} row(s); expected at least two, or there is nothing to correlate.")
    grades = np.array([_number(grade) for grade in scores])
    if np.ptp(grades) == 0:
        raise UserError(
            f"every {score!r} in {file} is {grades[0]:g}; expected different grades, or no {'correlation' if kind == 'sts' else 'average precision'} is defined."
        )
    return Suite(_name(name, file), file, first, second, grades, kind)


def read_retrieval(
    path: Path, documents: Path, name: str | None, query: str, relevant: str, document_id: str, document: str
) -> RetrievalSuite:
    """Read queries with the ids of the documents that answer them, and those documents.

    Rows with the same query are one query. Ids are a string with spaces between them (in Parquet also a list).

    Raises:
        UserError: a missing column, a document given twice or without text, a query without documents or with one
            that is not there.
    """
    documents_file, (texts, ids) = _read_columns(documents, [document, document_id], "suite.documents")
    known: dict[str, str] = {}
    for row, (key, text) in enumerate(zip(ids, texts), start=1):
        if key is None or not isinstance(text, str):
            raise UserError(
                f"{documents_file} row {row}: expected an id in {document_id!r} and a text in {document!r}, found {key!r} and {text!r}."
            )
        if str(key) in known:
            raise UserError(f"{documents_file} row {row}: the id {key!r} stands there twice; expected each once.")
        known[str(key)] = text
    file, (queries, answers) = _read_columns(path, [query, relevant])
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
        _name(name, file), file, documents_file, list(wanted), [frozenset(keys) for keys in wanted.values()], known
    )


def _read_columns(path: Path, columns: list[str], key: str = "suite.path") -> tuple[Path, list[list]]:
    """Columns of the one file that a path names, whole."""
    place, *others = corpus.find_files(path)
    file = place.local
    if others:
        raise UserError(f"{path} names {len(others) + 1} files; expected one suite. Give one of them, such as {file}.")
    kind = corpus.detect_format(place)
    if kind == "text":
        raise UserError(
            f"{key}: {file} is a text file; expected a suite with the columns {', '.join(columns[:-1])} and {columns[-1]}."
        )
    values: list[list] = [[] for _ in columns]
    for arrays in corpus.read_columns(place, kind, columns, 8192):
        for column, array in zip(values, arrays):
            column += array.to_pylist()
    return file, values


def _number(value) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
