"""Vectors in smaller numbers: compared in those, and the best candidates again by what they were made of."""

import threading
from pathlib import Path

import numpy as np
import torch

from steps.common.search.matrix import MatrixFile, Rows, map_matrix
from steps.common.search.scan import Hits, in_order, product

# What is compared, in a folder of an index, and what int8 is scaled between.
COMPRESSED, RANGES = "compressed.npy", "ranges.npy"

# Rows that are written together.
TOGETHER = 8192

# Rows in a piece: 3 MB of 384 dimensions once they are float32 again, which a cache holds.
PIECE = 2048

WORD = 64


_held = threading.local()


def widen(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors as float32, in memory that the next call of this thread writes over: new memory costs more than the copy."""
    if getattr(_held, "numbers", torch.empty(0)).numel() < vectors.numel():
        _held.numbers = torch.empty(vectors.numel())
    return _held.numbers[: vectors.numel()].view(vectors.shape).copy_(vectors)


class Float16:
    """Vectors as float16 [n, dim]."""

    piece = PIECE

    def __init__(self, folder: Path, dim: int):
        self._vectors = torch.from_numpy(map_matrix(folder / COMPRESSED))

    def __len__(self) -> int:
        return len(self._vectors)

    def score(self, queries: torch.Tensor, rows: slice | np.ndarray) -> torch.Tensor:
        return product(queries, widen(self._vectors[rows]))

    @staticmethod
    def write(vectors: Rows, folder: Path) -> None:
        with MatrixFile(folder / COMPRESSED, np.dtype(np.float16), vectors.width) as file:
            for piece in vectors.pieces(TOGETHER):
                file.append(piece)


class Int8:
    """Vectors as int8 [n, dim]: 256 even steps between the least and the greatest value of each dimension."""

    piece = PIECE

    def __init__(self, folder: Path, dim: int):
        self._vectors = torch.from_numpy(map_matrix(folder / COMPRESSED))
        low, high = torch.from_numpy(np.load(folder / RANGES))
        self._step = (high - low) / 255
        self._middle = low + 128 * self._step

    def __len__(self) -> int:
        return len(self._vectors)

    def score(self, queries: torch.Tensor, rows: slice | np.ndarray) -> torch.Tensor:
        # The scale and the middle of each dimension go to the queries, so that the vectors stay as they are.
        return product(queries * self._step, widen(self._vectors[rows])) + (queries @ self._middle)[:, None]

    @staticmethod
    def write(vectors: Rows, folder: Path) -> None:
        extremes = [np.stack([piece.min(axis=0), piece.max(axis=0)]) for piece in vectors.pieces(TOGETHER)]
        low, high = np.min([one[0] for one in extremes], axis=0), np.max([one[1] for one in extremes], axis=0)
        np.save(folder / RANGES, np.stack([low, high]))
        step = np.where(high > low, (high - low) / 255, 1)
        with MatrixFile(folder / COMPRESSED, np.dtype(np.int8), vectors.width) as file:
            for piece in vectors.pieces(TOGETHER):
                file.append(np.rint((piece - low) / step - 128))


class Binary:
    """Vectors as the signs of their dimensions, 64 in a number: uint64 [words, n]. A score is the share of equal signs less that
    of others.
    """

    # Bits are few: more rows fit into a cache.
    piece = 32 * PIECE

    def __init__(self, folder: Path, dim: int):
        self._words, self._dim = map_matrix(folder / COMPRESSED), dim

    def __len__(self) -> int:
        return self._words.shape[1]

    def score(self, queries: torch.Tensor, rows: slice | np.ndarray) -> torch.Tensor:
        words = self._words[:, rows]
        scores = np.empty((len(queries), words.shape[1]), np.float32)
        for row, query in enumerate(pack_signs(queries.numpy())):
            different = np.zeros(words.shape[1], np.uint16)
            for word, asked in zip(words, query):
                different += np.bitwise_count(word ^ asked)
            scores[row] = different
        return torch.from_numpy(1 - scores * (2 / self._dim))

    @staticmethod
    def write(vectors: Rows, folder: Path) -> None:
        shape = (-(-vectors.width // WORD), len(vectors))
        words = np.lib.format.open_memmap(folder / COMPRESSED, "w+", np.dtype(np.uint64), shape)
        first = 0
        for piece in vectors.pieces(TOGETHER):
            words[:, first : first + len(piece)] = pack_signs(piece).T
            first += len(piece)
        words.flush()


# By what index calls them: what writes the vectors of a folder in smaller numbers, and scores them.
SMALLER: dict[str, type[Float16] | type[Int8] | type[Binary]] = {"float16": Float16, "int8": Int8, "binary": Binary}


def pack_signs(vectors: np.ndarray) -> np.ndarray:
    """The signs of [n, dim], 64 in a number, the last filled with zeros: uint64 [n, words]."""
    bits = np.packbits(vectors > 0, axis=1)
    padded = np.zeros((len(bits), 8 * -(-vectors.shape[1] // WORD)), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint64)


def score_again(candidates: np.ndarray, vectors: Rows, queries: np.ndarray, k: int) -> Hits:
    """The `k` best rows of each query among its candidates, int64 [queries, candidates], by float32 vectors; -1 is none."""
    scores = np.full(candidates.shape, -np.inf, np.float32)
    for row, (query, rows) in enumerate(zip(queries, candidates)):
        # In the order of the file.
        rows.sort()
        scores[row, rows >= 0] = vectors.take(rows[rows >= 0]) @ query
    found = in_order(candidates, scores)
    return Hits(found.rows[:, :k], found.scores[:, :k])
