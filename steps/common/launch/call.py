"""How a step was called."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Conf = TypeVar("Conf")


@dataclass(frozen=True)
class Call(Generic[Conf]):
    """A step with its config, as the step's dataclass, as plain values and as YAML; and the command line, to resume it."""

    step: str
    conf: Conf
    config: dict[str, Any]
    as_yaml: str
    # The overrides that were typed, whether they are a sweep, and whether `mlflow run` started this process.
    typed: list[str]
    sweep: bool
    by_mlflow: bool
