"""What validate asks of a model, as its config says it: one dataclass for each node, explained in conf/validate.yaml."""

from dataclasses import dataclass, field

from steps.common.backends import Settings
from steps.common.corpus.conf import CorpusConf
from steps.common.quality.spec import Bootstrap, ComparisonConf, SuiteSpec


@dataclass
class Tolerance:
    """The node `tolerance`."""

    parity: float = field(metadata={"min": 0})
    invariance: float = field(metadata={"min": 0})
    unit_length: float = field(metadata={"min": 0})
    max_cosine: float
    mean_cosine: float
    spread: float = field(metadata={"min": 0})
    score: float = field(metadata={"min": 0})


@dataclass
class ServingConf:
    """The node `serving`."""

    enabled: bool
    port: int | None = field(metadata={"min": 1})
    start_timeout: float = field(metadata={"min": 1})
    clients: int = field(metadata={"min": 1})
    load_seconds: float = field(metadata={"min": 0})


@dataclass
class CompatibilityConf:
    """The node `compatibility`."""

    rows: int = field(metadata={"min": 20})
    cosine: float
    overlap: float = field(metadata={"min": 0})
    reindex_rows: int | None = field(metadata={"min": 1})
    bridge: bool


@dataclass
class ValidateConf:
    """The whole config."""

    run_id: str
    champion: str | None
    baseline: str | None
    comparison: ComparisonConf
    corpus: CorpusConf
    compatibility: CompatibilityConf
    suite: SuiteSpec
    suites: dict[str, SuiteSpec]
    bootstrap: Bootstrap
    backend: Settings
    candidates: list[str]
    candidate_pairs: int = field(metadata={"min": 2})
    sentences: list[str] = field(metadata={"min": 2})
    tolerance: Tolerance
    latency_calls: int = field(metadata={"min": 1})
    serving: ServingConf
    fresh_environment: bool
    register: str | None

    @property
    def scored_suites(self) -> list[SuiteSpec]:
        """Those of `suites`, or where there are none `suite`."""
        return list(self.suites.values()) or [self.suite]
