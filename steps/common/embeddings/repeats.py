"""Texts that stand in a corpus more than once: computed where they come first, recalled where they come again.

Knows neither MLflow nor Hydra. The corpus is read through before anything is computed (steps/common/corpus.py), so it
is known which texts come again: only those are kept, and only until their last row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Most memory for vectors that are kept, in bytes.
MAX_KEPT = 64_000_000

# Longest text that is kept beside its vector, in characters: longer ones seldom repeat, and would take the memory.
MAX_KEPT_TEXT = 4_000


@dataclass(frozen=True)
class WindowPlan:
    """How the texts of a window get their vectors.

    Row i takes row `source[i]` of: the vectors of `compute`, in order, then those kept under the keys `recall`.
    Afterwards the vectors of `compute` are kept whose position is in `keep`, under its key; then `forget` is dropped.
    """

    compute: list[str]
    recall: list[int]
    source: np.ndarray
    keep: dict[int, int]
    forget: list[int]


class RepeatPlanner:
    """Plans window after window, ahead of what is computed. The same windows give the same plans."""

    def __init__(self, repeats: dict[int, int], most_kept: int):
        # Rows still to come, by hash.
        self._left = dict(repeats)
        self._most_kept = most_kept
        # Key under which a text's vector is kept.
        self._keys: dict[str, int] = {}
        self._next_key = 0

    def plan(self, texts: Sequence[str]) -> WindowPlan:
        rows_of: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows_of.setdefault(text, []).append(row)
        compute = [text for text in rows_of if text not in self._keys]
        recalled = [text for text in rows_of if text in self._keys]
        source = np.empty(len(texts), np.int64)
        for position, text in enumerate([*compute, *recalled]):
            source[rows_of[text]] = position
        recall = [self._keys[text] for text in recalled]
        keep, forget = {}, []
        for position, text in enumerate(compute):
            again = self._count(text, len(rows_of[text]))
            if again and len(self._keys) < self._most_kept and len(text) <= MAX_KEPT_TEXT:
                self._keys[text] = keep[position] = self._next_key
                self._next_key += 1
        for text in recalled:
            if not self._count(text, len(rows_of[text])):
                forget.append(self._keys.pop(text))
        return WindowPlan(compute, recall, source, keep, forget)

    def _count(self, text: str, rows: int) -> bool:
        """Whether the text comes again after these rows."""
        if not self._left:
            return False
        key = hash(text)
        left = self._left.get(key, 0) - rows
        if left > 0:
            self._left[key] = left
            return True
        self._left.pop(key, None)
        return False


class KeptVectors:
    """Vectors and token counts by key, in one block: thousands of small arrays would keep the memory between them."""

    def __init__(self, most: int, width: int, dtype: str = "float32"):
        self.most = most
        # Memory is taken when a row is written.
        self._vectors = np.empty((most, width), dtype)
        self._lengths = np.empty(most, np.int64)
        self._rows: dict[int, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: int, vector: np.ndarray, length: int) -> None:
        row = self._free.pop() if self._free else len(self._rows)
        self._rows[key] = row
        self._vectors[row], self._lengths[row] = vector, length

    def get(self, keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [n, width] and token counts [n]."""
        rows = [self._rows[key] for key in keys]
        return self._vectors[rows], self._lengths[rows]

    def forget(self, key: int) -> None:
        self._free.append(self._rows.pop(key))
