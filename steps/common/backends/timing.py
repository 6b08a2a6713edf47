"""How long a backend takes."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def latencies_ms(predict: Callable[[T], object], given: Sequence[T], calls: int) -> np.ndarray:
    """Milliseconds of calls with one sentence, or another single thing, each: one after another, after one that is not counted."""
    predict(given[0])
    return np.array([timed(partial(predict, given[i % len(given)])) * 1000 for i in range(calls)])


def rows_per_second(encode: Callable[[list[str]], np.ndarray], sentences: list[str]) -> float:
    """Rate of embedding the sentences, the median of three calls of a backend that has embedded others before."""
    return float(np.median([len(sentences) / timed(partial(encode, sentences)) for _ in range(3)]))
