"""What an index loses, and how long it takes: on rows of the corpus that are held out, and asked as queries."""

from dataclasses import dataclass

import numpy as np
import torch

from steps.common.backends.timing import latencies_ms
from steps.common.search.index import Searcher
from steps.common.search.matrix import Rows
from steps.common.search.scan import PIECE, Hits, find_top, product

# Hits that are compared.
TOP = 10

# Two scores that differ by less are equal: the same vector can be multiplied in another order.
EQUAL = 1e-5


@dataclass(frozen=True)
class Quality:
    """Beside exact search by float32: 1 where nothing is lost.

    recall_at_10: the share of hits that are among the ten best. ndcg_at_10: the same with gains, 10 for the best row down to 1
    for the tenth, discounted by place. Both go by scores, so of rows with equal scores any will do.
    """

    recall_at_10: float
    ndcg_at_10: float


class OnDisk:
    """Vectors as they are, read piece by piece, so that a corpus larger than memory can be compared (scan.Scored)."""

    piece = PIECE

    def __init__(self, vectors: Rows):
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def score(self, queries: torch.Tensor, rows: slice | np.ndarray) -> torch.Tensor:
        """`rows` are in order, and few are left out between the first and the last."""
        first, end = (rows.start, rows.stop) if isinstance(rows, slice) else (int(rows[0]), int(rows[-1]) + 1)
        piece = self._vectors.read(first, end)
        return product(queries, torch.from_numpy(piece if isinstance(rows, slice) else piece[rows - first]))


def hold_out(rows: int, queries: int) -> np.ndarray:
    """Rows to ask as queries, evenly from all and no more than a tenth of them: int64 in order."""
    count = min(queries, rows // 10)
    return np.unique(np.linspace(0, rows - 1, count).astype(np.int64)) if count else np.empty(0, np.int64)


def compare(searcher: Searcher, vectors: Rows, held: np.ndarray, *, excludes: bool) -> Quality:
    """What a searcher finds for held-out rows among the others, beside exact search.

    Args:
        excludes: whether the held-out rows are in the searcher, and are to be left out.
    """
    queries = vectors.take(held)
    others = np.setdiff1d(np.arange(len(vectors)), held, assume_unique=True)
    best = find_top(OnDisk(vectors), queries, TOP, others)
    found = searcher.find(queries, TOP, others if excludes else None)
    return rate(best, found, queries, vectors)


def rate(best: Hits, found: Hits, queries: np.ndarray, vectors: Rows) -> Quality:
    """Compare hits with the best ones, both [queries, up to 10]."""
    wanted = best.scores.shape[1]
    recalls, gains = [], []
    for query, truth, rows in zip(queries, best.scores, found.rows[:, :wanted]):
        scores = np.full(wanted, -np.inf)
        scores[: np.sum(rows >= 0)] = vectors.take(rows[rows >= 0]) @ query
        places = find_places(scores, truth)
        recalls.append(np.mean(places < wanted))
        gains.append(discounted(places) / discounted(find_places(truth, truth)))
    return Quality(float(np.mean(recalls)), float(np.mean(gains)))


def find_places(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The place of each score in the list of the best, 0 for the first, and its length for those beyond it."""
    return np.sum(truth[None, :] > scores[:, None] + EQUAL, axis=1)


def discounted(places: np.ndarray) -> float:
    """The gains of places, in the order of the hits: as many as there are hits for the best, 1 for the last."""
    return float(np.sum((len(places) - places) / np.log2(np.arange(2, len(places) + 2))))


def time_queries(searcher: Searcher, queries: np.ndarray) -> np.ndarray:
    """Milliseconds of each query alone, one after another, after one that is not counted: float64 [queries]."""
    rows = range(len(queries))
    return latencies_ms(lambda row: searcher.find(queries[row : row + 1], TOP), rows, len(rows))
