"""Texts that stand in a corpus more than once, counted."""

from collections.abc import Sequence

import numpy as np

# Rows looked at; beyond them a repeat is found within its window only. 8 bytes each.
MAX_COUNTED = 8_000_000


class RepeatCounter:
    """Counts equal texts by their hash. Two texts of one hash cost a little memory later, and nothing else."""

    def __init__(self):
        self._hashes: list[np.ndarray] = []
        self._rows = 0

    def add(self, texts: Sequence[str | None]) -> None:
        if self._rows < MAX_COUNTED:
            present = [hash(text) for text in texts if text is not None]
            self._hashes.append(np.array(present, np.int64))
            self._rows += len(present)

    def repeats(self) -> dict[int, int]:
        """Hash -> rows, of the texts that have more than one."""
        if not self._hashes:
            return {}
        values, counts = np.unique(np.concatenate(self._hashes), return_counts=True)
        return dict(zip(values[counts > 1].tolist(), counts[counts > 1].tolist()))
