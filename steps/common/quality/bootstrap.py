"""Resampled scores, for the interval around a score and around a difference of two."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Resamples computed at a time, so that memory stays small.
CHUNK = 50


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: resamples drawn, share of them an interval covers, and the seed."""

    resamples: int
    confidence: float
    seed: int

    def counts(self, size: int) -> Iterator[np.ndarray]:
        """How often each of `size` units is in a resample: int64 [<= CHUNK, size], until there are `resamples` rows."""
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.resamples, CHUNK):
            rows = min(CHUNK, self.resamples - start)
            drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
            yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """The middle `confidence` of the values; NaN where none is finite."""
        values = values[np.isfinite(values)]
        if not len(values):
            return math.nan, math.nan
        outside = (1 - self.confidence) / 2
        low, high = np.quantile(values, [outside, 1 - outside])
        return float(low), float(high)


class Mean:
    def __init__(self, values: np.ndarray):
        self._values = values

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        return counts @ self._values / counts.sum(axis=1)


class _Groups:
    """Values in ascending order, equal ones together, so that a resample is ranked without sorting it."""

    def __init__(self, values: np.ndarray):
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        self.starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self.sizes = np.diff(np.append(self.starts, len(values)))

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """The weight of each group: [resamples, units] -> [resamples, groups]."""
        return np.add.reduceat(weights[:, self.order], self.starts, axis=1)


class _Ranks(_Groups):
    def __init__(self, values: np.ndarray):
        super().__init__(values)
        self._back = np.empty_like(self.order)
        self._back[self.order] = np.arange(len(values))

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """The rank of each unit among a resample, equal ones sharing theirs, centred: float64 [resamples, units]."""
        held = self.sums(counts)
        ranks = np.cumsum(held, axis=1) - (held - 1) / 2
        centred = ranks - (counts.shape[1] + 1) / 2
        return np.repeat(centred, self.sizes, axis=1)[:, self._back]


class Spearman:
    """Pearson's correlation of the ranks; NaN for a resample whose values are all equal."""

    def __init__(self, values: np.ndarray, grades: np.ndarray):
        self._first, self._second = _Ranks(np.asarray(values)), _Ranks(grades)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        first, second = self._first(counts), self._second(counts)
        together, one, other = (
            np.einsum("rn,rn,rn->r", counts, a, b) for a, b in ((first, second), (first, first), (second, second))
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return together / np.sqrt(one * other)


class AveragePrecision:
    """Mean precision at every positive, pairs of equal cosine taken together, as scikit-learn has it."""

    def __init__(self, values: np.ndarray, labels: np.ndarray):
        self._groups, self._labels = _Groups(-np.asarray(values)), labels

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        positives = self._groups.sums(counts * self._labels)
        found, taken = np.cumsum(positives, axis=1), np.cumsum(self._groups.sums(counts), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(taken > 0, found / taken, 0.0)
            return (precision * positives).sum(axis=1) / found[:, -1]
