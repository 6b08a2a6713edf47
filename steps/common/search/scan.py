"""Exact search: vectors are read once, in pieces, and each query keeps its best rows.

The products are those of torch for many queries, and for one those of numpy, whose BLAS uses every core for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

# Scores that are held at once: 4 million are 16 MB.
SCORES = 4_000_000

# Queries that are scored together at most.
QUERIES = 1024

# Two products of the same vectors may differ by so much in float32, so a score this close below another is equal to it.
EQUAL = 1e-6

# Rows of float32 that are copied or read in a piece at most: 25 MB of 384 dimensions.
PIECE = 16_384


class Scored(Protocol):
    """Vectors in some form, which can be scored against queries."""

    # Rows in a piece at most.
    piece: int

    def __len__(self) -> int: ...

    def score(self, queries: torch.Tensor, rows: slice | np.ndarray) -> torch.Tensor:
        """The score of each query, float32 [queries, dim], with some of the rows: float32 [queries, rows]."""
        ...


@dataclass(frozen=True)
class Hits:
    """The best rows of each query, best first; of equal scores, the first row comes first."""

    # int64 [queries, k] and float32 [queries, k].
    rows: np.ndarray
    scores: np.ndarray


def find_top(vectors: Scored, queries: np.ndarray, k: int, chosen: np.ndarray | None = None) -> Hits:
    """The `k` best rows of each query; fewer where there are fewer.

    Args:
        queries: float32 [queries, dim].
        chosen: the rows to search, in order, int64; None searches all.
    """
    found = [
        _find_top(vectors, torch.from_numpy(queries[first : first + QUERIES]), k, chosen)
        for first in range(0, len(queries), QUERIES)
    ]
    if not found:
        return Hits(np.empty((0, 0), np.int64), np.empty((0, 0), np.float32))
    return Hits(np.concatenate([one.rows for one in found]), np.concatenate([one.scores for one in found]))


def _find_top(vectors: Scored, queries: torch.Tensor, k: int, chosen: np.ndarray | None) -> Hits:
    scores = torch.empty((len(queries), 0))
    rows = torch.empty((len(queries), 0), dtype=torch.int64)
    for piece in _pieces(vectors, len(queries), chosen):
        found = vectors.score(queries, piece)
        best, at = found.topk(min(k, found.shape[1]), dim=1)
        numbers = at + piece.start if isinstance(piece, slice) else torch.from_numpy(piece)[at]
        scores, rows = torch.cat([scores, best], 1), torch.cat([rows, numbers], 1)
        if scores.shape[1] > k:
            scores, at = scores.topk(k, dim=1)
            rows = rows.gather(1, at)
    return in_order(rows.numpy(), scores.numpy())


def find_above(vectors: Scored, queries: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every row with a score of `least` or more: the number of the query, the row and the score of each, int64, int64 and float32.

    They come in the order of the queries, the best of each first; of equal scores, the first row comes first.

    Args:
        queries: float32 [queries, dim].
    """
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    for first in range(0, len(queries), QUERIES):
        some = torch.from_numpy(queries[first : first + QUERIES])
        size = _piece_size(vectors, len(some))
        for start in range(0, len(vectors), size):
            scores = vectors.score(some, slice(start, min(start + size, len(vectors)))).numpy()
            of_query, at = np.nonzero(scores >= np.float32(least - EQUAL))
            found.append((of_query + first, at + start, scores[of_query, at]))
    of_query, rows, scores = (np.concatenate(one) for one in zip(*found))
    order = np.lexsort((rows, -scores, of_query))
    return of_query[order], rows[order], scores[order]


def _pieces(vectors: Scored, queries: int, chosen: np.ndarray | None) -> Iterator[slice | np.ndarray]:
    """Rows to score together."""
    size = _piece_size(vectors, queries)
    # Chosen rows are copied.
    size, total = (size, len(vectors)) if chosen is None else (min(size, PIECE), len(chosen))
    for first in range(0, total, size):
        end = min(first + size, total)
        yield slice(first, end) if chosen is None else chosen[first:end]


def _piece_size(vectors: Scored, queries: int) -> int:
    return max(1, min(vectors.piece, SCORES // queries))


def in_order(rows: np.ndarray, scores: np.ndarray) -> Hits:
    """Hits from rows and scores, [queries, k], in any order."""
    order = np.lexsort((rows, -scores), axis=1)
    return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def product(queries: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Queries [queries, dim] times vectors [n, dim]: [queries, n]."""
    if len(queries) == 1:
        # A product of matrices would begin with copies.
        return torch.mv(vectors, queries[0])[None]
    return queries @ vectors.T


class Float32:
    """Vectors as they are: float32 [n, dim], in memory or mapped from a file."""

    # They are not copied; each piece costs a change between the threads that multiply and those that look for the best.
    piece = 4 * PIECE

    def __init__(self, vectors: np.ndarray):
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def score(self, queries: torch.Tensor, rows: slice | np.ndarray) -> torch.Tensor:
        if len(queries) == 1:
            # torch would have one core do it.
            return torch.from_numpy(self._vectors[rows] @ queries[0].numpy())[None]
        return product(queries, torch.from_numpy(self._vectors[rows]))
