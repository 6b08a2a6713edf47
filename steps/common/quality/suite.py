"""What a suite is: texts, what people said of them, and how well embeddings agree with that."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from steps.common.quality.columns import Role
from steps.common.quality.examples import Disagreement, Miss
from steps.common.quality.spec import SuiteSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Vectors:
    """The embeddings of a suite's texts, each distinct text once in each of its roles."""

    rows: dict[Role, dict[str, int]]
    arrays: dict[Role, np.ndarray]

    def of(self, role: Role, texts: Sequence[str]) -> np.ndarray:
        """The embeddings of these texts: float32 [len(texts), dim]."""
        position = self.rows[role]
        return self.arrays[role][[position[text] for text in texts]]


@dataclass(frozen=True)
class Suite(ABC):
    """A kind of suite is a subclass of this, and its line in kinds.KINDS.

    A score is computed from `units`, one number for each pair or query: an interval comes from drawing them anew, with
    replacement, together with their `labels`.
    """

    # The value of suite.kind.
    kind: ClassVar[str]
    # Name of the score, and of what it is made from.
    metric: ClassVar[str]
    unit: ClassVar[str]
    # Title of the figure, behind the name of the suite.
    figure: ClassVar[str]
    # Whether it holds vectors of one model, so that it scores no other.
    of_one_model: ClassVar[bool] = False

    name: str
    path: Path

    @classmethod
    @abstractmethod
    def read(cls, spec: SuiteSpec, path: Path) -> Self:
        """Read and check a suite.

        Args:
            path: its file on this machine. spec: with the names of the columns; its files are on this machine too.

        Raises:
            UserError: a file or a row that cannot be scored.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Number of units."""

    @property
    @abstractmethod
    def texts(self) -> dict[Role, list[str]]:
        """What has to be embedded: each distinct text once in each role."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, list]:
        """The suite as a table, for the record."""

    @abstractmethod
    def sample(self, most: int) -> Self:
        """At most so many units, evenly from the whole suite."""

    @abstractmethod
    def compute_cosines(self, vectors: Vectors) -> np.ndarray:
        """Every cosine that the score rests on: float [len(self), ...]."""

    def compute_units(self, cosines: np.ndarray) -> np.ndarray:
        """The numbers that a resample draws from: float [len(self)]; the cosines themselves, unless a kind has others."""
        return cosines

    @property
    def labels(self) -> tuple[np.ndarray, ...]:
        """What is drawn together with the units, such as their grades: arrays of [len(self)]."""
        return ()

    @property
    def groups(self) -> np.ndarray | None:
        """Which units belong together, so that an interval is not too narrow: int [len(self)]; None where none do."""
        return None

    @staticmethod
    @abstractmethod
    def compute_score(units: np.ndarray, *labels: np.ndarray, axis: int = -1) -> np.ndarray:
        """The score of each row of units, 1 at best: float [...] from [..., n]; NaN where it is undefined."""

    @abstractmethod
    def compute_metrics(self, cosines: np.ndarray) -> dict[str, float]:
        """Everything to report, 1 at best, by name; `metric`, the score itself, among it."""

    @property
    @abstractmethod
    def words(self) -> np.ndarray:
        """How long the text of each unit is, in words: int [len(self)]."""

    def find_disagreements(self, cosines: np.ndarray, most: int) -> list[Disagreement]:
        """The pairs whose rank by cosine is farthest from their rank by grade, worst first; none of a kind without grades."""
        return []

    def find_misses(self, cosines: np.ndarray, most: int) -> list[Miss]:
        """The queries that are answered worst, worst first, and what they find instead; none of a kind without queries."""
        return []

    @property
    @abstractmethod
    def caption(self) -> str:
        """What the figure shows, in words."""

    @abstractmethod
    def draw(self, axes: "Axes", units: np.ndarray, colours: tuple[str, str]) -> None:
        """Draw the figure: in the first colour, and in the second what stands beside it. Labels make a legend."""

    @property
    def files(self) -> list[Path]:
        """The files it was read from."""
        return [self.path]

    @property
    def digest(self) -> str:
        """SHA-256 of its files, one after the other."""
        return hashlib.sha256(b"".join(path.read_bytes() for path in self.files)).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides what a model's units are: `digest` alone does not know which columns were read, and as what."""
        read = json.dumps([self.kind, self.digest, self.columns, list(self.texts.items())])
        return hashlib.sha256(read.encode()).hexdigest()


def sample_rows(size: int, most: int) -> np.ndarray:
    """At most so many row numbers, evenly from `size` rows: int [min(size, most)]."""
    return np.linspace(0, size - 1, min(size, most)).round().astype(int)
