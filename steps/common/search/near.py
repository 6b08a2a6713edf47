"""All pairs of vectors that are near each other: exact, and with no bound on their number.

Every vector is turned to the corpus's principal axes and cut to the first few. What is cut off is not lost: its length is put behind
them, and by the inequality of Cauchy and Schwarz the product of two such short vectors is never less than that of the whole ones. So
all pairs are compared by short vectors, and the few that may be near by whole ones.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from steps.common.backends.hardware import usable_cores
from steps.common.search.scan import EQUAL

# Rows of the one and of the other side that are compared together: 4 MB of products, which a cache holds.
ROWS, COLUMNS = 512, 2048

# Blocks of ROWS for each core that are compared before their pairs are handed out.
AHEAD = 4

# Vectors that are turned, or compared whole, together.
TOGETHER = 8192

# Vectors that the axes are found with.
SAMPLE = 4096

# Lengths of short vectors that are tried.
WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512)

# What comparing two whole vectors takes, in products of two numbers: they lie anywhere in memory.
WHOLE = 40_000


@dataclass(frozen=True)
class Pairs:
    """Rows of the one side, of the other, and their scores: int64 [n], int64 [n], float32 [n]."""

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def take(self, chosen: np.ndarray | slice) -> "Pairs":
        return Pairs(self.first[chosen], self.second[chosen], self.scores[chosen])


class Distinct:
    """The distinct vectors among rows, in the order of the first row of each.

    Rows with the same vector are compared once. A vector of zeros is near nothing, so each of these is distinct.
    """

    def __init__(self, vectors: np.ndarray):
        """`vectors`: float32 [rows, dim] of unit length, or zeros."""
        self.vectors = vectors
        zeros = _digest(np.zeros(vectors.shape[1], np.float32))
        known: dict[bytes | int, int] = {}
        digests = (digest if (digest := _digest(row)) != zeros else number for number, row in enumerate(vectors))
        of = np.fromiter((known.setdefault(digest, len(known)) for digest in digests), np.int64, len(vectors))
        # Rows with the same vector side by side, and where those of each vector begin.
        self.rows = np.argsort(of, kind="stable")
        self.counts = np.bincount(of, minlength=len(known))
        self.starts = np.cumsum(self.counts) - self.counts
        # The first row of each.
        self.firsts = self.rows[self.starts]

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Some of them, float32 [n, dim]."""
        return self.vectors[self.firsts[numbers]]


def _digest(vector: np.ndarray) -> bytes:
    return hashlib.blake2b(vector.tobytes(), digest_size=16).digest()


class Short:
    """Vectors as they are compared first: short, or whole where axes are None."""

    def __init__(self, distinct: Distinct, axes: np.ndarray | None):
        """`axes`: float32 [dim, width - 1]."""
        self._distinct, self._short = distinct, None
        if axes is not None:
            self._short = np.empty((len(distinct), axes.shape[1] + 1), np.float32)
            for first in range(0, len(distinct), TOGETHER):
                piece = slice(first, first + TOGETHER)
                self._short[piece] = shorten(distinct.take(piece), axes)

    def __len__(self) -> int:
        return len(self._distinct)

    def take(self, piece: slice) -> np.ndarray:
        return self._distinct.take(piece) if self._short is None else self._short[piece]


def find_near(first: Distinct, second: Distinct | None, threshold: float) -> Iterator[Pairs]:
    """Every pair of distinct vectors with a cosine of at least `threshold`, in the order of the first, then of the second.

    The numbers are those of distinct vectors; all pairs of some consecutive first ones come together.

    Args:
        second: the other side; None compares the first with itself, and finds each pair once, the lower number first.
        threshold: above 0.
    """
    other = first if second is None else second
    axes = choose_axes(first, other, threshold)
    one = Short(first, axes)
    two = one if second is None else Short(other, axes)
    bound = np.float32(threshold - (EQUAL if axes is None else rounding(first.vectors.shape[1])))

    def compare(start: int) -> Pairs:
        pairs = compare_block(one, two, start, bound, within=second is None)
        if axes is not None:
            pairs = compare_whole(first, other, pairs, threshold)
        order = np.lexsort((pairs.second, pairs.first))
        return Pairs(pairs.first[order], pairs.second[order], np.minimum(pairs.scores[order], 1))

    # A product of such narrow matrices is no faster with more threads, but several are side by side.
    cores = usable_cores()
    starts = range(0, len(first), ROWS)
    with ThreadPoolExecutor(cores) as pool:
        for begin in range(0, len(starts), AHEAD * cores):
            with threadpool_limits(1, user_api="blas"):
                found = list(pool.map(compare, starts[begin : begin + AHEAD * cores]))
            yield from found


