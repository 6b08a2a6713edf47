# move: common/validation/rules.py
"""What validate asks of a model, as its config says it; explained in conf/validate.yaml."""

from dataclasses import dataclass, field


@dataclass
class Tolerance:
    """The node `tolerance`."""

    parity: float = field(metadata={"min": 0})
    invariance: float = field(metadata={"min": 0})
    unit_length: float = field(metadata={"min": 0})
    max_cosine: float
    score: float = field(metadata={"min": 0})


@dataclass
class ServingConf:
    """The node `serving`."""

    enabled: bool
    port: int | None = field(metadata={"min": 1})
    start_timeout: float = field(metadata={"min": 1})
    clients: int = field(metadata={"min": 1})
    load_seconds: float = field(metadata={"min": 0})
