"""Matrices in .npy files: written row by row, mapped into memory, or read a few rows at a time."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np


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


class Rows:
    """Reads rows of a .npy file as they are asked for. Unlike those of a map, its pages do not count as memory of the process."""

    def __init__(self, path: Path):
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            (self._rows, self.width), _, self._dtype = np.lib.format.read_array_header_1_0(stream)
            self._start = stream.tell()
            self._file = os.dup(stream.fileno())
        self._bytes = self.width * self._dtype.itemsize

    def __len__(self) -> int:
        return self._rows

    def read(self, first: int, end: int) -> np.ndarray:
        """Rows [first, end)."""
        found = np.empty((end - first, self.width), self._dtype)
        os.preadv(self._file, [found.data], self._start + first * self._bytes)
        return found

    def pieces(self, size: int) -> Iterator[np.ndarray]:
        """All rows, `size` at a time."""
        for first in range(0, len(self), size):
            yield self.read(first, min(first + size, len(self)))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, in their order: [len(rows), width]."""
        found = np.empty((len(rows), self.width), self._dtype)
        for at, row in enumerate(rows.tolist()):
            found[at] = np.frombuffer(os.pread(self._file, self._bytes, self._start + row * self._bytes), self._dtype)
        return found

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def map_matrix(path: Path) -> np.ndarray:
    """A matrix whose pages are read when they are needed."""
    # Copy on write: torch takes no array that cannot be written to.
    return np.load(path, mmap_mode="c")