def compare_block(one: Short, two: Short, start: int, bound: np.float32, *, within: bool) -> Pairs:
    """Pairs of ROWS vectors from `start` on with all of the other side, or within one side with those behind them, whose product is
    `bound` or more."""
    block = one.take(slice(start, start + ROWS))
    products = np.empty(len(block) * COLUMNS, np.float32)
    found = []
    for left in range(start if within else 0, len(two), COLUMNS):
        piece = two.take(slice(left, left + COLUMNS))
        product = products[: len(block) * len(piece)].reshape(len(block), len(piece))
        np.matmul(block, piece.T, out=product)
        at = np.flatnonzero(product >= bound)
        rows, columns = at // len(piece) + start, at % len(piece) + left
        pairs = Pairs(rows, columns, product.ravel()[at])
        found.append(pairs.take(rows < columns) if within else pairs)
    return join(found)


def compare_whole(first: Distinct, second: Distinct, pairs: Pairs, threshold: float) -> Pairs:
    """Those of some pairs whose whole vectors are near enough, with their scores."""
    scores = np.empty(len(pairs), np.float32)
    for begin in range(0, len(pairs), TOGETHER):
        some = slice(begin, begin + TOGETHER)
        np.einsum(
            "ij,ij->i", first.take(pairs.first[some]), second.take(pairs.second[some]), out=scores[some], optimize=False
        )
    near = scores >= np.float32(threshold - EQUAL)
    return Pairs(pairs.first[near], pairs.second[near], scores[near])


def choose_axes(first: Distinct, second: Distinct, threshold: float) -> np.ndarray | None:
    """The axes that make comparing cheapest, by a sample of both sides: float32 [dim, width - 1]; None where none saves anything."""
    dim = first.vectors.shape[1]
    one, two = (side.take(spread(len(side), SAMPLE // 2, at)) for side, at in ((first, 0.0), (second, 0.5)))
    sample = np.concatenate([one, two]).astype(np.float64)
    axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1].astype(np.float32)
    best, least = None, float(dim)
    for width in (one for one in WIDTHS if one < dim):
        chosen = np.ascontiguousarray(axes[:, : width - 1])
        share = np.mean(shorten(one, chosen) @ shorten(two, chosen).T >= threshold - rounding(dim))
        if (effort := width + WHOLE * float(share)) < least:
            best, least = chosen, effort
    return best


def shorten(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Vectors [n, dim] along axes [dim, width - 1], and the length of the rest behind: float32 [n, width]."""
    along = vectors @ axes
    rest = np.einsum("ij,ij->i", vectors, vectors) - np.einsum("ij,ij->i", along, along)
    # Never less than it is.
    beyond = np.sqrt(np.maximum(rest, 0) + rounding(vectors.shape[1]))
    return np.concatenate([along, beyond[:, None]], axis=1, dtype=np.float32)


def rounding(dim: int) -> float:
    """What float32 may lose of a product of two vectors of unit length: n times its half step (Higham 2002, section 3.1), once for turning
    each of them, and once for the product."""
    return EQUAL + 3 * dim * 2.0**-24


def spread(rows: int, count: int, at: float) -> np.ndarray:
    """Row numbers, evenly from all, `at` of the way between one and the next: int64."""
    step = max(1.0, rows / count)
    return np.arange(min(at * step, rows - 1), rows, step).astype(np.int64)


def join(found: list[Pairs]) -> Pairs:
    """Pairs one after another."""
    return Pairs(*(np.concatenate([getattr(one, name) for one in found]) for name in ("first", "second", "scores")))
