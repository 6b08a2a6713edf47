"""Texts that come again in a part: computed once, kept no longer than they are needed."""

import random

import numpy as np
import pyarrow as pa

from steps.common.embeddings.repeats import KeptVectors, find_repeats


def windows_of(texts, size):
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def carry_out(windows, most_kept):
    """Do what plans say, the text itself for its vector: what every row got, and what each window has computed."""
    plans, count = find_repeats([pa.array(window, pa.string()) for window in windows], most_kept)
    assert count <= most_kept
    got, computed, kept = [], [], [None] * count
    for window, plan in zip(windows, plans):
        computed.append([window[row] for row in plan.compute])
        vectors = [*computed[-1], *(kept[slot] for slot in plan.recall)]
        got += [vectors[row] for row in plan.source]
        for row, slot in zip(plan.keep, plan.slots, strict=True):
            assert kept[slot] is None
            kept[slot] = vectors[row]
    return got, computed, kept


def test_a_text_is_computed_where_it_comes_first():
    got, computed, kept = carry_out([["a", "b", "a"], ["b", "c"], [], ["a", "c", "d"]], 99)
    assert computed == [["a", "b"], ["c"], [], ["d"]]
    assert kept == ["a", "b", "c"]
    assert got == ["a", "b", "a", "b", "c", "a", "c", "d"]


def test_texts_that_come_again_in_their_window_only_are_not_kept():
    assert carry_out([["a", "a"], ["b", "b"]], 99)[1:] == ([["a"], ["b"]], [])


def test_texts_beyond_those_kept_are_computed_in_every_window():
    assert carry_out([["a", "b"], ["b", "a", "c"], ["c", "b"]], 1)[1:] == ([["a", "b"], ["b", "c"], ["b", "c"]], ["a"])


def test_the_empty_text_is_a_text_and_white_space_another():
    assert carry_out([["", " "], [""]], 99)[1] == [["", " "], []]


def test_windows_without_a_text_have_nothing_to_compute():
    assert carry_out([[]], 99) == ([], [[]], [])
    assert carry_out([[], ["a"], []], 99) == (["a"], [[], ["a"], []], [])


def test_every_row_gets_its_own_vector_and_every_text_is_computed_once():
    rng = random.Random(1)
    for _ in range(300):
        texts = [rng.choice(["", "a", "b", "c", "d", str(rng.random())]) for _ in range(rng.randint(1, 60))]
        got, computed, _ = carry_out(windows_of(texts, rng.randint(1, 20)), len(texts))
        assert got == texts
        assert [text for window in computed for text in window] == list(dict.fromkeys(texts))


def test_with_little_room_every_row_still_gets_its_own_vector():
    rng = random.Random(2)
    for _ in range(300):
        texts = [rng.choice("abcdefg") for _ in range(rng.randint(1, 60))]
        windows = windows_of(texts, rng.randint(1, 20))
        got, computed, _ = carry_out(windows, rng.randint(0, 4))
        assert got == texts
        assert all(len(set(window)) == len(window) for window in computed)


def test_kept_vectors_are_as_wide_as_those_that_are_stored():
    kept = KeptVectors(np.empty((2, 3), "int8"), np.empty(2, np.int64), np.empty(2, bool))
    assert (kept.vectors.shape, kept.vectors.dtype, kept.lengths.shape) == ((2, 3), np.int8, (2,))
