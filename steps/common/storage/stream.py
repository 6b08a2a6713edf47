"""The bytes of a file, decompressed and digested while they are read."""

import bz2
import contextlib
import functools
import hashlib
import io
import lzma
import zlib
from collections.abc import Iterator

import pyarrow as pa

from steps.common.errors import UserError
from steps.common.storage.place import Place, first_line, reaching

# Bytes read from a file at a time, on this machine and elsewhere, where each is a request.
BUFFER, REMOTE_BUFFER = 1 << 20, 8 << 20

# Compressed bytes taken at a time: what is left of them is copied with every piece that comes out.
PIECE = 1 << 18


class _Tee(io.RawIOBase):
    """A pyarrow stream as Python's, with a digest of all that is read."""

    def __init__(self, stream: pa.NativeFile, digest):
        self._stream, self._digest = stream, digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        if self._digest is not None:
            self._digest.update(data)
        return len(data)


@contextlib.contextmanager
def open_bytes(place: Place, compression: str | None = None, digest=None) -> Iterator[io.BufferedReader]:
    """Stream a file, decompressed.

    Args:
        compression: gz, bz2, xz or zst.
        digest: a hashlib object that is shown the bytes of the file as it is, all of them once it was read to its end.

    Raises:
        UserError: what is compressed breaks off, or is something else.
    """
    size = BUFFER if place.local is not None else REMOTE_BUFFER
    with place.filesystem.open_input_stream(place.path, compression=None, buffer_size=0) as stream:
        raw = io.BufferedReader(_Tee(stream, digest), size)
        yield raw if compression is None else io.BufferedReader(_Decompressed(place, raw, compression), BUFFER)
        # What was not asked for belongs to the file too.
        while not raw.closed and raw.read(BUFFER):
            pass


class _Decompressed(io.RawIOBase):
    """What is compressed in a file: all the streams that stand in it one after another, as pigz, pbzip2 or cat leave them.

    The modules gzip, bz2 and lzma take damage behind the first stream for the end of the file, and rows would be lost.
    """

    def __init__(self, place: Place, raw: io.BufferedReader, compression: str):
        self._place, self._compression = place, compression
        self._pieces = self._zstd(raw) if compression == "zst" else self._streams(raw)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
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

    def _streams(self, raw: io.BufferedReader) -> Iterator[bytes]:
        new = {"gz": functools.partial(zlib.decompressobj, 31), "bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}
        data, first = raw.read(PIECE), True
        while data or first:
            decoder = new[self._compression]()
            while not decoder.eof:
                piece = decoder.decompress(data, BUFFER)
                if piece:
                    yield piece
                # zlib hands back what it has not looked at yet, the others keep it.
                data = getattr(decoder, "unconsumed_tail", b"")
                if not decoder.eof and not data and (not piece or getattr(decoder, "needs_input", True)):
                    data = raw.read(PIECE)
                    if not data and not piece:
                        raise EOFError("it breaks off before its end")
            data, first = decoder.unused_data, False
            # Zeros between streams are padding.
            while not data.lstrip(b"\0") and (data := raw.read(PIECE)):
                pass
            data = data.lstrip(b"\0")

    def _zstd(self, raw: io.BufferedReader) -> Iterator[bytes]:
        if not raw.peek(1):
            raise EOFError("it breaks off before its end")
        stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
        while piece := stream.read(BUFFER):
            yield piece


def sha256(place: Place) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with reaching(place), open_bytes(place, digest=digest):
        pass
    return digest.hexdigest()
