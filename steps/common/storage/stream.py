"""The bytes of a file, decompressed and digested while they are read."""

import contextlib
import hashlib
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from steps.common.errors import UserError, first_line
from steps.common.storage.place import BUFFER, REMOTE_BUFFER, Digest, Place, decompress, open_at, reaching


class _Tee(io.RawIOBase):
    """A pyarrow stream as Python's, with a digest of all that is read."""

    def __init__(self, stream: pa.NativeFile, digest: Digest | None, start: int):
        self._stream, self._digest, self._position = stream, digest, start

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        if self._digest is not None:
            self._digest.update(data)
        return len(data)


@contextlib.contextmanager
def open_bytes(
    place: Place,
    compression: str | None = None,
    digest: Digest | None = None,
    *,
    start: int = 0,
    buffer: int | None = None,
) -> Iterator[io.BufferedReader]:
    """Stream a file, decompressed. `tell` of a stream that is not compressed is the position in the file.

    Args:
        compression: gz, bz2, xz or zst.
        digest: updated with the bytes of the file as they are on disk; complete once the stream was read to its end.
        start: position of the first byte to read; above 0 only without compression and digest.
        buffer: bytes to read at a time; None for as many as suit the filesystem.

    Raises:
        UserError: what is compressed breaks off, or is something else.
    """
    size = buffer or (BUFFER if place.local is not None else REMOTE_BUFFER)
    with open_at(place, start) as stream:
        raw: Any = io.BufferedReader(_Tee(stream, digest, start), size)
        yield raw if compression is None else io.BufferedReader(_Decompressed(place, raw, compression), BUFFER)
        # The digest covers the rest of the file too.
        while digest is not None and not raw.closed and raw.read(BUFFER):
            pass


class _Decompressed(io.RawIOBase):
    """What is compressed in a file: all the streams that stand in it one after another, as pigz, pbzip2 or cat leave them."""

    def __init__(self, place: Place, raw: io.BufferedReader, compression: str):
        self._place, self._compression = place, compression
        self._pieces = decompress(raw, compression)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece:
            try:
                piece = next(self._pieces, None)
            except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
                raise UserError(
                    f"{self._place} is damaged, or not compressed as {self._compression}: {first_line(error)}."
                ) from None
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        count = min(len(buffer), len(self._piece))
        buffer[:count], self._piece = self._piece[:count], self._piece[count:]
        return count


def sha256(place: Place) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with reaching(place), open_bytes(place) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
