"""Suites of sentence pairs: graded, or paraphrases."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from scipy import stats
from sklearn import metrics

from steps.common.errors import UserError
from steps.common.quality.columns import Role, name_suite, read_columns, read_number
from steps.common.quality.examples import Disagreement, count_words
from steps.common.quality.spec import SuiteSpec
from steps.common.quality.suite import Suite, Vectors, sample_rows
from steps.common.vectors import pair_cosine

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Most points of a scatter: more of them hide each other, and make a page of megabytes.
MOST_POINTS = 1500

# Fewer groups of pairs say nothing of how groups vary.
LEAST_GROUPS = 20


@dataclass(frozen=True)
class Pairs(Suite):
    """Sentence pairs, each with a number that people gave it: `scores`, float64 [n]."""

    unit: ClassVar[str] = "pairs"
    # For messages: the score in words, the numbers that are accepted, and what to do about others.
    measure: ClassVar[str]
    grades: ClassVar[str]
    remedy: ClassVar[str] = ""

    first: list[str]
    second: list[str]
    scores: np.ndarray

    @classmethod
    def read(cls, spec: SuiteSpec, path: Path) -> Self:
        """Read pairs from JSON Lines, CSV, TSV or Parquet.

        Raises:
            UserError: a missing column, a row without sentence or number, fewer than two rows, or equal numbers.
        """
        file, (first, second, scores) = read_columns(
            path, {"sentence1": spec.sentence1, "sentence2": spec.sentence2, "score": spec.score}
        )
        for row, (a, b, given) in enumerate(zip(first, second, scores), start=1):
            if not isinstance(a, str) or not isinstance(b, str):
                raise UserError(
                    f"{file} row {row}: expected two sentences in {spec.sentence1!r} and {spec.sentence2!r}, found {a!r} and {b!r}."
                )
            number = read_number(given)
            if number is None or not cls.is_grade(number):
                raise UserError(
                    f"{file} row {row}: expected {cls.grades} in {spec.score!r}, found {given!r}.{cls.remedy}"
                )
        if len(scores) < 2:
            raise UserError(f"{file} has {len(scores)} row(s); {cls.measure} needs at least two.")
        grades = np.array([read_number(given) for given in scores], np.float64)
        if np.ptp(grades) == 0:
            raise UserError(f"every {spec.score!r} in {file} is {grades[0]:g}; {cls.measure} needs different grades.")
        return cls(name_suite(spec.name, file), file, first, second, grades)

    @staticmethod
    def is_grade(number: float) -> bool:
        """Whether people may have given this number."""
        return True

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def texts(self) -> dict[Role, list[str]]:
        return {None: list(dict.fromkeys([*self.first, *self.second]))}

    @property
    def columns(self) -> dict[str, list]:
        return {"sentence1": self.first, "sentence2": self.second, "score": self.scores.tolist()}

    def sample(self, most: int) -> Self:
        if len(self) <= most:
            return self
        rows = sample_rows(len(self), most)
        first, second = ([texts[row] for row in rows] for texts in (self.first, self.second))
        return replace(self, first=first, second=second, scores=self.scores[rows])

    def compute_cosines(self, vectors: Vectors) -> np.ndarray:
        first, second = (vectors.of(None, texts).astype(np.float64) for texts in (self.first, self.second))
        # Rounded, so that equal sentences are equally alike whatever the last digit of a float32 says. The library's
        # evaluator of graded pairs ranks that digit, and two exact backends differ by points on a small suite.
        return np.round(pair_cosine(first, second), 6)

    @property
    def groups(self) -> np.ndarray | None:
        """Pairs with the same first sentence belong together."""
        sentences, group = np.unique(self.first, return_inverse=True)
        return group if LEAST_GROUPS <= len(sentences) < len(self) else None

    @property
    def labels(self) -> tuple[np.ndarray, ...]:
        return (self.scores,)

    @property
    def words(self) -> np.ndarray:
        """Of the longer sentence of each pair."""
        return np.maximum(count_words(self.first), count_words(self.second))

    def find_disagreements(self, cosines: np.ndarray, most: int) -> list[Disagreement]:
        apart = (stats.rankdata(cosines) - stats.rankdata(self.scores)) / len(self)
        return [
            Disagreement(
                self.name,
                self.first[row],
                self.second[row],
                grade=float(self.scores[row]),
                cosine=float(cosines[row]),
                apart=float(apart[row]),
            )
            for row in np.argsort(-np.abs(apart), kind="stable")[:most]
        ]


@dataclass(frozen=True)
class GradedPairs(Pairs):
    """Pairs with a grade of how alike they are, scored by Spearman's rank correlation with the cosine."""

    kind: ClassVar[str] = "sts"
    metric: ClassVar[str] = "spearman"
    figure: ClassVar[str] = "gold against cosine"
    measure: ClassVar[str] = "a rank correlation"
    grades: ClassVar[str] = "a number"

    @staticmethod
    def compute_score(units: np.ndarray, *labels: np.ndarray, axis: int = -1) -> np.ndarray:
        ranks, grades = (stats.rankdata(values, axis=axis) for values in (units, labels[0]))
        return _correlate(ranks, grades, axis=axis)

    def compute_metrics(self, cosines: np.ndarray) -> dict[str, float]:
        return {
            "spearman": float(self.compute_score(cosines, self.scores)),
            "pearson": float(stats.pearsonr(cosines, self.scores).statistic),
        }

    @property
    def caption(self) -> str:
        shown = f" {MOST_POINTS:,} of {len(self):,} pairs." if len(self) > MOST_POINTS else ""
        return f"Each point is a pair. The better the model, the closer the points are to a line that rises.{shown}"

    def draw(self, axes: "Axes", units: np.ndarray, colours: tuple[str, str]) -> None:
        rows = sample_rows(len(self), MOST_POINTS)
        # Moved a little aside, so that equal grades do not hide each other.
        width = 0.012 * float(np.ptp(self.scores))
        aside = np.random.default_rng(0).uniform(-width, width, len(rows))
        many = len(rows) > 400
        axes.scatter(
            self.scores[rows] + aside, units[rows], s=9, color=colours[0], alpha=0.5, linewidths=0, rasterized=many
        )
        axes.set(xlabel="grade by people", ylabel="cosine")


