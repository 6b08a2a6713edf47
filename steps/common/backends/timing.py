"""How long a backend takes."""

import time
from collections.abc import Callable, Sequence

import numpy as np


def latencies_ms(predict: Callable[[str], object], sentences: Sequence[str], calls: int) -> np.ndarray:
    """Milliseconds of single-sentence calls, one after another, after one that is not counted."""
    predict(sentences[0])
    taken = []
    for i in range(calls):
        start = time.perf_counter()
        predict(sentences[i % len(sentences)])
        taken.append((time.perf_counter() - start) * 1000)
    return np.array(taken)


def rows_per_second(encode: Callable[[list[str]], np.ndarray], sentences: list[str]) -> float:
    """Rate of embedding the sentences, the median of three calls of a backend that has embedded others before."""
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        encode(sentences)
        rates.append(len(sentences) / (time.perf_counter() - start))
    return float(np.median(rates))
