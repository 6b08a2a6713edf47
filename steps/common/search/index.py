"""An index: vectors to search, and the rows they stand for, as files of a folder that are mapped into memory."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from steps.common.errors import UserError
from steps.common.search.filters import choose_rows
from steps.common.search.scan import Float32, Hits, find_top

FACTS, VECTORS, ROWS = "index.json", "vectors.npy", "rows.arrow"

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Facts:
    """What index.json says."""

    rows: int
    dim: int
    # cosine (the vectors have unit length) or dot.
    metric: str
    format_version: int = FORMAT_VERSION


class MatrixFile:
    """A .npy file that rows are appended to."""

    def __init__(self, path: Path, dtype: np.dtype, width: int):
        self._path, self._dtype, self._width, self._rows = path, dtype, width, 0

    def __enter__(self) -> "MatrixFile":
        self._stream = self._path.open("wb")
        self._write_header()
        return self

    def append(self, rows: np.ndarray) -> None:
        self._stream.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(rows)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._stream.seek(0)
        self._write_header()
        self._stream.close()

    def _write_header(self) -> None:
        # numpy leaves room for the first axis to grow, so that the final header is as long as this one.
        shape = (self._rows, self._width)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)


class Index:
    """Answers queries from a folder that `write_facts` has completed."""

    def __init__(self, folder: Path):
        content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if content.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"the index has format {content.get('format_version')}, this version of the project reads {FORMAT_VERSION}. Run index again."
            )
        self.facts = Facts(**content)
        self.rows = pa.ipc.open_file(pa.memory_map(str(folder / ROWS))).read_all()
        self.vectors = Float32(map_matrix(folder / VECTORS))

    def search(
        self, queries: np.ndarray, top_k: int, minimum_score: float | None = None, filter: str | None = None
    ) -> Hits:
        """The best rows for each query; a score below `minimum_score` has row -1.

        Args:
            queries: float32 [queries, dim], of unit length where the metric is cosine.
            filter: as filters.choose_rows takes it; what it does not let through is not ranked.

        Raises:
            UserError: a filter that cannot be used.
        """
        hits = find_top(self.vectors, queries, top_k, choose_rows(self.rows, filter))
        if minimum_score is not None:
            hits.rows[hits.scores < minimum_score] = -1
        return hits

    def take(self, numbers: np.ndarray) -> pa.Table:
        """The rows of some numbers, in their order: all columns but the embedding."""
        return self.rows.take(pa.array(numbers))


def write_facts(folder: Path, facts: Facts) -> None:
    """Write index.json, last of all: it says that the index is whole."""
    (folder / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")


def map_matrix(path: Path) -> np.ndarray:
    """A matrix whose pages are read when they are needed."""
    # Copy on write: torch takes no array that cannot be written to.
    return np.load(path, mmap_mode="c")
