"""Resampled scores, for the interval around a score and around a difference of two."""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from steps.common.quality.spec import Bootstrap

# Resamples computed at a time, so that memory stays small.
BATCH = 50


def resample(statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray], settings: Bootstrap) -> np.ndarray:
    """A statistic of every resample: float64 [settings.resamples]; NaN where a resample has none.

    Args:
        statistic: takes arrays of [..., n], one for each of the samples, and `axis`; gives float [...].
        samples: arrays of [n], drawn together.
    """
    with warnings.catch_warnings():
        # A resample of equal grades has no correlation; it is left out of the interval.
        for kind in (stats.ConstantInputWarning, stats.DegenerateDataWarning):
            warnings.simplefilter("ignore", kind)
        return stats.bootstrap(
            samples,
            statistic,
            n_resamples=settings.resamples,
            batch=BATCH,
            vectorized=True,
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
