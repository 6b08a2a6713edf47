"""Pairs on disk: as they were found, or by score, in memory that does not grow with their number."""

import bisect
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from steps.common.search.near import Distinct, Pairs, join

# Pairs that are sorted, or handed out, together: 12 bytes each.
TOGETHER = 2_000_000

# Of so many pairs of a sorted file, one says where the others lie.
STRIDE = 16_384

PAIR = np.dtype([("score", np.float32), ("first", np.uint32), ("second", np.uint32)])


class Pile:
    """Pairs of rows or of distinct vectors, in files of a folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: list[np.ndarray] = []
        # Pairs that are not in a file yet, and how many they are.
        self._held: list[Pairs] = []
        self._waiting = 0

    def add(self, pairs: Pairs) -> None:
        self._held.append(pairs)
        self._waiting += len(pairs)
        if self._waiting >= TOGETHER:
            self._write()

    def _write(self) -> None:
        pairs = join(self._held)
        packed = np.empty(len(pairs), PAIR)
        packed["score"], packed["first"], packed["second"] = pairs.scores, pairs.first, pairs.second
        path = self._folder / f"pairs-{len(self._files):05d}.npy"
        np.save(path, packed[_order(packed)])
        self._files.append(np.load(path, mmap_mode="r"))
        self._held, self._waiting = [], 0

    def pieces(self) -> Iterator[Pairs]:
        """All pairs, each file by score."""
        if self._waiting:
            self._write()
        for file in self._files:
            for start in range(0, len(file), TOGETHER):
                yield _unpack(file[start : start + TOGETHER])

    def by_score(self) -> Iterator[Pairs]:
        """All pairs, the highest score first; those of equal score in the order of the first, then of the second."""
        if self._waiting:
            self._write()
        samples = np.sort(np.concatenate([_keys(file[::STRIDE]) for file in self._files] or [np.empty(0, np.uint64)]))
        bounds = samples[TOGETHER // STRIDE :: TOGETHER // STRIDE].tolist()
        starts = [0] * len(self._files)
        for bound in [*bounds, None]:
            ends = [
                len(file)
                if bound is None
                else bisect.bisect_left(range(len(file)), bound, key=lambda at: _key(file, at))
                for file in self._files
            ]
            found = np.concatenate(
                [file[start:end] for file, start, end in zip(self._files, starts, ends)] or [np.empty(0, PAIR)]
            )
            starts = ends
            if len(found):
                yield _unpack(found[_order(found)])


def _keys(packed: np.ndarray) -> np.ndarray:
    """What pairs are sorted by, but for the second: uint64."""
    # The bits of positive numbers are in the order of the numbers.
    falling = np.uint32(0xFFFFFFFF) - np.ascontiguousarray(packed["score"]).view(np.uint32)
    return falling.astype(np.uint64) << np.uint64(32) | packed["first"]


def _key(file: np.ndarray, at: int) -> int:
    return int(_keys(file[at : at + 1])[0])


def _order(packed: np.ndarray) -> np.ndarray:
    return np.lexsort((packed["second"], _keys(packed)))


def _unpack(packed: np.ndarray) -> Pairs:
    return Pairs(packed["first"].astype(np.int64), packed["second"].astype(np.int64), packed["score"].copy())


# From distinct vectors to rows.


def pair_equal(distinct: Distinct) -> Iterator[Pairs]:
    """All pairs of rows with the same vector."""
    ends = distinct.starts + distinct.counts
    at = np.arange(len(distinct.rows))
    left = np.repeat(ends, distinct.counts) - at - 1
    for some in _share_out(left):
        of, other = spread_out(at[some] + 1, left[some])
        first = distinct.rows[at[some]][of]
        yield Pairs(first, distinct.rows[other], np.ones(len(first), np.float32))


def pair_rows(pairs: Pairs, first: Distinct, second: Distinct) -> Iterator[Pairs]:
    """All pairs of rows that pairs of distinct vectors stand for, in their order."""
    for some in _share_out(first.counts[pairs.first]):
        few = pairs.take(some)
        of, at = spread_out(first.starts[few.first], first.counts[few.first])
        few = Pairs(first.rows[at], few.second[of], few.scores[of])
        for part in _share_out(second.counts[few.second]):
            fewer = few.take(part)
            of, at = spread_out(second.starts[fewer.second], second.counts[fewer.second])
            yield Pairs(fewer.first[of], second.rows[at], fewer.scores[of])


def _share_out(counts: np.ndarray) -> Iterator[slice]:
    """Slices of some counts, each with a sum of TOGETHER at most, or of one count alone."""
    total, start = np.cumsum(counts), 0
    while start < len(counts):
        done = total[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(total, done + TOGETHER, side="right")))
        yield slice(start, end)
        start = end


def spread_out(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions start, start + 1, ..., `count` of them for each entry; beside each, the number of its entry."""
    of = np.repeat(np.arange(len(counts)), counts)
    return of, np.arange(len(of)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
