"""Cosines that a common vector compresses: stopped, with what to do; what is so by training passes."""

import numpy as np
import pytest

from steps.common.validation.behaviour import check_mean_cosine, check_spread
from steps.common.vectors import unit_length

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return unit_length(RANDOM.normal(size=(200, 64)).astype(np.float32))


def add(vectors: np.ndarray, length: float) -> np.ndarray:
    """Unit vectors to which a vector of this length was added: the mean cosine becomes length² / (1 + length²)."""
    common = RANDOM.normal(size=vectors.shape[1])
    return vectors + (length * common / np.linalg.norm(common)).astype(np.float32)


def test_unrelated_vectors_have_a_mean_cosine_of_nothing(vectors):
    (check,) = check_mean_cosine(vectors, 0.7, declared=False)
    assert check.passed and abs(check.value) < 0.01
    assert check.threshold == "<= 0.7"


def test_a_common_vector_twice_as_long_is_stopped_and_the_line_says_what_to_type(vectors):
    (check,) = check_mean_cosine(add(vectors, 2), 0.7, declared=False)
    assert not check.passed
    assert check.value == pytest.approx(0.8, abs=0.01)
    assert "a common offset compresses the cosines" in check.threshold
    assert "-P model.expected_facts.mean_cosine=0.8" in check.threshold


def test_a_model_that_declares_its_mean_cosine_passes_up_to_it(vectors):
    (check,) = check_mean_cosine(add(vectors, 2), 0.9, declared=True)
    assert check.passed and check.threshold == "<= 0.9, as declared"
    (check,) = check_mean_cosine(add(vectors, 4), 0.9, declared=True)
    assert not check.passed


def test_beside_the_champion_the_spread_may_not_shrink(vectors):
    (same,) = check_spread(vectors, 5 * vectors, 0.5)
    assert same.passed and same.value == pytest.approx(1, abs=1e-4)
    (slight,) = check_spread(add(vectors, 0.25), vectors, 0.5)
    assert slight.passed
    (compressed,) = check_spread(add(vectors, 2), vectors, 0.5)
    assert not compressed.passed
    # Of a random pair 1 / (1 + length²).
    assert compressed.value == pytest.approx(0.2, abs=0.15)
    assert "the cosines are compressed: their interquartile range is" in compressed.threshold


def test_another_space_has_a_spread_of_its_own(vectors):
    other = add(unit_length(RANDOM.normal(size=(200, 32)).astype(np.float32)), 2)
    assert check_spread(other, vectors, 0.5) == []


def test_vectors_that_are_not_finite_are_another_checks_matter(vectors):
    broken = np.where(vectors > 0.3, np.nan, vectors)
    assert check_mean_cosine(broken, 0.7, declared=False) == check_spread(broken, vectors, 0.5) == []
