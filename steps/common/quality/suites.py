"""Quality suites: graded pairs, paraphrases, and queries with the documents that answer them. Knows neither MLflow nor Hydra."""

import hashlib
from dataclasses import dataclass

from steps.common.quality.pairs import Suite
from steps.common.quality.retrieval import RetrievalSuite


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


AnySuite = Suite | RetrievalSuite


def digest(suite: AnySuite) -> str:
    """SHA-256 of the files a suite was read from."""
    paths = [suite.path, *([suite.documents_path] if isinstance(suite, RetrievalSuite) else [])]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
