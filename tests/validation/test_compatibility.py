"""Whether vectors of two models may stand side by side, on vectors whose answers are plain."""

from dataclasses import replace

import numpy as np
import pytest

from steps.common.validation.compatibility import compare_vectors, fit_bridge, nearest, overlap
from steps.common.validation.rules import CompatibilityConf
from steps.common.vectors import unit_length

CONF = CompatibilityConf(rows=2000, cosine=0.9, overlap=0.8, reindex_rows=None, bridge=False)
NOISE = np.random.default_rng(0)


@pytest.fixture(scope="module")
def old() -> np.ndarray:
    return unit_length(NOISE.normal(size=(120, 32)).astype(np.float32))


def compared(old, new, **others):
    return compare_vectors(old, new, replace(CONF, **others), against="champion", rows_per_second=100.0)


def test_the_same_vectors_are_compatible_whatever_their_length(old):
    found = compared(old, 3 * old)
    assert found.verdict == "compatible"
    assert found.rows == 120
    assert [found.cosine_median, found.cosine_p5] == pytest.approx([1, 1])
    assert [found.overlap_within, found.overlap_across, found.bridge_recall] == [1, 1, 1]
    assert all(one.new == pytest.approx(one.old, abs=1e-6) for one in found.quantiles)


def test_vectors_with_a_little_noise_are_compatible(old):
    found = compared(old, old + 0.01 * NOISE.normal(size=old.shape).astype(np.float32) / np.sqrt(32))
    assert found.verdict == "compatible"
    assert 0.999 < found.cosine_p5 < 1


def test_permuted_dimensions_are_the_same_model_and_need_every_text_embedded_again(old):
    found = compared(old, old[:, NOISE.permutation(32)])
    assert found.verdict == "reindex_required"
    assert abs(found.cosine_median) < 0.3
    assert found.overlap_within == 1
    assert found.overlap_across < 0.3
    assert found.bridge_recall == 1


def test_another_dimension_has_no_cosines_and_may_have_a_bridge(old):
    turned = old @ np.linalg.qr(NOISE.normal(size=(32, 32)))[0].astype(np.float32)
    found = compared(old, np.pad(turned, ((0, 0), (0, 8))))
    assert found.verdict == "reindex_required"
    assert found.cosine_median is found.cosine_p5 is found.overlap_across is None
    assert [found.overlap_within, found.bridge_recall] == [1, 1]
    assert fit_bridge(old, np.pad(turned, ((0, 0), (0, 8)))).shape == (32, 40)


def test_a_map_is_not_fitted_on_fewer_texts_than_dimensions(old):
    assert compared(old[:62], old[:62]).bridge_recall is None
    assert compared(old[:64], old[:64]).bridge_recall == 1


def test_the_cost_is_rows_at_the_measured_rate(old):
    assert compared(old, old).reindex_hours is None
    assert compared(old, old, reindex_rows=3_600_000).reindex_hours == 10


def test_a_common_vector_moves_the_thresholds_and_keeps_the_neighbours(old):
    common = np.zeros(32, np.float32)
    common[0] = 2
    found = compared(old, old + common)
    assert found.verdict == "reindex_required"
    middle = next(one for one in found.quantiles if (one.pairs, one.share) == ("unrelated", 0.5))
    assert abs(middle.old) < 0.1 and middle.new == pytest.approx(0.8, abs=0.05)
    assert found.overlap_within > 0.6


def test_texts_with_the_same_vector_are_the_same_neighbours_whatever_rounding_says():
    """A corpus whose texts are equal as far as the model reads them: the last digits must not ask for a new index."""
    one = unit_length(NOISE.normal(size=(1, 32)).astype(np.float32))
    texts = np.repeat(one, 60, axis=0)
    rounded = texts + NOISE.normal(size=texts.shape).astype(np.float32) * 1e-7
    found = compared(texts, rounded)
    assert (found.verdict, found.overlap_across, found.overlap_within) == ("compatible", 1, 1)


def test_neighbours_leave_out_the_text_itself_and_are_all_others_where_there_are_few():
    line = unit_length(np.array([[1, 0], [1, 0.1], [1, 1], [0, 1]], np.float32))
    assert [set(row) for row in nearest(line, line).tolist()] == [{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}]
    assert overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == 0.75
