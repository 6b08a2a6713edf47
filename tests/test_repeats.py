"""Texts that come again: counted by hash, computed once, kept no longer than they are needed."""

import random

import pytest

from steps.common.corpus import repeats
from steps.common.corpus.repeats import RepeatCounter
from steps.common.embeddings.repeats import RepeatPlanner


class Colliding(str):
    """A text whose hash is that of every other of its kind."""

    def __hash__(self):
        return 7


def counted(*chunks):
    counter = RepeatCounter()
    for chunk in chunks:
        counter.add(chunk)
    return counter.repeats()


def windows_of(texts, size):
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def plans_of(windows, counts, most_kept):
    planner = RepeatPlanner(counts, most_kept)
    return [planner.plan(window) for window in windows]


def carry_out(plans, most_kept):
    """Do what plans say, the text itself for its vector: what every row got, what was computed, what is still kept."""
    got, computed, kept = [], [], {}
    for plan in plans:
        vectors = [*plan.compute, *(kept[key] for key in plan.recall)]
        got += [vectors[i] for i in plan.source]
        computed += plan.compute
        for position, key in plan.keep.items():
            assert key not in kept
            kept[key] = plan.compute[position]
        assert len(kept) <= most_kept
        for key in plan.forget:
            del kept[key]
    return got, computed, kept


def facts(plan):
    return plan.compute, plan.recall, plan.source.tolist(), plan.keep, plan.forget


# counting


def test_texts_that_come_again_are_counted_over_chunks():
    assert counted(["a", "b", "a"], ["c", "a", "b"]) == {hash("a"): 3, hash("b"): 2}


def test_texts_that_come_once_are_not_remembered():
    assert counted(["a", "b"], ["c"]) == {}


def test_nulls_are_no_repeats():
    assert counted([None, "a", None], [None]) == {}
    assert counted([None, "a", None], ["a", None]) == {hash("a"): 2}


def test_the_empty_text_is_a_text():
    assert counted(["", "", " "]) == {hash(""): 2}


def test_nothing_has_no_repeats():
    assert counted() == counted([]) == counted([None]) == {}


def test_counts_are_plain_numbers():
    ((key, rows),) = counted(["a", "a"]).items()
    assert type(key) is type(rows) is int


def test_texts_of_one_hash_are_counted_as_one():
    assert counted([Colliding("a"), Colliding("b"), Colliding("a")]) == {7: 3}


def test_texts_beyond_the_most_that_are_counted_are_passed_over(monkeypatch):
    monkeypatch.setattr(repeats, "MAX_COUNTED", 3)
    assert counted(["a", "a"], ["b", "b"], ["c", "c"], ["a"]) == {hash("a"): 2, hash("b"): 2}


def test_nulls_do_not_use_up_what_is_counted(monkeypatch):
    monkeypatch.setattr(repeats, "MAX_COUNTED", 3)
    assert counted([None] * 5, ["a", "a"], ["b", "b"]) == {hash("a"): 2, hash("b"): 2}


# plans


def test_a_text_is_computed_first_recalled_later_and_forgotten_last():
    counts = {hash("a"): 3, hash("c"): 2}
    first, second, third = plans_of([["a", "b", "a"], ["a", "c"], ["c"]], counts, 10)
    assert facts(first) == (["a", "b"], [], [0, 1, 0], {0: 0}, [])
    assert facts(second) == (["c"], [0], [1, 0], {0: 1}, [0])
    assert facts(third) == ([], [1], [0], {}, [1])


def test_a_text_whose_repeats_are_all_in_one_window_is_not_kept():
    (plan,) = plans_of([["a", "a", "a"]], {hash("a"): 3}, 10)
    assert facts(plan) == (["a"], [], [0, 0, 0], {}, [])


def test_texts_are_computed_in_the_order_they_come_in():
    (plan,) = plans_of([["c", "a", "c", "b", "a"]], {}, 10)
    assert facts(plan) == (["c", "a", "b"], [], [0, 1, 0, 2, 1], {}, [])


def test_a_window_without_texts_computes_nothing():
    (plan,) = plans_of([[]], {hash("a"): 2}, 10)
    assert facts(plan) == ([], [], [], {}, [])


