"""Types of the config, one dataclass for each node. No defaults here: every default lives once, in conf/.

`min` in a field's metadata is the least value accepted, or the least number of entries of a list; `below` is more than
any value accepted. `one_of` returns the values accepted. `matches` is the pattern of a text, `such_as` examples of it.
"""

from dataclasses import dataclass, field

from steps.common.backends import Settings
from steps.common.corpus import readers
from steps.common.corpus.conf import CorpusConf, OnBadRow, Quoting
from steps.common.engines.conf import EncodeConf
from steps.common.exploration.conf import MapConf
from steps.common.model.conf import ModelConf
from steps.common.quality.spec import SuiteSpec
from steps.common.search.conf import BuildConf
from steps.common.search.pairs import PairMetric
from steps.common.validation.rules import ValidateConf


@dataclass
class LogServingConf:
    embeddings_api: bool


@dataclass
class LogModelConf:
    model: ModelConf
    artifact_name: str
    examples: list[str] = field(metadata={"min": 1})
    serving: LogServingConf


@dataclass
class VerifyConf:
    output: str


@dataclass
class OutputsConf:
    run_id: str


@dataclass
class IndexConf(BuildConf):
    run_id: str
    embeddings: str | None
    embedding_model: str | None
    keep_text: bool


@dataclass
class QueriesConf(CorpusConf):
    """Questions to read: as a corpus that may be left out."""

    path: str | None  # type: ignore[assignment]


@dataclass
class SearchConf:
    run_id: str
    query: str | None
    queries: QueriesConf
    interactive: bool
    top_k: int = field(metadata={"min": 1})
    minimum_score: float | None
    prompt_name: str | None
    filter: str | None


@dataclass
class ParaphrasesConf:
    run_id: str
    embeddings: str | None
    against: str | None
    embedding_model: str | None
    keep_text: bool
    threshold: float = field(metadata={"min": 0})
    min_cluster_rows: int = field(metadata={"min": 2})


@dataclass
class ExploreConf:
    run_id: str
    embedding_model: str | None
    map: MapConf
    top_k: int = field(metadata={"min": 1})
    serve: bool
    port: int | None = field(metadata={"min": 1})


@dataclass
class PairsConf:
    path: str | None
    format: str = field(metadata={"one_of": readers.names})
    column_1: str
    column_2: str
    delimiter: str | None
    quoting: Quoting
    on_bad_row: OnBadRow


@dataclass
class SimilarityConf:
    run_id: str
    pairs: PairsConf
    sentence_1: str | None
    sentence_2: str | None
    metric: PairMetric
    prompt_name: str | None
    backend: Settings


@dataclass
class BenchmarkConf:
    run_id: str
    corpus: CorpusConf
    suite: SuiteSpec
    candidates: list[str] | None
    stop_below: float = field(metadata={"min": 0, "below": 1})
    rows: int = field(metadata={"min": 2})
    repeats: int = field(metadata={"min": 1})
    backend: Settings


@dataclass
class PromoteConf:
    name: str
    version: str
    reason: str


@dataclass
class MainConf:
    overrides: list[str]


STEPS: dict[str, type] = {
    "main": MainConf,
    "log_model": LogModelConf,
    "validate": ValidateConf,
    "encode": EncodeConf,
    "verify": VerifyConf,
    "outputs": OutputsConf,
    "index": IndexConf,
    "search": SearchConf,
    "explore": ExploreConf,
    "similarity": SimilarityConf,
    "paraphrases": ParaphrasesConf,
    "benchmark": BenchmarkConf,
    "promote": PromoteConf,
}
