"""What pairs of near vectors say of a corpus: which rows stand for which, and clusters."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steps.common.search.by_score import Pile
from steps.common.search.near import Distinct, Pairs


class Duplicates:
    """Which of some vectors are near duplicates of which.

    others: the vector that stands for each, int64 [n]; -1 where it stands for itself. scores: float32 [n].
    """

    def __init__(self, count: int):
        self.others = np.full(count, -1, np.int64)
        self.scores = np.zeros(count, np.float32)

    def add_within(self, pairs: Pairs) -> None:
        """Take the pairs of some consecutive first vectors, in their order, as find_near gives them.

        The first vector is kept, and each that is near no kept one before it. What is left out is within the threshold of the
        one that stands for it, the nearest of those kept before it: a chain of pairs leaves out less.
        """
        starts = np.flatnonzero(np.diff(pairs.first, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(pairs)]):
            first = pairs.first[start]
            if self.others[first] < 0:
                second, scores = pairs.second[start:end], pairs.scores[start:end]
                nearer = scores > self.scores[second]
                self.others[second[nearer]], self.scores[second[nearer]] = first, scores[nearer]

    def add_across(self, pairs: Pairs) -> None:
        """Take the pairs with vectors of another corpus: the nearest of those stands for the first."""
        order = np.lexsort((pairs.second, -pairs.scores, pairs.first))
        pairs = pairs.take(order)
        best = pairs.take(np.flatnonzero(np.diff(pairs.first, prepend=-1)))
        self.others[best.first], self.scores[best.first] = best.second, best.scores


@dataclass(frozen=True)
class Cluster:
    """A group of distinct vectors that are all near the first of them: int64 [n]."""

    vectors: np.ndarray
    # Rows that have them.
    rows: int


def find_clusters(pile: Pile, distinct: Distinct, folder: Path, least: int) -> list[Cluster]:
    """Clusters of `least` rows or more, the largest first: community detection as in sentence-transformers.

    The vector with the most near rows takes these as its cluster; then the next, with what is left. Unlike there, what a cluster
    has taken is no longer the centre of another, so that each row is within the threshold of the centre of its cluster.

    Args:
        folder: for the neighbours of each vector, on disk.
    """
    links = np.zeros(len(distinct), np.int64)
    rows = distinct.counts.copy()
    for pairs in pile.pieces():
        for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
            links += np.bincount(one, minlength=len(links))
            rows += np.bincount(one, distinct.counts[other], minlength=len(links)).astype(np.int64)
    neighbours, ends = _link(pile, links, folder), np.cumsum(links)
    taken, clusters = np.zeros(len(distinct), bool), []
    order = np.lexsort((np.arange(len(rows)), -rows))
    for centre in order[: np.count_nonzero(rows >= least)].tolist():
        if taken[centre]:
            continue
        near = np.sort(neighbours[ends[centre] - links[centre] : ends[centre]])
        members = np.concatenate([[centre], near[~taken[near]]])
        size = int(distinct.counts[members].sum())
        if size >= least:
            clusters.append(Cluster(members, size))
            taken[members] = True
    return sorted(clusters, key=lambda cluster: -cluster.rows)


def _link(pile: Pile, links: np.ndarray, folder: Path) -> np.ndarray:
    """The neighbours of each vector, those of one vector side by side; `links` says how many each has."""
    if not links.any():
        return np.empty(0, np.uint32)
    neighbours = np.lib.format.open_memmap(folder / "neighbours.npy", "w+", np.dtype(np.uint32), (int(links.sum()),))
    free = np.cumsum(links) - links
    for pairs in pile.pieces():
        for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
            order = np.argsort(one, kind="stable")
            found, starts, counts = np.unique(one[order], return_index=True, return_counts=True)
            within = np.arange(len(order)) - np.repeat(starts, counts)
            neighbours[np.repeat(free[found], counts) + within] = other[order]
            free[found] += counts
    return neighbours
