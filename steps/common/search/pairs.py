"""Scores of pairs, as the pairwise functions of sentence_transformers.util give them."""

from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np

from steps.common.vectors import pair_cosine


class PairMetric(StrEnum):
    """What a score of a pair is. The two distances are negated, so that more is more alike."""

    cosine = "cosine"
    dot = "dot"
    euclidean = "euclidean"
    manhattan = "manhattan"


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cosine": pair_cosine,
    "dot": lambda first, second: np.sum(first * second, axis=1),
    "euclidean": lambda first, second: -np.linalg.norm(first - second, axis=1),
    "manhattan": lambda first, second: -np.abs(first - second).sum(axis=1),
}


def score_pairs(
    embed: Callable[[list[str]], np.ndarray], first: Sequence[str | None], second: Sequence[str | None], metric: str
) -> np.ndarray:
    """The score of each pair of texts, float32 [n]; NaN where one of the two is null. Each distinct text is embedded once.

    Args:
        embed: texts -> float32 [n, dim].
    """
    whole = [i for i, pair in enumerate(zip(first, second)) if None not in pair]
    rows = {
        text: row
        for row, text in enumerate(dict.fromkeys(t for i in whole for t in (first[i], second[i]) if t is not None))
    }
    scores = np.full(len(first), np.nan, np.float32)
    if whole:
        vectors = embed(list(rows))
        one, other = (vectors[[rows[texts[i] or ""] for i in whole]] for texts in (first, second))
        scores[whole] = SCORES[metric](one, other)
    return scores
