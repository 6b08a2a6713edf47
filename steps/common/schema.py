"""Types of the config, one dataclass for each node. No defaults here: every default lives once, in conf/.

`min` in a field's metadata is the least value accepted, or the least number of entries of a list; `below` is more than
any value accepted.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from steps.common.backends import Settings
from steps.common.embedding import EmbeddingConf
from steps.common.rules import ValidateConf
from steps.common.spec import SuiteSpec


class CorpusFormat(StrEnum):
    auto = "auto"
    text = "text"
    csv = "csv"
    tsv = "tsv"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"
    orc = "orc"


class Quoting(StrEnum):
    csv = "csv"
    none = "none"


class OnBadRow(StrEnum):
    keep_nulls = "keep_nulls"
    keep_all = "keep_all"
    refuse_all = "refuse_all"


class LongText(StrEnum):
    truncate = "truncate"
    error = "error"
    chunk = "chunk"


class ChunkPooling(StrEnum):
    mean = "mean"
    none = "none"


class OutputFormat(StrEnum):
    parquet = "parquet"
    npy = "npy"


@dataclass
class ModelConf:
    name: str
    revision: str | None
    path: str | None
    package: str | None
    weights_sha256: str | None
    trust_remote_code: bool
    prompts: dict[str, str]
    default_prompt_name: str | None
    expected_facts: dict[str, str]


@dataclass
class CorpusConf:
    path: str = MISSING
    format: CorpusFormat = MISSING
    text_column: str = MISSING
    delimiter: str | None = MISSING
    quoting: Quoting = MISSING


@dataclass
class EncodedCorpusConf(CorpusConf):
    id_column: str | None = MISSING
    template: str | None = MISSING
    keep_columns: list[str] = MISSING
    on_bad_row: OnBadRow = MISSING
    long_text: LongText = MISSING
    chunk_overlap: int = field(default=MISSING, metadata={"min": 0})
    chunk_pooling: ChunkPooling = MISSING


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
class EncodeConf:
    run_id: str
    corpus: EncodedCorpusConf
    output: str | None
    output_format: OutputFormat
    accept_changes: list[str]
    rows_per_part: int = field(metadata={"min": 1})
    keep_text: bool
    backend: Settings
    embedding: EmbeddingConf


@dataclass
class VerifyConf:
    output: str


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
class MainConf:
    overrides: list[str]


STEPS: dict[str, type] = {
    "main": MainConf,
    "log_model": LogModelConf,
    "validate": ValidateConf,
    "encode": EncodeConf,
    "verify": VerifyConf,
    "benchmark": BenchmarkConf,
}
