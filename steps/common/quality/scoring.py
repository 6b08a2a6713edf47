"""How good a model is on a suite, how sure that is, and how it compares with another.

Two models are compared on the same resamples, so what both find hard cancels out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from steps.common.quality.bootstrap import find_interval, resample
from steps.common.quality.columns import Role
from steps.common.quality.examples import Disagreement, LengthScore, Miss, group_by_length
from steps.common.quality.spec import Bootstrap
from steps.common.quality.suite import Suite, Vectors
from steps.common.vectors import finite

Encode = Callable[[list[str]], np.ndarray]

# What embeds texts in a role: with the prompt of the model for it, if it has one.
EncodeAs = Callable[[Role], Encode]

# Cosines that differ by less are rounding of equal ones.
SAME_COSINE = 1e-6

# Examples of each sort that are kept of a suite.
EXAMPLES = 10


@dataclass(frozen=True)
class Score:
    """A model's score on a suite."""

    suite: Suite
    # x 100; NaN where it is undefined, and then `undefined` says why.
    value: float
    low: float
    high: float
    undefined: str | None
    # Everything that is reported, x 100, by name.
    metrics: dict[str, float]
    # What a resample draws from: cosine of each pair, or nDCG@10 of each query.
    units: np.ndarray
    # Where model and suite disagree most, worst first, and the score of short and of long texts.
    disagreements: list[Disagreement] = field(default_factory=list, repr=False)
    misses: list[Miss] = field(default_factory=list, repr=False)
    by_length: list[LengthScore] = field(default_factory=list, repr=False)
    _resampled: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def resample(self, bootstrap: Bootstrap) -> np.ndarray:
        """The score on every resample, x 100: float64 [resamples]; NaN where it is undefined.

        Scores on one suite are made from the same resamples, so they can be subtracted. They are made once.
        """
        if self.undefined:
            return np.full(bootstrap.resamples, math.nan)
        asked = (bootstrap.resamples, bootstrap.seed)
        if asked not in self._resampled:
            suite = self.suite
            found = resample(suite.compute_score, [self.units, *suite.labels], bootstrap, suite.groups)
            self._resampled[asked] = found * 100
        return self._resampled[asked]

    @property
    def name(self) -> str:
        """Name of its metric in a run."""
        return f"quality/{self.suite.name}/{self.suite.metric}"

    def as_metrics(self) -> dict[str, float]:
        """Every number there is, by the name of its metric."""
        found = {f"quality/{self.suite.name}/{name}": value for name, value in self.metrics.items()}
        found |= {f"{self.name}_low": self.low, f"{self.name}_high": self.high}
        return {name: value for name, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Difference:
    """A score minus another model's on the same suite, with the interval of that."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval includes no difference at all."""
        return not (self.low > 0 or self.high < 0)

    def is_loss(self, allowed: float = 0.0) -> bool:
        """Whether more than `allowed` points are lost, and not by noise. An undefined score is lost."""
        return not math.isfinite(self.value) or self.high < -allowed


def embed(suite: Suite, encode_as: EncodeAs) -> Vectors:
    """Embed the texts of a suite."""
    texts = suite.texts
    return Vectors(
        {role: {text: row for row, text in enumerate(role_texts)} for role, role_texts in texts.items()},
        {role: np.asarray(encode_as(role)(role_texts)) for role, role_texts in texts.items()},
    )


def score(suite: Suite, vectors: Vectors, bootstrap: Bootstrap | None = None) -> Score:
    """Score embeddings on a suite; without `bootstrap` the interval is the score itself."""
    cosines = suite.compute_cosines(vectors)
    undefined = _why_undefined(cosines)
    if undefined:
        return Score(suite, math.nan, math.nan, math.nan, undefined=undefined, metrics={}, units=cosines)
    units = suite.compute_units(cosines)
    metrics = {name: value * 100 for name, value in suite.compute_metrics(cosines).items()}
    value = metrics[suite.metric]
    found = Score(
        suite,
        value,
        value,
        value,
        undefined=None,
        metrics=metrics,
        units=units,
        disagreements=suite.find_disagreements(cosines, EXAMPLES),
        misses=suite.find_misses(cosines, EXAMPLES),
        by_length=_score_by_length(suite, units),
    )
    if not bootstrap:
        return found
    low, high = find_interval(found.resample(bootstrap), bootstrap.confidence)
    whole = replace(found, low=low, high=high)
    whole._resampled.update(found._resampled)
    return whole


def restore(suite: Suite, units: np.ndarray) -> Score:
    """The score that was made from these units, without its interval."""
    value = float(suite.compute_score(units, *suite.labels)) * 100
    return Score(suite, value, value, value, undefined=None, metrics={suite.metric: value}, units=units)


def _score_by_length(suite: Suite, units: np.ndarray) -> list[LengthScore]:
    return [
        LengthScore(
            suite.name,
            words,
            units=int(members.sum()),
            score=finite(
                float(suite.compute_score(units[members], *(values[members] for values in suite.labels))) * 100
            ),
        )
        for words, members in group_by_length(suite.words)
    ]


def compute_score(suite: Suite, encode: Encode) -> float:
    """A suite's score x 100 by one function that embeds all its texts; NaN if it is undefined."""
    return score(suite, embed(suite, lambda role: encode)).value


def _why_undefined(cosines: np.ndarray) -> str | None:
    """Why a score from these cosines would mean nothing; None where it means something."""
    if not np.isfinite(cosines).all():
        return "embeddings hold numbers that are not finite"
    if np.ptp(cosines) < SAME_COSINE:
        return f"every cosine is {float(cosines.flat[0]):.6g}"
    return None
