"""What is shown of a suite where the model and the suite disagree."""

import numpy as np
import pytest

from steps.common.quality import scoring
from steps.common.quality.examples import group_by_length
from steps.common.quality.pairs import GradedPairs
from steps.common.quality.retrieval import Retrieval
from steps.common.quality.suite import Vectors


def test_the_pair_whose_rank_is_farthest_from_its_grade_comes_first():
    suite = GradedPairs("s", None, ["a", "b", "c", "d"], ["w", "x", "y", "z"], np.array([1.0, 2.0, 3.0, 4.0]))
    worst, second = suite.find_disagreements(np.array([0.9, 0.1, 0.2, 0.3]), 2)
    # Ranks by cosine 4 1 2 3, by grade 1 2 3 4: three of four apart, too high; the others one of four, too low.
    assert (worst.suite, worst.first, worst.second, worst.grade, worst.cosine) == ("s", "a", "w", 1, 0.9)
    assert (worst.apart, second.apart) == (3 / 4, -1 / 4)


def test_a_miss_says_what_was_found_in_place_of_what_was_wanted():
    documents = {"d1": "one", "d2": "two", "d3": "three"}
    suite = Retrieval("r", None, None, ["q", "p", "o"], [frozenset({key}) for key in ("d1", "d2", "d1")], documents)
    misses = suite.find_misses(np.array([[0.5, 0.9, 0.1], [0.1, 0.9, 0.2], [0.1, 0.8, 0.9]]), 10)
    # o finds its document third, q second, and p first.
    assert [(miss.query, miss.wanted, miss.found) for miss in misses] == [("o", "one", "three"), ("q", "one", "two")]
    assert misses[0].unit == pytest.approx(0.5)


def test_lengths_are_grouped_into_four_of_about_one_size():
    groups = group_by_length(np.repeat([3, 5, 8, 20], 25))
    assert [(words, int(members.sum())) for words, members in groups] == [("3", 25), ("5", 25), ("8", 25), ("20", 25)]
    assert group_by_length(np.arange(1, 41))[0][0] == "1 to 20"


@pytest.mark.parametrize("words", [np.full(100, 7), np.arange(39)])
def test_equal_lengths_and_few_units_are_not_grouped(words):
    assert group_by_length(words) == []


def test_a_score_holds_its_examples_and_the_score_of_short_and_long_texts():
    """Short texts in the order of their grades, long ones in the opposite order."""
    short, long = [f"s {i}" for i in range(20)], [f"l o n g {i}" for i in range(20)]
    grades = np.tile(np.arange(20.0), 2)
    angles = np.radians(np.concatenate([np.linspace(80, 10, 20), np.linspace(10, 80, 20)]))
    suite = GradedPairs("s", None, ["x"] * 40, short + long, grades)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows = {text: row for row, text in enumerate(["x", *short, *long])}
    found = scoring.score(suite, Vectors({None: rows}, {None: np.concatenate([[[1.0, 0.0]], vectors])}))
    assert [(one.words, one.units) for one in found.by_length] == [("2", 20), ("5", 20)]
    assert [one.score for one in found.by_length] == [pytest.approx(100), pytest.approx(-100)]
    assert len(found.disagreements) == 10 and found.misses == []
