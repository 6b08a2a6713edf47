"""Types of the config, one dataclass per node. No defaults here: every default lives once, in conf/.

`min` in a field's metadata is the least value accepted, or the least number of entries of a list; `below` is more than
any value accepted.
"""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from steps.common.spec import Bootstrap, SuiteSpec


class Precision(Enum):
    auto = "auto"
    f32 = "f32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


class CorpusFormat(Enum):
    auto = "auto"
    text = "text"
    csv = "csv"
    tsv = "tsv"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"
    orc = "orc"


class Quoting(Enum):
    csv = "csv"
    none = "none"


class OnBadRow(Enum):
    auto = "auto"
    error = "error"


class LongText(Enum):
    truncate = "truncate"
    error = "error"
    chunk = "chunk"


class ChunkPooling(Enum):
    mean = "mean"
    none = "none"


class OutputFormat(Enum):
    parquet = "parquet"
    npy = "npy"


class EmbeddingDtype(Enum):
    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    binary = "binary"


@dataclass
class ModelConf:
    name: str = MISSING
    revision: str | None = MISSING
    path: str | None = MISSING
    package: str | None = MISSING
    weights_sha256: str | None = MISSING
    trust_remote_code: bool = MISSING
    prompts: dict[str, str] = MISSING
    default_prompt_name: str | None = MISSING
    known: dict[str, str] = MISSING


@dataclass
class BackendConf:
    name: str = MISSING
    precision: Precision = MISSING
    batch_size: int = field(default=MISSING, metadata={"min": 1})
    batch_tokens: int | None = field(default=MISSING, metadata={"min": 1})
    device: str = MISSING
    threads: int | None = field(default=MISSING, metadata={"min": 1})
    streams: int | None = field(default=MISSING, metadata={"min": 1})


@dataclass
class ToleranceConf:
    parity: float = field(default=MISSING, metadata={"min": 0})
    invariance: float = field(default=MISSING, metadata={"min": 0})
    unit_length: float = field(default=MISSING, metadata={"min": 0})
    spearman: float = field(default=MISSING, metadata={"min": 0})


@dataclass
class CorpusConf:
    path: str = MISSING
    format: CorpusFormat = MISSING
    text_column: str = MISSING
    id_column: str | None = MISSING
    delimiter: str | None = MISSING
    quoting: Quoting = MISSING


@dataclass
class EncodedCorpusConf(CorpusConf):
    template: str | None = MISSING
    keep_columns: list[str] = MISSING
    on_bad_row: OnBadRow | None = MISSING
    long_text: LongText = MISSING
    chunk_overlap: int = field(default=MISSING, metadata={"min": 0})
    chunk_pooling: ChunkPooling = MISSING


@dataclass
class EmbeddingConf:
    dtype: EmbeddingDtype = MISSING
    truncate_dim: int | None = field(default=MISSING, metadata={"min": 1})
    normalize: bool = MISSING
    prompt_name: str | None = MISSING
    task: str | None = MISSING


@dataclass
class LogServingConf:
    embeddings_api: bool = MISSING


@dataclass
class ServingConf:
    enabled: bool = MISSING
    port: int | None = field(default=MISSING, metadata={"min": 1})
    start_timeout: float = field(default=MISSING, metadata={"min": 1})
    clients: int = field(default=MISSING, metadata={"min": 1})
    seconds: float = field(default=MISSING, metadata={"min": 0})


@dataclass
class LogModelConf:
    model: ModelConf = field(default_factory=ModelConf)
    artifact_name: str = MISSING
    examples: list[str] = field(default=MISSING, metadata={"min": 1})
    serving: LogServingConf = field(default_factory=LogServingConf)


@dataclass
class ValidateConf:
    run_id: str = MISSING
    champion: str | None = MISSING
    suite: SuiteSpec = MISSING
    suites: dict[str, SuiteSpec] = MISSING
    bootstrap: Bootstrap = MISSING
    backend: BackendConf = field(default_factory=BackendConf)
    candidates: list[str] = MISSING
    candidate_pairs: int = field(default=MISSING, metadata={"min": 2})
    sentences: list[str] = field(default=MISSING, metadata={"min": 2})
    tolerance: ToleranceConf = field(default_factory=ToleranceConf)
    max_cosine: float = MISSING
    latency_calls: int = field(default=MISSING, metadata={"min": 1})
    serving: ServingConf = field(default_factory=ServingConf)
    fresh_environment: bool = MISSING
    register: str | None = MISSING


@dataclass
class EncodeConf:
    run_id: str = MISSING
    corpus: EncodedCorpusConf = field(default_factory=EncodedCorpusConf)
    output: str | None = MISSING
    output_format: OutputFormat = MISSING
    accept_changes: list[str] = MISSING
    rows_per_part: int = field(default=MISSING, metadata={"min": 1})
    keep_text: bool = MISSING
    backend: BackendConf = field(default_factory=BackendConf)
    embedding: EmbeddingConf = field(default_factory=EmbeddingConf)


@dataclass
class VerifyConf:
    output: str = MISSING


@dataclass
class BenchmarkConf:
    run_id: str = MISSING
    corpus: CorpusConf = field(default_factory=CorpusConf)
    suite: SuiteSpec = MISSING
    candidates: list[str] | None = MISSING
    stop_below: float = field(default=MISSING, metadata={"min": 0, "below": 1})
    rows: int = field(default=MISSING, metadata={"min": 2})
    repeats: int = field(default=MISSING, metadata={"min": 1})
    backend: BackendConf = field(default_factory=BackendConf)


@dataclass
class MainConf:
    overrides: list[str] = MISSING


STEPS: dict[str, type] = {
    "main": MainConf,
    "log_model": LogModelConf,
    "validate": ValidateConf,
    "encode": EncodeConf,
    "verify": VerifyConf,
    "benchmark": BenchmarkConf,
}
