"""Files wherever they are: local paths and URIs through pyarrow's filesystems, and fsspec's where pyarrow has none.

Knows neither MLflow nor Hydra.
"""

import contextlib
import glob
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from steps.common.errors import UserError

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

# Bytes read from a file at a time.
BUFFER = 1 << 20


@dataclass(frozen=True)
class Place:
    """A file or folder on some filesystem; `str` of it is what a person would type."""

    filesystem: fs.FileSystem
    path: str
    # What makes a URI of the path (s3://); empty for a local path.
    prefix: str = ""

    def __str__(self) -> str:
        return self.prefix + self.path

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """The path on this machine; None where the place is elsewhere."""
        return None if self.prefix else Path(self.path)

    def joined(self, name: str) -> "Place":
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    def info(self) -> fs.FileInfo:
        """Kind, size and time of what is there now."""
        with reaching(self):
            return self.filesystem.get_file_info(self.path)


def is_uri(given: str) -> bool:
    """Whether a name is a URI; a local path may be written as one, file:///..."""
    return bool(URI.match(given)) and not given.startswith("file://")


def locate(given: Path | str) -> Place:
    """The place that a path or URI names; whether anything is there is not asked.

    Raises:
        UserError: a scheme nobody knows, or whose library is not installed.
    """
    text = str(given)
    if not is_uri(text):
        return Place(fs.LocalFileSystem(), text.removeprefix("file://"))
    scheme = text.partition("://")[0]
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "Unrecognized filesystem type" not in str(error):
            raise UserError(f"{text} cannot be used: {first_line(error)}.") from None
        filesystem, path = _by_fsspec(text, scheme)
    except OSError as error:
        raise UserError(f"{text} cannot be used: {first_line(error)}.") from None
    return Place(filesystem, path, f"{scheme}://")


def _by_fsspec(uri: str, scheme: str) -> tuple[fs.FileSystem, str]:
    import fsspec

    try:
        filesystem, path = fsspec.url_to_fs(uri)
    except ImportError as error:
        raise UserError(f"{uri}: {scheme}:// needs a package that is not installed here: {error}.") from None
    except ValueError as error:
        raise UserError(
            f"{uri}: there is no filesystem {scheme}://; expected a local path or one of s3, gs, abfs, hdfs, hf ({error})."
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


@contextlib.contextmanager
def reaching(place: Place | str) -> Iterator[None]:
    """Turn what a filesystem raises into one line.

    Raises:
        UserError: what is there cannot be reached or read.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"there is nothing at {place} (any more). Check its spelling, or bring it back.") from None
    except (OSError, EOFError, pa.ArrowException) as error:
        raise UserError(f"{place} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}.") from None


def find(where: Path | str) -> list[Place]:
    """Every file that a path, URI, folder or glob names, in name order; hidden ones of a folder are left out.

    Raises:
        UserError: a place that cannot be reached.
    """
    root = locate(where)
    info = root.info()
    if info.type == fs.FileType.File:
        return [root]
    if info.type == fs.FileType.Directory:
        with reaching(root):
            infos = root.filesystem.get_file_info(fs.FileSelector(root.path, recursive=True))
        base = root.path.rstrip("/") + "/"
        files = [i.path for i in infos if i.type == fs.FileType.File and not _hidden(i.path.removeprefix(base))]
    elif glob.has_magic(root.path):
        files = _glob(root)
    else:
        return []
    return [replace(root, path=path) for path in sorted(files)]


def _glob(root: Place) -> list[str]:
    if root.local is not None:
        return [path for path in glob.glob(root.path, recursive=True) if Path(path).is_file()]
    from fsspec.implementations.arrow import ArrowFSWrapper

    with reaching(root):
        found = ArrowFSWrapper(root.filesystem).glob(root.path, detail=True)
        return [path for path, facts in found.items() if facts["type"] == "file"]


def _hidden(path: str) -> bool:
    """Whether a part of a relative path starts with . or _, as the leavings of other tools do."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


def stamp(place: Place) -> tuple[int, int | None]:
    """Size and time of change: what differs once a file was written again."""
    info = place.info()
    return info.size, info.mtime_ns


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
    """
    with place.filesystem.open_input_stream(place.path, compression=None, buffer_size=0) as stream:
        raw = io.BufferedReader(_Tee(stream, digest), BUFFER)
        yield _decompressed(raw, compression)
        # What a decompressor leaves behind its end belongs to the file too.
        while raw.read(BUFFER):
            pass


def _decompressed(raw: io.BufferedReader, compression: str | None) -> io.BufferedReader:
    if compression is None:
        return raw
    if compression == "gz":
        import gzip

        return gzip.GzipFile(fileobj=raw)
    if compression == "bz2":
        import bz2

        return bz2.BZ2File(raw)
    if compression == "xz":
        import lzma

        return lzma.LZMAFile(raw)
    return io.BufferedReader(_Tee(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"), None), BUFFER)


def sha256(place: Place) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with reaching(place), open_bytes(place, digest=digest):
        pass
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
