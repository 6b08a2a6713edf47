"""Digests of texts: beside each part there is a file of them, so that a later encode knows which texts the part holds."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

# Folder of these files in an output: a reader of part-* finds parts only.
DIGESTS = "digests"

# Of 10^9 texts two have the same digest with a probability of 10^-21.
DIGEST_BYTES = 16

# A row for each row of the part; null where it has no embedding. `tokens` are counted before truncation.
DIGEST_SCHEMA = pa.schema([("digest", pa.binary(DIGEST_BYTES)), ("tokens", pa.int32())])


def digest_texts(texts: pa.Array) -> pa.Array:
    """BLAKE2b of the UTF-8 of each text of an array of strings, or of bytes; null where the text is."""
    texts = texts.cast(pa.binary())
    validity, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets or b"", np.int32)[texts.offset : texts.offset + len(texts) + 1].tolist()
    held, blake2b = memoryview(data or b""), hashlib.blake2b
    joined = b"".join(
        [blake2b(held[start:end], digest_size=DIGEST_BYTES).digest() for start, end in zip(bounds, bounds[1:])]
    )
    valid = None
    if texts.null_count:
        valid = pa.py_buffer(np.packbits(texts.is_valid().to_numpy(zero_copy_only=False), bitorder="little").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), len(texts), [valid, pa.py_buffer(joined)])


def digest_keys(digests: pa.Array) -> np.ndarray:
    """Digests as numbers: uint64 [n, 2], zeros where null."""
    if not len(digests):
        return np.empty((0, 2), np.uint64)
    first = digests.offset * DIGEST_BYTES
    data = memoryview(digests.buffers()[1])[first : first + len(digests) * DIGEST_BYTES]
    keys = np.frombuffer(data, "<u8").reshape(-1, 2)
    if digests.null_count:
        keys = np.where(digests.is_valid().to_numpy(zero_copy_only=False)[:, None], keys, np.uint64(0))
    return keys


@dataclass(frozen=True)
class Index:
    """Digests of texts -> rows, numbered through all parts of an output. It takes 24 bytes a row, and 32 while it is made."""

    # First halves of the digests in order, the rows in that order, and the other halves by row.
    firsts: np.ndarray
    rows: np.ndarray
    seconds: np.ndarray

    @classmethod
    def build(cls, firsts: np.ndarray, seconds: np.ndarray) -> "Index":
        """From the halves of digests, uint64 [rows] each, zeros where there is none."""
        rows = np.argsort(firsts, kind="stable")
        return cls(firsts[rows], rows, seconds)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The first row of each digest, uint64 [n, 2]: int64 [n], -1 where there is none.

        Of digests that agree in their first half, once in 10^19 pairs, the first row alone is found.
        """
        if not len(self.firsts):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self.firsts, keys[:, 0]), len(self.firsts) - 1)
        rows = self.rows[at]
        return np.where((self.firsts[at] == keys[:, 0]) & (self.seconds[rows] == keys[:, 1]), rows, -1)
