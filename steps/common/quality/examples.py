"""Where a model and a suite disagree, by example: pairs, queries, and lengths of text."""

from dataclasses import dataclass

import numpy as np

# Most groups that units are sorted into by length, and the least units of each: the score of fewer is noise.
LENGTHS, LEAST_UNITS = 4, 20


@dataclass(frozen=True)
class Disagreement:
    """A pair whose rank by cosine is far from its rank by grade; `apart` says how far, as a share of all ranks: above 0
    the cosine is too high."""

    suite: str
    first: str
    second: str
    grade: float
    cosine: float
    apart: float


@dataclass(frozen=True)
class Miss:
    """A query that does not find first what it should find first, and the text that it finds instead. `unit` is what the
    query adds to the score, 1 at best."""

    suite: str
    query: str
    wanted: str
    found: str
    unit: float


@dataclass(frozen=True)
class LengthScore:
    """The score x 100 of a suite's units of so many words, such as "4 to 9"; None where it is undefined."""

    suite: str
    words: str
    units: int
    score: float | None


def group_by_length(words: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Units of about the same length, in at most LENGTHS groups of about the same size.

    Args:
        words: of each unit, int [n].

    Returns:
        The words of each group, as "4 to 9", and which units it has, bool [n]; nothing where there are too few for two
        groups.
    """
    groups = min(LENGTHS, len(words) // LEAST_UNITS)
    if groups < 2:
        return []
    edges = np.unique(np.quantile(words, np.linspace(0, 1, groups + 1)[1:-1], method="higher"))
    place = np.searchsorted(edges, words, side="right")
    found = []
    for group in np.unique(place):
        members = place == group
        low, high = words[members].min(), words[members].max()
        found.append((f"{low}" if low == high else f"{low} to {high}", members))
    return found if len(found) > 1 else []


def count_words(texts: list[str]) -> np.ndarray:
    """Words of each text, as white space parts them: int [len(texts)]."""
    return np.array([len(text.split()) for text in texts], np.int64)
