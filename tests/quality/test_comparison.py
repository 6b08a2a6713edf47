"""What an interval shows of two models, on suites whose units are drawn for the test."""

import math

import numpy as np
import pytest

from steps.common.quality.comparison import Result, compare, count_needed, judge
from steps.common.quality.scoring import Difference, Score
from steps.common.quality.spec import Bootstrap

BOOTSTRAP = Bootstrap(resamples=400, confidence=0.95, seed=0)


class Mean:
    """A suite whose score is the mean of its units."""

    labels: tuple = ()
    groups = None

    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    @staticmethod
    def compute_score(units, axis=-1):
        return units.mean(axis=axis)


def scored(name, units) -> Score:
    units = np.asarray(units, np.float64)
    value = float(units.mean() * 100)
    return Score(Mean(name, len(units)), value, value, value, undefined=None, metrics={}, units=units)


def undefined(name, size=100) -> Score:
    return Score(Mean(name, size), math.nan, math.nan, math.nan, undefined="every cosine is 1", metrics={}, units=[])


def pair(name, size, loss, noise, seed=0):
    """A model that loses `loss` points on average, its units `noise` points apart from the other's."""
    draw = np.random.default_rng(seed)
    other = draw.uniform(0.3, 0.7, size)
    apart = draw.normal(size=size)
    apart = (apart - apart.mean()) / apart.std() * noise / 100
    return scored(name, other + apart - loss / 100), scored(name, other)


def result_of(*pairs, margin=0.5):
    ours, others = zip(*pairs)
    return compare(ours, others, margin, BOOTSTRAP)


@pytest.mark.parametrize(
    "low, high, result",
    [
        (0.1, 1.9, "better"),
        (0.0, 1.9, "equal"),
        # More, but by no more than the margin, as a copy with a little noise may be.
        (0.1, 0.3, "equal"),
        (-0.4, 0.3, "equal"),
        # Less, but by less than the margin.
        (-0.4, -0.1, "equal"),
        (-0.5, 0.3, "undecided"),
        (-4.0, 3.0, "undecided"),
        (-4.0, -0.1, "worse"),
        (math.nan, math.nan, "worse"),
    ],
)
def test_an_interval_shows_one_of_four_things(low, high, result):
    assert judge(Difference((low + high) / 2, low, high), 0.5) is Result(result)


def test_a_small_suite_that_shows_nothing_does_not_pass_a_model():
    found = result_of(pair("small", 40, loss=0.0, noise=5.0))
    assert found.result is Result.UNDECIDED and not found.is_no_worse
    # The same model on so many more of the same pairs is equal.
    enough = result_of(pair("large", 40 + found.needed + 40, loss=0.0, noise=5.0))
    assert enough.result is Result.EQUAL and enough.needed is None


def test_few_pairs_say_nothing_in_favour_of_a_model_unless_it_is_the_same():
    """Where every unit has lost or gained the same, the interval has no width."""
    perfect = np.ones(12)
    assert result_of((scored("few", perfect), scored("few", perfect))).result is Result.EQUAL
    for ours, others in ((perfect - 0.001, perfect), (perfect, np.full(12, 0.5))):
        found = result_of((scored("few", ours), scored("few", others)))
        assert (found.result, found.needed) == (Result.UNDECIDED, 28)
    assert result_of((scored("few", np.full(12, 0.5)), scored("few", perfect))).result is Result.WORSE
    assert result_of((scored("enough", np.ones(40)), scored("enough", np.full(40, 0.5)))).result is Result.BETTER


def test_the_number_of_pairs_that_would_decide_follows_from_the_width():
    # Twice as narrow takes four times as many: an interval of -1 +- 2 ends below 0 when it is half as wide.
    assert count_needed(Difference(-1.0, -3.0, 1.0), 0.5, 100) == 300
    # 0 +- 1 ends above -0.5 when it is half as wide.
    assert count_needed(Difference(0.0, -1.0, 1.0), 0.5, 100) == 300


def test_the_nearer_of_two_ends_counts():
    # To equal: (1 / 0.3)^2 x 100; to worse: (1 / 0.2)^2 x 100.
    assert count_needed(Difference(-0.2, -1.2, 0.8), 0.5, 100) == math.ceil((1 / 0.3) ** 2 * 100) - 100


def test_so_many_more_are_needed_that_all_together_may_speak_for_a_model():
    # A little wider than the margin: 11 pairs would do, but nothing below LEAST_UNITS is taken for equal.
    assert count_needed(Difference(0.0, -0.51, 0.51), 0.5, 10) == 30


def test_suites_count_by_their_size():
    found = result_of(pair("many", 300, loss=0.0, noise=1.0), pair("few", 100, loss=4.0, noise=20.0))
    assert found.difference.value == pytest.approx(-1.0)


def test_what_only_one_suite_can_see_is_not_averaged_away():
    pairs = [pair(f"blind-{i}", 2000, loss=0.0, noise=1.0) for i in range(3)] + [
        pair("seeing", 100, loss=5.0, noise=4.0)
    ]
    found = result_of(*pairs)
    assert found.difference.low > -0.5
    assert found.result is Result.WORSE and not found.is_no_worse
    # Each number beside what it is of: the pooled one, then that of the suite.
    pooled, lost = found.describe_points().split("; more than the margin is lost on ")
    assert pooled.startswith(f"{found.difference.value:+.2f} points over all suites (")
    assert lost == f"seeing ({found.suites['seeing'].value:+.2f})"
    assert found.describe("it") == f"worse than it: {pooled}, margin 0.5; more than the margin is lost on {lost}"


def test_two_small_losses_pass_one_by_one_and_not_together():
    """The ratchet: each hop is within the margin of its champion; the second is not within that of the best there was."""
    first = pair("suite", 1500, loss=0.35, noise=2.0)
    assert result_of(first).result is Result.EQUAL
    second = pair("suite", 1500, loss=0.70, noise=2.0)
    assert result_of(second).result is Result.WORSE


def test_a_score_that_is_undefined_is_a_loss_and_an_undefined_champion_is_not_in_the_way():
    good, other = pair("a", 100, loss=0.0, noise=0.1)
    assert result_of((undefined("a"), other)).result is Result.WORSE
    assert result_of((good, undefined("a"))).result is Result.BETTER
    assert result_of((undefined("a"), undefined("a"))).result is Result.WORSE


def test_no_difference_is_no_negative_zero():
    units = np.linspace(0.1, 0.9, 50)
    found = result_of((scored("a", units - 1e-6), scored("a", units)))
    assert found.describe_points() == "+0.00 points (+0.00 to +0.00)"


def test_what_is_the_same_is_equal():
    _, other = pair("a", 50, loss=0.0, noise=1.0)
    found = result_of((other, other))
    assert (found.result, found.difference) == (Result.EQUAL, Difference(0.0, 0.0, 0.0))


def test_over_many_seeds_no_equal_model_is_called_worse_and_no_worse_one_equal():
    """1,500 units that are 8 points apart for both: the interval is about 0.8 points wide."""
    equal = [
        result_of(pair("a", 1500, loss=np.random.default_rng(s).normal() * 0.2, noise=8, seed=s)) for s in range(20)
    ]
    assert {found.result for found in equal} <= {Result.EQUAL, Result.BETTER, Result.UNDECIDED}
    worse = [
        result_of(pair("a", 1500, loss=1.0 + np.random.default_rng(s).normal() * 0.2, noise=8, seed=s))
        for s in range(20)
    ]
    assert not any(found.is_no_worse for found in worse)
