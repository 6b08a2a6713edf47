"""The config of encode, explained in conf/encode.yaml, and its node `engine`, in conf/engine/_base.yaml."""

from dataclasses import dataclass, field
from enum import StrEnum

from steps.common.backends import Settings
from steps.common.corpus.conf import EncodedCorpusConf
from steps.common.vectors import EmbeddingConf


class EngineName(StrEnum):
    local = "local"
    spark = "spark"


class ModelFrom(StrEnum):
    """Where a worker gets the model from."""

    store = "store"
    driver = "driver"


@dataclass
class EngineConf:
    name: EngineName
    master: str
    shared_files: bool
    model_from: ModelFrom


class OutputFormat(StrEnum):
    parquet = "parquet"
    npy = "npy"


@dataclass
class EncodeConf:
    run_id: str
    corpus: EncodedCorpusConf
    output: str | None
    reuse: str | None
    output_format: OutputFormat
    accept_changes: list[str]
    rows_per_part: int = field(metadata={"min": 1})
    keep_text: bool
    backend: Settings
    engine: EngineConf
    embedding: EmbeddingConf
