"""stub"""

from dataclasses import dataclass, field
from enum import StrEnum

from steps.common.quality.scoring import Difference


class Result(StrEnum):
    BETTER = "better"
    EQUAL = "equal"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Comparison:
    result: Result
    difference: Difference
    margin: float
    needed: int | None
    suites: dict[str, Difference] = field(default_factory=dict)
