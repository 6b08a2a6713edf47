"""Whether vectors that another model made can stay beside a model's own: cosines, neighbours, thresholds, and what it
costs to embed everything again."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.linalg import orthogonal_procrustes

from steps.common.validation.rules import CompatibilityConf
from steps.common.vectors import pair_cosine, unit_length

# Nearest neighbours that are compared.
NEAREST = 10

# Shares of pairs at which cosines are shown.
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)

# Cosines that differ by less are rounding.
SAME_COSINE = 1e-5

# Texts whose neighbours are found at a time, which bounds the memory.
BLOCK = 1024


class Verdict(StrEnum):
    COMPATIBLE = "compatible"
    REINDEX_REQUIRED = "reindex_required"


@dataclass(frozen=True)
class Quantile:
    """The cosine that a share of pairs stays below, by the other model (old) and by this one (new); `pairs` is nearest (each
    text and its nearest neighbour) or unrelated (each text and some others)."""

    pairs: str
    share: float
    old: float
    new: float


@dataclass(frozen=True)
class Compatibility:
    """Embeddings of the same texts by another model, `against`, and by this one."""

    against: str
    # Texts compared.
    rows: int
    # Cosine of old and new vector of one text; None where the dimensions differ.
    cosine_median: float | None
    cosine_p5: float | None
    # Share of the nearest neighbours that stay: old among old against new among new, and old among old against new among old.
    overlap_within: float
    overlap_across: float | None
    quantiles: list[Quantile]
    # What embedding everything again costs; None where the number of rows is not known.
    rows_per_second: float | None
    reindex_rows: int | None
    reindex_hours: float | None
    # Share of the nearest neighbours that stay if an orthogonal map carries the old vectors over; None where there are too
    # few texts to fit one.
    bridge_recall: float | None
    verdict: Verdict

    def __str__(self) -> str:
        """The verdict and its numbers, in one line."""
        parts = ["another dimension"]
        if self.cosine_median is not None and self.overlap_across is not None:
            parts = [
                f"cosine of old and new vectors {self.cosine_median:.3f}",
                f"{self.overlap_across:.0%} of the {NEAREST} nearest stay where new vectors search old ones",
            ]
        if self.bridge_recall is not None:
            parts.append(f"{self.bridge_recall:.0%} with an orthogonal map")
        if self.reindex_hours is not None:
            parts.append(f"embedding {self.reindex_rows:,} rows again takes {self.reindex_hours:.1f} h")
        return f"{self.verdict} ({'; '.join(parts)})"


def compare_vectors(
    old: np.ndarray, new: np.ndarray, conf: CompatibilityConf, *, against: str, rows_per_second: float | None
) -> Compatibility:
    """Compare the vectors that two models give the same texts.

    Args:
        old: of the other model, float32 [n, old dim]. new: of this one, float32 [n, new dim]; row by row the same texts, each
            once, at least 2.
        rows_per_second: at which this model embeds.
    """
    old, new = unit_length(old), unit_length(new)
    old_ids, new_ids = nearest(old, old), nearest(new, new)
    cosines, across = None, None
    if old.shape == new.shape:
        cosines = pair_cosine(old, new)
        across = overlap(old_ids, nearest(new, old))
    p5 = None if cosines is None else float(np.quantile(cosines, 0.05))
    compatible = p5 is not None and across is not None and p5 >= conf.cosine and across >= conf.overlap
    rows = conf.reindex_rows
    return Compatibility(
        against=against,
        rows=len(new),
        cosine_median=None if cosines is None else float(np.median(cosines)),
        cosine_p5=p5,
        overlap_within=overlap(old_ids, new_ids),
        overlap_across=across,
        quantiles=[*_quantiles("unrelated", old, new), *_quantiles("nearest", old, new)],
        rows_per_second=rows_per_second,
        reindex_rows=rows,
        reindex_hours=rows / rows_per_second / 3600 if rows is not None and rows_per_second else None,
        bridge_recall=measure_bridge(old, new),
        verdict=Verdict.COMPATIBLE if compatible else Verdict.REINDEX_REQUIRED,
    )


def nearest(queries: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """The rows of a corpus nearest to each query, in no order, itself left out: int [n, NEAREST], or n - 1 where n is less.

    Of rows that are equally near, but for rounding, the first ones: texts that differ only where the model has cut them have
    the same vector, and every model should choose the same of them.

    Args:
        queries, corpus: unit vectors of the same n texts, [n, dim] each.
    """
    most = min(NEAREST, len(corpus) - 1)
    later = np.linspace(0, SAME_COSINE, len(corpus), endpoint=False)
    found = []
    for first in range(0, len(queries), BLOCK):
        cosines = np.round(queries[first : first + BLOCK].astype(np.float64) @ corpus.T, 5) - later
        rows = np.arange(len(cosines))
        cosines[rows, first + rows] = -np.inf
        found.append(np.argpartition(-cosines, most - 1, axis=1)[:, :most])
    return np.concatenate(found)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the numbers in each row of `first` that are in the same row of `second`, both [n, k]: the mean of all rows."""
    return float((first[:, :, None] == second[:, None, :]).any(axis=2).mean())


def _quantiles(pairs: str, old: np.ndarray, new: np.ndarray) -> list[Quantile]:
    compute = _nearest_cosines if pairs == "nearest" else _unrelated_cosines
    before, after = np.quantile(compute(old), SHARES), np.quantile(compute(new), SHARES)
    return [Quantile(pairs, share, float(first), float(second)) for share, first, second in zip(SHARES, before, after)]


def _nearest_cosines(unit: np.ndarray) -> np.ndarray:
    """Cosine of each text with its nearest: float [n]."""
    return np.einsum("nd,nkd->nk", unit, unit[nearest(unit, unit)]).max(axis=1)


def _unrelated_cosines(unit: np.ndarray) -> np.ndarray:
    """Cosines of each text with up to ten others, spread evenly over all: float [n * up to 10]."""
    steps = np.unique(np.linspace(1, len(unit) - 1, NEAREST).round().astype(int))
    return np.concatenate([pair_cosine(unit, np.roll(unit, step, axis=0)) for step in steps])


def fit_bridge(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The orthogonal map that brings old vectors nearest to new ones: [old dim, new dim], for `old @ map`.

    Orthogonal Procrustes (Schönemann 1966), of vectors filled up with zeros where the dimensions differ.
    """
    width = max(old.shape[1], new.shape[1])
    filled = [np.pad(vectors, ((0, 0), (0, width - vectors.shape[1]))) for vectors in (old, new)]
    rotation, _ = orthogonal_procrustes(*filled)
    return rotation[: old.shape[1], : new.shape[1]].astype(np.float32)


def measure_bridge(old: np.ndarray, new: np.ndarray) -> float | None:
    """Recall@10 of new queries among old vectors that a map carried over, with what new ones find among new as the truth.

    The map is fitted on every other text, and tried on the rest. None with fewer texts for it than dimensions: it would be
    arbitrary in those that no text is in.
    """
    fitted, tried = slice(0, None, 2), slice(1, None, 2)
    if len(old[fitted]) < max(old.shape[1], new.shape[1]):
        return None
    carried = unit_length(old[tried] @ fit_bridge(old[fitted], new[fitted]))
    return overlap(nearest(new[tried], new[tried]), nearest(new[tried], carried))
