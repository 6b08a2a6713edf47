"""Texts that repeat within a part: computed where they come first, recalled where they come again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class KeptVectors:
    """Vectors of texts that come again in a later window, [n, width], their token counts, [n], and whether another output
    had them, [n]."""

    vectors: np.ndarray
    lengths: np.ndarray
    reused: np.ndarray


@dataclass(frozen=True)
class Repeats:
    """How the texts of a window get their vectors.

    Text i takes row `source[i]` of: the vectors of the texts `compute`, in order, then the kept vectors `recall`.
    Afterwards the vectors `keep` of those computed are kept as `slots`.
    """

    compute: np.ndarray
    source: np.ndarray
    recall: np.ndarray
    keep: np.ndarray
    slots: np.ndarray


def find_repeats(windows: Sequence[pa.Array], most_kept: int) -> tuple[list[Repeats], int]:
    """Plan how the texts of consecutive windows, without nulls, get their vectors, each text computed once.

    At most `most_kept` vectors are kept; texts beyond them are computed in every window that they are in. Returns a
    plan for each window, and the number of vectors that they keep.
    """
    # Numbered in the order in which they come first.
    encoded = pa.chunked_array(windows, pa.string()).dictionary_encode()
    numbers = np.concatenate([np.empty(0, np.int64), *(chunk.indices.to_numpy() for chunk in encoded.chunks)])
    of_windows = np.split(numbers.astype(np.int64), np.cumsum([len(window) for window in windows])[:-1])
    texts = int(numbers.max(initial=-1)) + 1
    first, last = np.zeros(texts, np.int64), np.zeros(texts, np.int64)
    for index, held in enumerate(of_windows):
        last[held] = index
    for index, held in reversed(list(enumerate(of_windows))):
        first[held] = index
    again = np.flatnonzero(last > first)[:most_kept]
    slot = np.full(texts, -1)
    slot[again] = np.arange(len(again))
    return [_plan_window(held, first, slot, index) for index, held in enumerate(of_windows)], len(again)


def _plan_window(texts: np.ndarray, first: np.ndarray, slot: np.ndarray, index: int) -> Repeats:
    """The plan of window `index`: `first` has the window of each text's first row, `slot` where its vector is kept, or -1."""
    distinct, rows, inverse = np.unique(texts, return_index=True, return_inverse=True)
    is_computed = (first[distinct] == index) | (slot[distinct] < 0)
    position = np.empty(len(distinct), np.int64)
    position[is_computed] = np.arange(is_computed.sum())
    position[~is_computed] = np.arange(is_computed.sum(), len(distinct))
    slots = slot[distinct[is_computed]]
    return Repeats(
        rows[is_computed],
        position[inverse],
        slot[distinct[~is_computed]],
        np.flatnonzero(slots >= 0),
        slots[slots >= 0],
    )