def test_texts_that_were_not_counted_are_shared_within_a_window_only():
    first, second = plans_of([["a", "a"], ["a"]], {}, 10)
    assert facts(first) == (["a"], [], [0, 0], {}, [])
    assert facts(second) == (["a"], [], [0], {}, [])


def test_no_more_than_the_most_is_kept():
    windows = [["a", "b"], ["a", "b"], ["a", "b"]]
    first, second, third = plans_of(windows, counted(*windows), 1)
    assert facts(first) == (["a", "b"], [], [0, 1], {0: 0}, [])
    assert facts(second) == (["b"], [0], [1, 0], {}, [])
    assert facts(third) == (["b"], [0], [1, 0], {}, [0])


def test_room_that_is_free_again_is_used_again():
    windows = [["a", "b"], ["a"], ["b"], ["b"]]
    plans = plans_of(windows, counted(*windows), 1)
    assert [plan.compute for plan in plans] == [["a", "b"], [], ["b"], []]
    assert [plan.keep for plan in plans] == [{0: 0}, {}, {0: 1}, {}]
    assert [plan.forget for plan in plans] == [[], [0], [], [1]]


def test_where_nothing_can_be_kept_every_window_computes_its_own():
    windows = [["a", "b", "a"], ["b", "a"]]
    plans = plans_of(windows, counted(*windows), 0)
    assert [plan.compute for plan in plans] == [["a", "b"], ["b", "a"]]
    assert all(not (plan.recall or plan.keep or plan.forget) for plan in plans)


def test_counts_that_were_given_stay_as_they_are():
    counts = {hash("a"): 2}
    plans_of([["a"], ["a"]], counts, 10)
    assert counts == {hash("a"): 2}


@pytest.mark.parametrize("most_kept", [0, 1, 2, 10])
def test_texts_of_one_hash_keep_their_own_vectors(most_kept):
    a, b, c = (Colliding(text) for text in "abc")
    texts = [a, b, c, a, b, a, c]
    for size in range(1, 8):
        plans = plans_of(windows_of(texts, size), counted(texts), most_kept)
        got, _, _ = carry_out(plans, most_kept)
        assert [str(text) for text in got] == list("abcabac")


def random_corpus(rng):
    known = [f"text {i}" for i in range(rng.choice([1, 3, 10, 40]))]
    return [rng.choice(known) for _ in range(rng.randint(0, 80))]


def test_every_row_gets_its_own_vector_and_each_text_is_computed_once():
    rng = random.Random(1)
    for _ in range(300):
        texts = random_corpus(rng)
        windows = windows_of(texts, rng.randint(1, 20))
        got, computed, kept = carry_out(plans_of(windows, counted(texts), len(texts)), len(texts))
        assert got == texts
        assert computed == list(dict.fromkeys(texts))
        assert kept == {}


def test_with_little_room_every_row_still_gets_its_own_vector():
    rng = random.Random(2)
    for _ in range(300):
        texts = random_corpus(rng)
        windows = windows_of(texts, rng.randint(1, 20))
        most_kept = rng.randint(0, 4)
        got, computed, kept = carry_out(plans_of(windows, counted(texts), most_kept), most_kept)
        assert got == texts
        assert set(computed) == set(texts)
        assert len(computed) <= sum(len(set(window)) for window in windows)
        assert kept == {}


def test_wrong_counts_cost_no_row_its_own_vector():
    rng = random.Random(3)
    for _ in range(300):
        texts = random_corpus(rng)
        # Too low as beyond what is counted, too high as for texts of one hash, or missing.
        counts = {hash(text): rng.randint(1, 100) for text in set(texts) if rng.random() < 0.7}
        most_kept = rng.randint(0, 10)
        got, _, _ = carry_out(plans_of(windows_of(texts, rng.randint(1, 20)), counts, most_kept), most_kept)
        assert got == texts


def test_the_same_windows_give_the_same_plans():
    rng = random.Random(4)
    for _ in range(50):
        texts = random_corpus(rng)
        windows, most_kept = windows_of(texts, rng.randint(1, 20)), rng.randint(0, 5)
        first, second = (plans_of(windows, counted(texts), most_kept) for _ in range(2))
        assert [facts(plan) for plan in first] == [facts(plan) for plan in second]
