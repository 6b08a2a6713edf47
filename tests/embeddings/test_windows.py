"""Batches of a corpus -> windows that are computed together."""

import itertools
import random

import pyarrow as pa

from steps.common.embeddings.windows import cut_windows


def batches_of(sizes, texts=None):
    """Batches with the ids 0, 1, ...; without texts each is one letter."""
    texts = ["x"] * sum(sizes) if texts is None else texts
    ends = list(itertools.accumulate(sizes))
    return [
        pa.record_batch(
            {"id": pa.array(range(end - size, end), pa.int64()), "text": pa.array(texts[end - size : end], pa.string())}
        )
        for size, end in zip(sizes, ends)
    ]


def windows_of(sizes, texts=None, rows=1000, bytes=1000, rows_per_part=1000):
    """The ids of every window."""
    return [
        window.column("id").to_pylist() for window in cut_windows(batches_of(sizes, texts), rows, bytes, rows_per_part)
    ]


def test_a_window_is_full_after_its_rows():
    assert windows_of([7], rows=3) == [[0, 1, 2], [3, 4, 5], [6]]


def test_many_small_batches_fill_one_window():
    assert windows_of([1] * 7, rows=3) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_batch_is_shared_by_two_windows():
    assert windows_of([2, 2, 2], rows=3) == [[0, 1, 2], [3, 4, 5]]


def test_a_window_ends_where_a_part_does():
    assert windows_of([4, 6], rows=4, rows_per_part=6) == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]


def test_a_part_smaller_than_a_window_is_one():
    assert windows_of([5], rows=4, rows_per_part=2) == [[0, 1], [2, 3], [4]]


def test_a_window_ends_with_the_row_that_brings_its_bytes_however_the_rows_came():
    texts = ["xxx", "xx", "ü", None, "xxxx", "", "x"]
    assert windows_of([1] * 7, texts, bytes=5) == [[0, 1], [2, 3, 4], [5, 6]]
    assert windows_of([3, 2, 2], texts, bytes=5) == [[0, 1], [2, 3, 4], [5, 6]]


def test_texts_of_no_bytes_fill_a_window_by_their_rows():
    assert windows_of([2, 2, 1], [None, "", None, None, ""], rows=3, bytes=1) == [[0, 1, 2], [3, 4]]


def test_no_rows_give_no_window():
    assert windows_of([]) == windows_of([0, 0]) == []


def test_batches_without_rows_are_passed_over():
    assert windows_of([0, 2, 0, 1, 0], rows=3) == [[0, 1, 2]]


def test_windows_keep_every_column_and_its_type():
    (window,) = cut_windows(batches_of([2, 1], ["a", None, "ü"]), 8, 8, 8)
    assert window.schema == pa.schema([("id", pa.int64()), ("text", pa.string())])
    assert window.to_pydict() == {"id": [0, 1, 2], "text": ["a", None, "ü"]}


def test_windows_are_cut_while_the_batches_are_read():
    read = []
    batches = (read.append(i) or batch for i, batch in enumerate(batches_of([2] * 5)))
    next(cut_windows(batches, 3, 1000, 1000))
    assert read == [0, 1]


def test_windows_lose_and_reorder_nothing_and_are_as_large_as_they_may_be():
    rng = random.Random(0)
    for _ in range(400):
        sizes = [rng.randint(0, 6) for _ in range(rng.randint(0, 12))]
        texts = [rng.choice([None, "", "x", "ü" * 3, "x" * 20]) for _ in range(sum(sizes))]
        rows, bytes, rows_per_part = rng.randint(1, 12), rng.randint(1, 80), rng.randint(1, 20)
        windows = windows_of(sizes, texts, rows, bytes, rows_per_part)
        assert [row for window in windows for row in window] == list(range(len(texts)))
        for window in windows:
            size = [len((texts[row] or "").encode()) for row in window]
            assert 1 <= len(window) <= rows
            assert window[0] // rows_per_part == window[-1] // rows_per_part
            assert sum(size[:-1]) < bytes
            whole = len(window) == rows or (window[-1] + 1) % rows_per_part == 0 or sum(size) >= bytes
            assert whole or window is windows[-1]
