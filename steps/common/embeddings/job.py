"""All that decides the parts of an output, as one value."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from steps.common.corpus.corpus import Corpus
from steps.common.embeddings.origin import Origin
from steps.common.embeddings.parts import embedding_schema, part_stem
from steps.common.embeddings.reuse import Reuse
from steps.common.vectors import STORED, check_dim, stored_width

if TYPE_CHECKING:
    from steps.common.embeddings.chunks import Chunker

Item = TypeVar("Item", bound=Sized)


@dataclass(frozen=True)
class Options:
    """What is written, and how."""

    dtype: str
    truncate_dim: int | None
    normalize: bool
    # Rows of the corpus in a part: the unit of resume, of parallel work and of repeated texts.
    rows_per_part: int
    keep_text: bool
    format: str = "parquet"
    # With a chunker: the mean of a text's chunks, or a row for each.
    row_per_chunk: bool = False
    # Whether the mean of unit vectors is scaled to unit length.
    normalize_mean: bool = False


@dataclass(frozen=True)
class Limits:
    """How much is read, sorted and kept at once. All but `read` decide which texts are computed together."""

    # Rows and bytes of text in a window: enough that the texts of a batch have about the same length, few enough to hold.
    # Long texts fill a window before its rows do.
    rows: int = 8192
    bytes: int = 16_000_000
    # Rows read at a time.
    read: int = 512
    # Bytes of a part that are read before its first window is computed, to know which texts repeat.
    ahead: int = 32_000_000
    # Most bytes of vectors that are kept for texts that repeat.
    kept: int = 64_000_000


@dataclass(frozen=True)
class Job:
    """All that decides the parts of an output: with one backend, every process makes the same bytes of a part.

    Raises UserError where `truncate_dim` is more than the model has.
    """

    corpus: Corpus
    options: Options
    # Dimensions of the model.
    model_dim: int
    # Cuts texts that are longer than the model reads; None leaves that to the model.
    chunker: "Chunker | None" = None
    # What `int8` is scaled between, [2, dim].
    ranges: np.ndarray | None = None
    # What each part says of the model and the settings that made it.
    origin: Origin | None = None
    # Another output, whose vectors stand for those of the same texts.
    reuse: Reuse | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_dim(self.options.truncate_dim, self.model_dim)

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return self.options.truncate_dim or self.model_dim

    @property
    def width(self) -> int:
        """Numbers that an embedding is stored in."""
        return stored_width(self.dim, self.options.dtype)

    @property
    def stored_dtype(self) -> str:
        """Type of these numbers."""
        return STORED[self.options.dtype]

    @property
    def most_kept(self) -> int:
        """Most vectors that are kept for texts that repeat. A text with a row for each chunk has several: none is kept."""
        return 0 if self.options.row_per_chunk else self.limits.kept // (4 * self.model_dim)

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.corpus.rows // self.options.rows_per_part)

    def stem(self, part: int) -> str:
        """The name of a part, by its number from 0, without an ending."""
        return part_stem(part, self.parts)

    def rows_of(self, part: int) -> range:
        """The rows of the corpus that a part holds."""
        first = part * self.options.rows_per_part
        return range(first, min(first + self.options.rows_per_part, self.corpus.rows))

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """Columns of a part, and its metadata."""
        columns = self.make_schema(nulls=self.corpus.null_rows > 0)
        return columns if self.origin is None else columns.with_metadata(self.origin.metadata())

    def make_schema(self, *, nulls: bool) -> pa.Schema:
        """Columns of what is written; `nulls`: whether a row may be without an embedding."""
        return embedding_schema(
            self.corpus.id_type,
            self.width,
            self.stored_dtype,
            keep_text=self.options.keep_text,
            nulls=nulls,
            chunks=self.options.row_per_chunk,
            kept=self.corpus.keep_types,
        )


def consecutive(parts: Iterable[int]) -> Iterator[range]:
    """Numbers in growing order -> runs of consecutive ones: 0 1 2 5 6 -> 0-2, 5-6."""
    for _, group in itertools.groupby(enumerate(parts), key=lambda pair: pair[1] - pair[0]):
        run = [part for _, part in group]
        yield range(run[0], run[-1] + 1)


def gather(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items together until their lengths add up to `size`."""
    held: list[Item] = []
    length = 0
    for item in items:
        held.append(item)
        length += len(item)
        if length >= size:
            yield held
            held, length = [], 0
    if held:
        yield held
