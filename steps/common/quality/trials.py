"""Backends beside torch in float32: how near their vectors are, what they lose in quality, how fast they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from steps.common.backends.timing import latencies_ms, rows_per_second
from steps.common.quality import scoring
from steps.common.quality.comparison import compare, compare_exact
from steps.common.quality.roles import ByRole
from steps.common.quality.scoring import Score
from steps.common.quality.spec import Bootstrap
from steps.common.quality.suite import Vectors
from steps.common.vectors import finite, pair_cosine


@dataclass(frozen=True)
class Trial:
    """The result of trying a backend."""

    backend: str
    passed: bool
    reason: str
    # Its score on the first suite, in that suite's measure; and the difference to torch in float32 over all suites, with its
    # interval; points.
    score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
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
        names = ("score", "difference", "cosine_min", "rows_per_second", "p50_ms", "p95_ms")
        prefix = f"backends/{self.backend.replace('/', '-')}"
        return {f"{prefix}/{name}": getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Pace:
    """What speed is measured on: texts together, and single sentences in so many calls."""

    texts: list[str]
    sentences: Sequence[str]
    calls: int


def judge(
    name: str,
    encode_as: ByRole,
    expected: Sequence[tuple[Score, Vectors]],
    *,
    margin: float,
    bootstrap: Bootstrap,
    pace: Pace,
    is_exact: bool = False,
) -> Trial:
    """Score a backend: it passes where it is shown to be no worse than torch in float32 (comparison.compare).

    Args:
        expected: the score of torch in float32 on every suite, and its vectors of the suite's texts, or of more.
        is_exact: this is the backend that has made them; it need not do that again.
    """
    scores, cosines = [], []
    for best, exact in expected:
        suite = best.suite
        vectors = exact if is_exact else scoring.embed(suite, encode_as)
        scores.append(best if is_exact else scoring.score(suite, vectors))
        cosines += [
            pair_cosine(vectors.of(role, texts), exact.of(role, texts)).min() for role, texts in suite.texts.items()
        ]
    found = (
        compare_exact(scores, margin)
        if is_exact
        else compare(scores, [best for best, _ in expected], margin, bootstrap)
    )
    encode = encode_as(None)
    latency = latencies_ms(lambda sentence: encode([sentence]), pace.sentences, pace.calls)
    return Trial(
        backend=name,
        passed=found.is_no_worse,
        reason=f"{found.result}, {found.describe_points()}",
        score=finite(scores[0].value),
        difference=finite(found.difference.value),
        low=finite(found.difference.low),
        high=finite(found.difference.high),
        scores={score.suite.name: finite(score.value) for score in scores},
        cosine_min=finite(min(cosines)),
        rows_per_second=rows_per_second(encode, pace.texts),
        p50_ms=float(np.percentile(latency, 50)),
        p95_ms=float(np.percentile(latency, 95)),
        digest=encode_as.digest,
    )