@dataclass(frozen=True)
class Paraphrases(Pairs):
    """Pairs with 1 for the same meaning and 0 for another, scored by average precision."""

    kind: ClassVar[str] = "paraphrase"
    metric: ClassVar[str] = "average_precision"
    figure: ClassVar[str] = "cosine by label"
    measure: ClassVar[str] = "average precision"
    grades: ClassVar[str] = "1 (same meaning) or 0"
    remedy: ClassVar[str] = " Graded pairs are suite.kind=sts."

    @staticmethod
    def is_grade(number: float) -> bool:
        return number in (0, 1)

    @staticmethod
    def compute_score(units: np.ndarray, *labels: np.ndarray, axis: int = -1) -> np.ndarray:
        units, positive = (np.moveaxis(values, axis, -1) for values in (units, labels[0]))
        return _average_precision(units, positive)

    def compute_metrics(self, cosines: np.ndarray) -> dict[str, float]:
        """The average precision, and F1 and accuracy at their best thresholds of the cosine."""
        precision, recall, _ = metrics.precision_recall_curve(self.scores, cosines)
        false, true, _ = metrics.roc_curve(self.scores, cosines, drop_intermediate=False)
        same = self.scores.mean()
        return {
            "average_precision": float(self.compute_score(cosines, self.scores)),
            "f1": float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()),
            "accuracy": float((same * true + (1 - same) * (1 - false)).max()),
        }

    @property
    def caption(self) -> str:
        return "The less the two overlap, the better the model tells them apart."

    def draw(self, axes: "Axes", units: np.ndarray, colours: tuple[str, str]) -> None:
        for label, colour, name in ((0, colours[1], "other meaning"), (1, colours[0], "same meaning")):
            axes.hist(units[self.scores == label], bins=25, range=(-0.2, 1), color=colour, alpha=0.7, label=name)
        axes.set(xlabel="cosine", ylabel="pairs")


def _correlate(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    """Pearson's correlation; NaN where either is constant. Of ranks it is Spearman's: SciPy's own finds p-values too, which
    take most of the time of a resample."""
    first = first - first.mean(axis=axis, keepdims=True)
    second = second - second.mean(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (first * second).sum(axis=axis) / np.sqrt((first**2).sum(axis=axis) * (second**2).sum(axis=axis))


def _average_precision(units: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """scikit-learn's average precision of each row of [..., n]; NaN where nothing is positive.

    Its own takes one row at a time: 0.81 s for 1,000 resamples of 98 pairs, where this takes 0.01 s.
    """
    order = np.argsort(-units, axis=-1)
    units, positive = (np.take_along_axis(values, order, axis=-1) for values in (units, positive))
    size = units.shape[-1]
    precision = np.cumsum(positive, axis=-1) / np.arange(1, size + 1)
    # Equal units have one place together, the last of theirs.
    is_last = np.append(units[..., 1:] != units[..., :-1], np.ones((*units.shape[:-1], 1), bool), axis=-1)
    places = np.where(is_last, np.arange(size), size)
    last = np.minimum.accumulate(places[..., ::-1], axis=-1)[..., ::-1]
    found = (np.take_along_axis(precision, last, axis=-1) * positive).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return found / positive.sum(axis=-1)
