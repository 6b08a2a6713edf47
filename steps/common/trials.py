"""Backends beside torch in float32: how near their vectors are, what they lose in quality, how fast they are.

Knows neither MLflow nor Hydra.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from steps.common import scoring
from steps.common.backends import Backend
from steps.common.columns import Role
from steps.common.embedding import pair_cosine
from steps.common.quality import finite, latencies_ms, rows_per_second
from steps.common.suite import Suite, Vectors

# Names of the prompts that models have for a role; the library's encode_query and encode_document take the same.
PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True)
class Trial:
    """What became of a backend that was tried."""

    backend: str
    passed: bool
    reason: str
    # Its score on the first suite, in that suite's measure, and the most it lost on any; points.
    spearman: float | None = None
    difference: float | None = None
    # Score on every suite.
    scores: dict[str, float | None] = field(default_factory=dict)
    # Cosine with the vector of torch in float32: the least of any text.
    cosine_min: float | None = None
    rows_per_second: float | None = None
    # One sentence at a time.
    p50_ms: float | None = None
    p95_ms: float | None = None
    digest: str | None = None

    def metrics(self) -> dict[str, float]:
        """What was measured, by the name of the metric."""
        names = ("spearman", "difference", "cosine_min", "rows_per_second", "p50_ms", "p95_ms")
        prefix = f"backends/{self.backend.replace('/', '-')}"
        return {f"{prefix}/{name}": getattr(self, name) for name in names if getattr(self, name) is not None}


class ByRole:
    """What embeds texts in a role (a scoring.EncodeAs), with the prompt and the route that encode_query and
    encode_document of the library take: a backend for each, each loaded once."""

    def __init__(
        self,
        load: Callable[[str | None, str | None], Backend],
        prompts: Mapping[str, str],
        default: str | None,
        tasks: Collection[str] = (),
    ):
        """
        Args:
            load: gives the backend for a prompt's name and a task, None for the model's defaults.
            prompts: those the model has. default: the name of its default prompt, if it has one.
            tasks: those it has routes for.
        """
        self._load, self._prompts, self._default = load, prompts, self._text(prompts, default)
        self._tasks = tasks
        self._loaded = {(None, None): load(None, None)}

    @staticmethod
    def _text(prompts: Mapping[str, str], name: str | None) -> str:
        return (prompts.get(name) or "") if name else ""

    def __call__(self, role: Role):
        name = next((name for name in PROMPTS.get(role, ()) if name in self._prompts), None)
        # Most models have empty prompts for every role.
        if self._text(self._prompts, name) == self._default:
            name = None
        asked = (name, role if role in self._tasks else None)
        if asked not in self._loaded:
            self._loaded[asked] = self._load(*asked)
        return self._loaded[asked].encode

    @property
    def key(self) -> str:
        """name/precision."""
        backend = self._loaded[None, None]
        return f"{backend.name}/{backend.precision}"

    @property
    def digest(self) -> str | None:
        return self._loaded[None, None].digest


@dataclass(frozen=True)
class Pace:
    """What speed is measured on: texts together, and single sentences in so many calls."""

    texts: list[str]
    sentences: Sequence[str]
    calls: int


def judge(
    name: str,
    encode_as: ByRole,
    suites: Sequence[Suite],
    expected: Sequence[Vectors],
    tolerance: float,
    pace: Pace,
    is_exact: bool = False,
) -> Trial:
    """Score a backend: it passes unless it loses more than `tolerance` points on a suite.

    Args:
        expected: what torch in float32 makes of the suites, or of more.
        is_exact: this is the backend that has made that; it need not do it again.
    """
    scores, losses, cosines = {}, [], []
    for suite, exact in zip(suites, expected):
        vectors = scoring.embed(suite, (lambda role: lambda texts: exact.of(role, texts)) if is_exact else encode_as)  # noqa: B023
        score = scoring.score(suite, vectors).value
        scores[suite.name] = finite(score)
        losses.append(score - scoring.score(suite, exact).value)
        cosines += [
            pair_cosine(array, exact.of(role, suite.texts[role])).min() for role, array in vectors.arrays.items()
        ]
    worst = min(losses, key=lambda loss: loss if math.isfinite(loss) else -math.inf)
    passed = bool(worst >= -tolerance)
    encode = encode_as(None)
    latency = latencies_ms(lambda sentence: encode([sentence]), pace.sentences, pace.calls)
    return Trial(
        name,
        passed,
        f"{worst:+.2f} points" + ("" if passed else f", expected no less than {-tolerance:g}"),
        next(iter(scores.values())),
        finite(worst),
        scores,
        finite(min(cosines)),
        rows_per_second(encode, pace.texts),
        float(np.percentile(latency, 50)),
        float(np.percentile(latency, 95)),
        encode_as.digest,
    )
