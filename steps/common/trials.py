"""Backends beside torch in float32: how near their vectors are, what they lose in quality, how fast they are.

Knows neither MLflow nor Hydra.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from steps.common import scoring
from steps.common.backends import Backend
from steps.common.embedding import pair_cosine
from steps.common.quality import latencies_ms, rows_per_second
from steps.common.scoring import EncodeAs, Score, Vectors
from steps.common.suites import AnySuite, Role

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


def by_role(load: Callable[[str | None], Backend], prompts: Collection[str]) -> EncodeAs:
    """What embeds texts in a role, by the backend that `load` gives for a prompt's name; each is loaded once.

    Args:
        prompts: the names of those the model has.
    """
    loaded: dict[str | None, Backend] = {}

    def encode_as(role: Role):
        name = next((name for name in PROMPTS.get(role, ()) if name in prompts), None)
        if name not in loaded:
            loaded[name] = load(name)
        return loaded[name].encode

    return encode_as


@dataclass(frozen=True)
class Exact:
    """A suite, and what torch in float32 makes of it."""

    suite: AnySuite
    vectors: Vectors
    score: Score


def exact(suites: Sequence[AnySuite], encode_as: EncodeAs) -> list[Exact]:
    """What the others are compared with."""
    found = []
    for suite in suites:
        vectors = scoring.embed(suite, encode_as)
        found.append(Exact(suite, vectors, scoring.score(suite, vectors)))
    return found


def judge(
    name: str,
    encode_as: EncodeAs,
    digest: str | None,
    expected: Sequence[Exact],
    tolerance: float,
    *,
    texts: list[str],
    sentences: Sequence[str],
    calls: int,
) -> Trial:
    """Score a backend: it passes unless it loses more than `tolerance` points on a suite.

    Args:
        texts: what its throughput is measured on. sentences: what its latency is measured on, in `calls` calls.
    """
    scores, losses, cosines = {}, [], []
    for known in expected:
        vectors = scoring.embed(known.suite, encode_as)
        found = scoring.score(known.suite, vectors)
        scores[known.suite.name] = _finite(found.value)
        losses.append(found.value - known.score.value)
        cosines += [pair_cosine(vectors.arrays[role], known.vectors.arrays[role]).min() for role in vectors.arrays]
    worst = min(losses, key=lambda loss: loss if math.isfinite(loss) else -math.inf)
    passed = bool(worst >= -tolerance)
    encode = encode_as(None)
    latency = latencies_ms(lambda sentence: encode([sentence]), sentences, calls)
    return Trial(
        name,
        passed,
        f"{worst:+.2f} points" + ("" if passed else f", expected no less than {-tolerance:g}"),
        next(iter(scores.values())),
        _finite(worst),
        scores,
        _finite(min(cosines)),
        rows_per_second(encode, texts),
        float(np.percentile(latency, 50)),
        float(np.percentile(latency, 95)),
        digest,
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
