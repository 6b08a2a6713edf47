"""Texts -> batches of about one length, and what padding they cost."""

import random

import numpy as np
import pytest

from steps.common.backends.batches import computed_tokens, plan_batches, rounded_widths


def batches_of(*lengths, max_tokens=1000, max_rows=1000):
    return [
        batch.tolist() for batch in plan_batches(np.array(lengths, np.int64), max_tokens=max_tokens, max_rows=max_rows)
    ]


def computed(lengths, batches):
    return computed_tokens(np.array(lengths, np.int64), [np.array(batch) for batch in batches])


def test_the_longest_come_first():
    assert batches_of(3, 9, 5) == [[1, 2, 0]]


def test_texts_of_one_length_keep_their_order():
    assert batches_of(4, 7, 4, 7, 4, max_rows=2) == [[1, 3], [0, 2], [4]]


def test_a_batch_holds_no_more_than_its_rows():
    assert batches_of(1, 1, 1, 1, 1, max_rows=2) == [[0, 1], [2, 3], [4]]


def test_a_batch_padded_to_its_longest_holds_no_more_than_its_tokens():
    assert batches_of(5, 4, 3, 2, 1, 1, max_tokens=10) == [[0, 1], [2, 3, 4], [5]]


def test_tokens_and_rows_may_be_used_up_exactly():
    assert batches_of(5, 5, 5, 5, max_tokens=10, max_rows=2) == [[0, 1], [2, 3]]


def test_a_text_longer_than_the_tokens_of_a_batch_is_one_of_its_own():
    assert batches_of(2, 30, 2, 20, max_tokens=10) == [[1], [3], [0, 2]]


def test_texts_without_tokens_count_as_one():
    assert batches_of(0, 0, 0, 0, 0, max_tokens=2) == [[0, 1], [2, 3], [4]]
    assert batches_of(0, 3, 0, max_tokens=3) == [[1], [0, 2]]


def test_no_texts_make_no_batches():
    assert batches_of() == []


def test_a_single_text_is_a_batch():
    assert batches_of(7, max_tokens=1, max_rows=1) == [[0]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_any_texts_are_batched_once_each_within_the_limits(dtype):
    rng = random.Random(0)
    for _ in range(500):
        lengths = np.array([rng.randint(0, 60) for _ in range(rng.randint(0, 50))], dtype)
        max_tokens, max_rows = rng.randint(1, 150), rng.randint(1, 12)
        batches = plan_batches(lengths, max_tokens=max_tokens, max_rows=max_rows)
        order = [position for batch in batches for position in batch.tolist()]
        assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        for batch, following in zip(batches, [*batches[1:], None]):
            longest = max(1, int(lengths[batch[0]]))
            assert 1 <= len(batch) <= max_rows
            assert len(batch) * longest <= max_tokens or len(batch) == 1
            if following is not None:
                assert len(batch) == max_rows or (len(batch) + 1) * longest > max_tokens


# what is computed


def test_every_text_of_a_batch_is_computed_as_long_as_its_longest():
    assert computed([5, 4, 3, 2, 1], [[0, 1], [2, 3, 4]]) == 2 * 5 + 3 * 3
    assert computed([3, 3, 3], [[0, 1, 2]]) == 9
    assert computed([3, 9], [[1], [0]]) == 12


def test_a_text_without_tokens_is_computed_as_one_token_of_padding():
    assert computed([0, 0], [[0, 1]]) == 2
    assert computed([], []) == 0


def test_smaller_batches_compute_no_more():
    rng = random.Random(0)
    for _ in range(100):
        lengths = np.array([rng.randint(1, 60) for _ in range(rng.randint(1, 50))])
        found = [
            computed_tokens(lengths, plan_batches(lengths, max_tokens=10**6, max_rows=rows))
            for rows in (1, 2, 4, 8, 64)
        ]
        assert found[0] == lengths.sum()
        assert found == sorted(found)


def test_widths_are_rounded_up_to_few():
    widths = np.arange(1, 257)
    found = rounded_widths(widths, 256)
    assert found[:32].tolist() == list(range(1, 33))
    assert found[[32, 36, 63, 64, 127, 128, 255]].tolist() == [36, 40, 64, 72, 128, 144, 256]
    assert (found >= widths).all()
    assert len(set(found)) == 56


def test_no_width_is_rounded_beyond_what_the_model_reads():
    assert rounded_widths(np.array([0, 50, 61, 62, 70]), 62).tolist() == [0, 52, 62, 62, 70]
