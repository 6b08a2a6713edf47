"""Cutting, scaling and comparing vectors whose answers are worked out by hand."""

import numpy as np
import pytest

from steps.common.vectors import pair_cosine, shorten, unit_length


def rows(*values, dtype=np.float32):
    return np.array(values, dtype)


def test_unit_length_scales_each_row_to_one():
    np.testing.assert_allclose(unit_length(rows([3, 4], [0, -2])), [[0.6, 0.8], [0, -1]], rtol=1e-6)


def test_unit_length_leaves_a_row_of_zeros_as_it_is():
    np.testing.assert_array_equal(unit_length(rows([0, 0], [3, 4]))[0], [0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_length_keeps_the_dtype_and_the_input(dtype):
    given = rows([3, 4], dtype=dtype)
    assert unit_length(given).dtype == dtype
    np.testing.assert_array_equal(given, [[3, 4]])


def test_unit_length_takes_no_rows():
    assert unit_length(np.empty((0, 5), np.float32)).shape == (0, 5)


def test_unit_length_of_something_not_finite_stays_not_finite():
    assert np.isnan(unit_length(rows([np.nan, 1]))).any()


def test_shorten_without_anything_asked_returns_the_embeddings_as_they_are():
    given = rows([3, 4, 12])
    np.testing.assert_array_equal(shorten(given, None, normalize=False), given)


def test_shorten_keeps_the_first_dimensions():
    np.testing.assert_array_equal(shorten(rows([1, 2, 3], [4, 5, 6]), 2, normalize=False), [[1, 2], [4, 5]])


def test_shorten_normalises_what_is_left_after_the_cut():
    np.testing.assert_allclose(shorten(rows([3, 4, 12]), 2, normalize=True), [[0.6, 0.8]], rtol=1e-6)


def test_shorten_normalises_without_a_cut():
    np.testing.assert_allclose(shorten(rows([3, 4, 12]), None, normalize=True), [[3 / 13, 4 / 13, 12 / 13]], rtol=1e-6)


def test_a_cut_is_contiguous_so_that_it_can_be_written_flat():
    assert shorten(rows([1, 2, 3], [4, 5, 6]), 2, normalize=False).flags.c_contiguous


def test_shorten_takes_no_rows():
    assert shorten(np.empty((0, 5), np.float32), 3, normalize=True).shape == (0, 3)


def test_pair_cosine_compares_row_by_row_whatever_the_lengths():
    first, second = rows([1, 0], [2, 0], [1, 1]), rows([5, 0], [-3, 0], [0, 7])
    np.testing.assert_allclose(pair_cosine(first, second), [1, -1, np.sqrt(0.5)], rtol=1e-6)


def test_pair_cosine_with_a_row_of_zeros_is_zero():
    np.testing.assert_array_equal(pair_cosine(rows([0, 0]), rows([1, 2])), [0])
