"""Whether one model may stand in for another: non-inferiority on all suites at once, and on each.

"Not shown to be worse" is not "shown to be no worse": the less a suite can tell, the easier it would be to pass. So a model
replaces another only where the interval of the paired difference lies above minus a margin, as in a non-inferiority trial
(Piaggio et al. 2012, CONSORT extension; Walker and Nowacki 2011).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from steps.common.quality.bootstrap import find_interval
from steps.common.quality.scoring import Difference, Score
from steps.common.quality.spec import Bootstrap


class Result(StrEnum):
    """What a comparison shows."""

    BETTER = "better"
    EQUAL = "equal"
    WORSE = "worse"
    UNDECIDED = "undecided"


# Of so few pairs or queries often none changes its rank, and then the interval has no width: by simulation, of models that
# lose 1.3 points 47 % are called equal on 10 pairs, 6 % on 20, and 1.5 % on 40.
LEAST_UNITS = 40

# Units that differ by less are rounding.
SAME_UNIT = 1e-5

# Each result in words, from the one that speaks most against a model to the one that speaks most for it.
READINGS = {
    Result.WORSE: "worse than",
    Result.UNDECIDED: "not shown to be as good as",
    Result.EQUAL: "no worse than",
    Result.BETTER: "better than",
}


@dataclass(frozen=True)
class Comparison:
    """A model beside another: the difference over all suites, and on each; points."""

    result: Result
    # Each suite counts by its number of units.
    difference: Difference
    margin: float
    # How many more pairs and queries would decide, in the present mix of suites; None where it is decided.
    needed: int | None
    suites: dict[str, Difference]

    @property
    def is_no_worse(self) -> bool:
        """Whether the model may replace the other."""
        return self.result in (Result.BETTER, Result.EQUAL)

    def describe(self, other: str) -> str:
        """In words: `no worse than the champion: -0.12 points (-0.30 to +0.05), margin 0.5`.

        Args:
            other: what the model is compared with, such as `the champion`.
        """
        return f"{READINGS[self.result]} {other}: {self._describe_all()}, margin {self.margin:g}{self._describe_rest()}"

    def describe_points(self) -> str:
        """The difference and its interval, on which suites too much is lost, and what would decide."""
        return self._describe_all() + self._describe_rest()

    def _describe_all(self) -> str:
        if not math.isfinite(self.difference.value):
            return "no score to compare"
        over = " over all suites" if len(self.suites) > 1 else ""
        interval = f"({self.difference.low:+z.2f} to {self.difference.high:+z.2f})"
        return f"{self.difference.value:+z.2f} points{over} {interval}"

    def _describe_rest(self) -> str:
        """The suites that lose more than the margin, each with its own points, and how many pairs would decide."""
        lost = [f"{name} ({found.value:+z.2f})" for name, found in self.suites.items() if found.high < -self.margin]
        if self.result is Result.WORSE and lost and len(self.suites) > 1 and math.isfinite(self.difference.value):
            return f"; more than the margin is lost on {', '.join(lost)}"
        return f"; about {self.needed:,} more pairs would decide" if self.needed else ""


def find_worst(comparisons: Mapping[str, Comparison]) -> Result | None:
    """The result that speaks most against a model; None where it was compared with none."""
    results = [comparison.result for comparison in comparisons.values()]
    return min(results, key=list(READINGS).index, default=None)


def compare(scores: Sequence[Score], others: Sequence[Score], margin: float, bootstrap: Bootstrap) -> Comparison:
    """Compare two models on the same suites.

    Better: more than the margin is gained, and the whole interval of the pooled difference is above 0. Equal: it is above
    -margin. Worse: it is below 0 and reaches below -margin, or one suite alone is lost by more than the margin, at a
    confidence that is corrected for the number of suites (Bonferroni), so that what only one suite can see is not averaged
    away. Undecided: anything else, and whatever fewer than LEAST_UNITS units say in favour of a model.

    Weights are the numbers of units: near those of the inverse variances, and unlike them no matter of the outcome.

    Args:
        scores: of the model. others: of the one it would replace, on suites of the same names, or on some of them.
        margin: points that count as no loss.
    """
    by_name = {other.suite.name: other for other in others}
    shared = [one for one in scores if one.suite.name in by_name]
    pairs = [(one, by_name[one.suite.name]) for one in shared if not by_name[one.suite.name].undefined]
    strict = 1 - (1 - bootstrap.confidence) / max(1, len(pairs))
    suites: dict[str, Difference] = {}
    drawn, values, weights = [], [], []
    is_lost = any(one.undefined for one in scores)
    for one, other in pairs:
        found = one.resample(bootstrap) - other.resample(bootstrap)
        value = one.value - other.value
        suites[one.suite.name] = Difference(value, *find_interval(found, bootstrap.confidence))
        is_lost |= find_interval(found, strict)[1] < -margin
        drawn.append(found)
        values.append(value)
        weights.append(len(one.suite))
    # A model without a number to compare with is not in the way.
    pooled = Difference(math.inf, math.inf, math.inf)
    if pairs:
        total = np.average(np.array(drawn), axis=0, weights=weights)
        pooled = Difference(float(np.average(values, weights=weights)), *find_interval(total, bootstrap.confidence))
    result = Result.WORSE if is_lost else judge(pooled, margin)
    needed = count_needed(pooled, margin, sum(weights)) if result is Result.UNDECIDED else None
    if result in (Result.BETTER, Result.EQUAL) and 0 < sum(weights) < LEAST_UNITS and not _are_same(pairs):
        result, needed = Result.UNDECIDED, LEAST_UNITS - sum(weights)
    return Comparison(result, pooled, margin, needed, suites)


def _are_same(pairs: Sequence[tuple[Score, Score]]) -> bool:
    """Whether no unit differs: the models are the same, as far as these suites go."""
    return all(np.allclose(one.units, other.units, rtol=0, atol=SAME_UNIT) for one, other in pairs)


def compare_exact(scores: Sequence[Score], margin: float) -> Comparison:
    """A model beside itself; a score that is undefined is a loss all the same."""
    none = Difference(0.0, 0.0, 0.0)
    result = Result.WORSE if any(one.undefined for one in scores) else Result.EQUAL
    return Comparison(result, none, margin, needed=None, suites={one.suite.name: none for one in scores})


def judge(difference: Difference, margin: float) -> Result:
    """What the interval of a difference shows; one that is undefined is a loss."""
    if not math.isfinite(difference.low) and difference.low != math.inf:
        return Result.WORSE
    if difference.low > 0 and difference.value > margin:
        return Result.BETTER
    if difference.low > -margin:
        return Result.EQUAL
    return Result.WORSE if difference.high < 0 else Result.UNDECIDED


def count_needed(difference: Difference, margin: float, units: int) -> int | None:
    """How many more units would decide, if the difference stays as it is.

    The width of an interval falls with the square root of the number of units. It has to end before -margin, which counts
    from LEAST_UNITS units on, or before 0.

    Returns:
        None where no number would: the difference is exactly -margin or 0 on the side that counts.
    """
    below, above = difference.value - difference.low, difference.high - difference.value
    enough = []
    if difference.value > -margin:
        enough.append(max(LEAST_UNITS, units * (below / (difference.value + margin)) ** 2))
    if difference.value < 0:
        enough.append(units * (above / -difference.value) ** 2)
    return max(1, math.ceil(min(enough)) - units) if enough else None
