"""Resampled scores, for the interval around a score and around a difference of two."""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from steps.common.quality.spec import Bootstrap

# Resamples computed at a time, so that memory stays small.
BATCH = 50


def resample(
    statistic: Callable[..., np.ndarray],
    samples: Sequence[np.ndarray],
    settings: Bootstrap,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """A statistic of every resample: float64 [settings.resamples]; NaN where a resample has none.

    Args:
        statistic: takes arrays of [..., n], one for each of the samples, and `axis`; gives float [...].
        samples: arrays of [n], drawn together.
        groups: the group of each unit, int [n]. Units of a group are drawn together, since they are not independent (the
            cluster bootstrap, Field and Welsh 2007); None where each stands alone.
    """
    if groups is not None:
        members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])

        def compute(drawn: np.ndarray) -> np.ndarray:
            rows = np.concatenate([members[group] for group in drawn])
            return statistic(*(values[rows] for values in samples), axis=-1)

        return _draw(compute, [np.arange(len(members))], settings, vectorized=False)
    return _draw(statistic, samples, settings, vectorized=True)


def _draw(
    statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray], settings: Bootstrap, *, vectorized: bool
) -> np.ndarray:
    with warnings.catch_warnings():
        # A resample of equal grades has no correlation; it is left out of the interval.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return stats.bootstrap(
            samples,
            statistic,
            n_resamples=settings.resamples,
            batch=BATCH,
            vectorized=vectorized,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(settings.seed),
        ).bootstrap_distribution


def find_interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The middle `confidence` of the values; NaN where none is finite."""
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    outside = (1 - confidence) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)
