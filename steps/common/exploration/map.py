"""Vectors -> a map: a place in the plane for each row, or for each of a sample of a large corpus."""

import logging
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from steps.common.exploration.conf import Method
from steps.common.search.matrix import Rows
from steps.common.search.scan import Float32, find_top

logger = logging.getLogger("steps")

# Dimensions that t-SNE begins with, as its authors advise for long vectors.
KEPT = 50

# Texts that count as near to one, in t-SNE, and fewest points that it can arrange.
PERPLEXITY, FEWEST = 30, 10

# Points that t-SNE arranges in about a minute, on two cores.
FAST = 5000

# Points whose neighbours are compared, and neighbours of each: van der Maaten and others report 12, scikit-learn's default is 5.
COMPARED, NEAR = 2000, 10


@dataclass(frozen=True)
class Map:
    """Points in the order of their rows."""

    # Rows of the index that are on the map: int64 [points].
    rows: np.ndarray
    # Their places: float64 [points, 2], whatever the unit.
    places: np.ndarray
    # Their vectors: float32 [points, dim].
    vectors: np.ndarray
    # What arranged them, where it can arrange other vectors too.
    axes: PCA | None
    # variance_share: what the two axes of a PCA hold of the variance, 0 to 1. trustworthiness: 1 where neighbours on the map are
    # neighbours by their vectors too, 0.5 at random; absent where there are too few points.
    measures: dict[str, float]

    def find_points(self, vectors: np.ndarray) -> np.ndarray:
        """The point of the map that is nearest to each vector, float32 [n, dim]: int64 [n]."""
        return np.argmax(vectors @ self.vectors.T, axis=1)

    def find_places(self, vectors: np.ndarray) -> np.ndarray:
        """Where vectors, float32 [n, dim], lie on the map: float64 [n, 2]; without axes, where the nearest point does."""
        if self.axes is None:
            return self.places[self.find_points(vectors)]
        return _widen(self.axes.transform(vectors))[:, :2]

    def find_neighbours(self, count: int) -> np.ndarray:
        """The nearest other points of each point by their vectors: int64 [points, up to count]."""
        found = find_top(Float32(self.vectors), self.vectors, count + 1).rows
        others = found != np.arange(len(found))[:, None]
        # Of many equal vectors the point itself may not be among the first.
        others[others.all(axis=1), -1] = False
        return found[others].reshape(len(found), -1)


def choose_points(rows: int, points: int) -> np.ndarray:
    """The rows that are on the map, evenly from all: int64 in order."""
    return np.unique(np.linspace(0, rows - 1, min(points, rows)).astype(np.int64))


def draw_map(vectors: Rows, rows: np.ndarray, method: Method) -> Map:
    """Arrange some rows, in order, in the plane."""
    found = vectors.read(0, len(vectors)) if len(rows) == len(vectors) else vectors.take(rows)
    pca, axes, share = _project(found)
    places, measures = axes[:, :2], {"variance_share": float(share[:2].sum())}
    if method is Method.tsne and (len(rows) < FEWEST or not share.any()):
        logger.warning(
            "method=tsne needs more points, or points that differ more (%d here); the map uses pca", len(rows)
        )
    elif method is Method.tsne:
        if len(rows) > FAST:
            logger.warning("method=tsne takes long for %d points; map.points=%d takes about a minute", len(rows), FAST)
        perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=0, n_jobs=-1).fit_transform(axes)
        # Its axes hold no share of anything, and have no place for another vector.
        measures, pca = {}, None
    return Map(rows, places.astype(np.float64), found, pca, measures | _measure(found, places))


def _project(vectors: np.ndarray) -> tuple[PCA | None, np.ndarray, np.ndarray]:
    """Principal components, at least two and KEPT at most, and what each holds of the variance, zeros where nothing varies.

    One vector has none.
    """
    if len(vectors) == 1:
        return None, np.zeros((1, 2)), np.zeros(2)
    count = min(KEPT, *vectors.shape)
    pca = PCA(count, svd_solver="full" if count < KEPT else "covariance_eigh")
    with np.errstate(invalid="ignore", divide="ignore"):
        axes = _widen(pca.fit_transform(vectors))
    return pca, axes, np.nan_to_num(pca.explained_variance_ratio_)


def _widen(axes: np.ndarray) -> np.ndarray:
    """At least two axes, the second one zero where there was one."""
    return np.pad(axes, ((0, 0), (0, max(0, 2 - axes.shape[1]))))


def _measure(vectors: np.ndarray, places: np.ndarray) -> dict[str, float]:
    """How far neighbours on the map can be trusted (Venna and Kaski 2001), on a sample of its points."""
    some = choose_points(len(vectors), COMPARED)
    if len(some) <= 2 * NEAR:
        return {}
    value = trustworthiness(vectors[some], places[some], n_neighbors=NEAR, metric="cosine")
    return {"trustworthiness": float(value)}
