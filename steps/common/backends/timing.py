"""How long a backend takes."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def latencies_ms(predict: Callable[[str], object], sentences: Sequence[str], calls: int) -> np.ndarray:
    """Milliseconds of single-sentence calls, one after another, after one that is not counted."""
    predict(sentences[0])
    return np.array([timed(partial(predict, sentences[i % len(sentences)])) * 1000 for i in range(calls)])


def rows_per_second(encode: Callable[[list[str]], np.ndarray], sentences: list[str]) -> float:
    """Rate of embedding the sentences, the median of three calls of a backend that has embedded others before."""
    return float(np.median([len(sentences) / timed(partial(encode, sentences)) for _ in range(3)]))
