"""Suites of sentence pairs: graded, or paraphrases."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steps.common.errors import UserError
from steps.common.quality import columns
from steps.common.quality.columns import Role, read_columns


@dataclass(frozen=True)
class Suite:
    """Sentence pairs with a human grade (kind sts), or with 1 for the same meaning and 0 for another (paraphrase)."""

    name: str
    path: Path
    first: list[str]
    second: list[str]
    scores: np.ndarray
    kind: str = "sts"

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def unit(self) -> str:
        return "pairs"

    @property
    def metric(self) -> str:
        return {"sts": "spearman", "paraphrase": "average_precision"}[self.kind]

    @property
    def sentences(self) -> list[str]:
        """Every distinct sentence once."""
        return list(dict.fromkeys([*self.first, *self.second]))

    @property
    def texts(self) -> dict[Role, list[str]]:
        """What has to be embedded."""
        return {None: self.sentences}

    @property
    def columns(self) -> dict[str, list]:
        """The suite as a table, for the record."""
        return {"sentence1": self.first, "sentence2": self.second, "score": self.scores.tolist()}

    def sample(self, most: int) -> "Suite":
        """At most so many pairs, evenly from the whole suite."""
        if len(self) <= most:
            return self
        rows = np.linspace(0, len(self) - 1, most).round().astype(int)
        return Suite(
            self.name,
            self.path,
            [self.first[row] for row in rows],
            [self.second[row] for row in rows],
            self.scores[rows],
            self.kind,
        )


def read_suite(path: Path, name: str | None, sentence1: str, sentence2: str, score: str, kind: str = "sts") -> Suite:
    """Read graded pairs, or paraphrases, from JSON Lines, CSV, TSV or Parquet.

    Raises:
        UserError: a missing column, a row without sentence or number, fewer than two rows, equal grades, or
            paraphrases that are graded otherwise than with 0 and 1.
    """
    file, (first, second, scores) = read_columns(path, [sentence1, sentence2, score])
    for row, (a, b, grade) in enumerate(zip(first, second, scores), start=1):
        if not isinstance(a, str) or not isinstance(b, str):
            raise UserError(
                f"{file} row {row}: expected two sentences in {sentence1!r} and {sentence2!r}, found {a!r} and {b!r}."
            )
        if _number(grade) is None:
            raise UserError(f"{file} row {row}: expected a number in {score!r}, found {grade!r}.")
        if kind == "paraphrase" and _number(grade) not in (0, 1):
            raise UserError(
                f"{file} row {row}: expected 1 (same meaning) or 0 in {score!r}, found {grade!r}. Graded pairs are suite.kind=sts."
            )
    if len(scores) < 2:
        raise UserError(f"{file} holds {len(scores)} row(s); expected at least two, or there is nothing to correlate.")
    grades = np.array([_number(grade) for grade in scores])
    if np.ptp(grades) == 0:
        raise UserError(
            f"every {score!r} in {file} is {grades[0]:g}; expected different grades, or no {'correlation' if kind == 'sts' else 'average precision'} is defined."
        )
    return Suite(columns.name(name, file), file, first, second, grades, kind)


def _number(value) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
