"""The bytes of a file, decompressed and digested while they are read."""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa

from steps.common.errors import UserError, first_line
from steps.common.storage.place import Place, reaching

# Bytes read from a file at a time, on this machine and elsewhere, where each is a request.
BUFFER, REMOTE_BUFFER = 1 << 20, 8 << 20

# Compressed bytes read at a time: the decoder copies what is left of them with every piece it returns.
PIECE = 1 << 18

BREAKS_OFF = "it breaks off before its end"


class Digest(Protocol):
    """A hash of hashlib."""

    def update(self, data: bytes, /) -> None: ...


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
        compression: gz, bz2, xz or zst; raises UserError where the file breaks off, or is something else.
        digest: updated with the bytes of the file as they are on disk; complete once the stream was read to its end.
        start: position of the first byte to read; above 0 only without compression and digest.
        buffer: bytes to read at a time; None for as many as suit the filesystem.
    """
    size = buffer or (BUFFER if place.local is not None else REMOTE_BUFFER)
    with _open_at(place, start) as stream:
        raw: Any = io.BufferedReader(_Tee(stream, digest, start), size)
        yield raw if compression is None else io.BufferedReader(_Decompressed(place, raw, compression), BUFFER)
        # The digest covers the rest of the file too.
        while digest is not None and not raw.closed and raw.read(BUFFER):
            pass


def _open_at(place: Place, start: int) -> pa.NativeFile:
    if not start:
        return place.filesystem.open_input_stream(place.path, compression=None, buffer_size=0)
    stream = place.filesystem.open_input_file(place.path)
    stream.seek(start)
    return stream


class _Decompressed(io.RawIOBase):
    """What is compressed in a file: all the streams that stand in it one after another, as pigz, pbzip2 or cat leave them."""

    def __init__(self, place: Place, raw: io.BufferedReader, compression: str):
        self._place, self._compression = place, compression
        self._pieces = _decompress(raw, compression)
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


def _decompress(raw: io.BufferedReader, compression: str) -> Iterator[bytes]:
    """Pieces of at most BUFFER bytes."""
    if not raw.peek(1):
        raise EOFError(BREAKS_OFF)
    if compression in ("bz2", "xz"):
        yield from _decompress_streams(raw, compression)
        return
    stream = (
        gzip.GzipFile(fileobj=raw) if compression == "gz" else pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
    )
    while piece := stream.read(BUFFER):
        yield piece


def _decompress_streams(raw: io.BufferedReader, compression: str) -> Iterator[bytes]:
    """The modules bz2 and lzma take damage behind the first stream for the end of the file, and rows would be lost
    (test_damage_behind_the_first_stream_is_not_taken_for_the_end)."""
    data = raw.read(PIECE)
    while data:
        decoder = bz2.BZ2Decompressor() if compression == "bz2" else lzma.LZMADecompressor()
        while not decoder.eof:
            piece = decoder.decompress(data, BUFFER)
            if piece:
                yield piece
            data = b""
            if not decoder.eof and decoder.needs_input:
                data = raw.read(PIECE)
                if not data and not piece:
                    raise EOFError(BREAKS_OFF)
        data = decoder.unused_data
        # Zeros between streams are padding.
        while not data.lstrip(b"\0") and (data := raw.read(PIECE)):
            pass
        data = data.lstrip(b"\0")


def sha256(place: Place) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with reaching(place), open_bytes(place) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
