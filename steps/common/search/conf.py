"""The nodes of index's config, explained in conf/index.yaml."""

from dataclasses import dataclass, field
from enum import StrEnum

from steps.common.errors import UserError


class Metric(StrEnum):
    """What a score is."""

    cosine = "cosine"
    dot = "dot"


class Method(StrEnum):
    auto = "auto"
    exact = "exact"
    approximate = "approximate"


class Numbers(StrEnum):
    """What is compared."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    binary = "binary"


@dataclass
class GraphConf:
    links: int = field(metadata={"min": 2})
    build_effort: int = field(metadata={"min": 1})
    effort: int = field(metadata={"min": 1})


@dataclass
class MeasureConf:
    queries: int = field(metadata={"min": 1})
    min_recall: float = field(metadata={"min": 0})
    max_p95_ms: float | None = field(metadata={"min": 0})


@dataclass
class BuildConf:
    """All that decides how vectors are searched."""

    metric: Metric
    method: Method
    approximate_above: int = field(metadata={"min": 0})
    vectors: Numbers
    rescore: int = field(metadata={"min": 0})
    graph: GraphConf
    measure: MeasureConf


def check_threshold(threshold: float) -> None:
    """Raises UserError for a least cosine of paraphrases that is none."""
    if not 0 < threshold <= 1:
        raise UserError(f"threshold is {threshold}; expected a cosine above 0, and no more than 1.")


def check_conf(conf: BuildConf) -> None:
    """Raises UserError for settings that do not go together."""
    if conf.vectors == "binary" and conf.metric == "dot":
        raise UserError(
            "vectors=binary keeps only signs, and metric=dot needs the length of each vector. Take metric=cosine, or vectors=int8."
        )
    if conf.vectors == "binary" and conf.method == "approximate":
        raise UserError(
            "method=approximate holds float32, float16 or int8, not vectors=binary. Take one of these, or method=exact."
        )
