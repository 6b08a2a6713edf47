"""What a config says of suites and of their intervals, one dataclass for each node."""

from dataclasses import dataclass, field

from steps.common.corpus.conf import CorpusConf


@dataclass
class SuiteSpec:
    """The node `suite`; its keys are explained in conf/suite/_base.yaml."""

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
    index: str | None
    corpus: CorpusConf | None
    title: str | None
    rows: int = field(metadata={"min": 20})
    seed: int = field(metadata={"min": 0})
    threshold: float
    references: dict[str, float]
    min_recall: float | None = field(metadata={"min": 0})
    max_p95_ms: float | None = field(metadata={"min": 0})
    max_loss_to_published: float | None = field(metadata={"min": 0})
    max_loss_to_champion: float | None = field(metadata={"min": 0})


@dataclass
class ComparisonConf:
    """The node `comparison`: what a model may lose to the one it would replace, in points; and whether it does at once."""

    margin: float = field(metadata={"min": 0})
    max_loss: float = field(metadata={"min": 0})
    promote: bool


@dataclass
class Bootstrap:
    """The node `bootstrap`: resamples drawn, share of them that an interval covers, and the seed."""

    resamples: int = field(metadata={"min": 100})
    confidence: float = field(metadata={"min": 0.5, "below": 1})
    seed: int = field(metadata={"min": 0})
