"""The node `engine` of encode's config, explained in conf/engine/_base.yaml."""

from dataclasses import dataclass
from enum import StrEnum


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
