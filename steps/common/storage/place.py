"""Files wherever they are: local paths and URIs through pyarrow's filesystems, and fsspec's where pyarrow has none."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import fsspec
import pyarrow as pa
from pyarrow import fs

from steps.common.errors import UserError, first_line

# Scheme, authority, path, and the options pyarrow takes behind a question mark (endpoint_override=..., region=...).
URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/?#]*)(.*?)(\?\w+=[^/?]*)?", re.DOTALL)

# A local path as a URI, in any of the ways it is written: file:///x, file://localhost/x, file:/x.
FILE_URI = re.compile(r"file:(?://([^/]*))?(/.*)?", re.DOTALL | re.IGNORECASE)

# Schemes of what only mlflow reads and writes.
OF_MLFLOW = ("runs", "models", "mlflow-artifacts")

# Packages of fsspec's filesystems whose errors are not of the system's kind (httpx: the Hub's).
NETWORK = ("httpx", "httpcore", "aiohttp", "huggingface_hub")

HADOOP = " hdfs:// needs Java and Hadoop's libhdfs here: set JAVA_HOME, HADOOP_HOME, and CLASSPATH=$(hadoop classpath --glob)."

# Seconds after which a request to Google's storage is given up; its own default is 15 minutes.
GS_PATIENCE = 60


@dataclass(frozen=True)
class Place:
    """A file or folder on some filesystem; `str` of it is what a person would type."""

    filesystem: fs.FileSystem
    path: str
    # What makes of the path what a person types: s3://, hdfs://host:port; empty for a local path.
    prefix: str = ""

    def __str__(self) -> str:
        return self.prefix + self.path

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """The path on this machine; None where the place is elsewhere."""
        return Path(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def joined(self, name: str) -> "Place":
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    def info(self) -> fs.FileInfo:
        """Kind, size and time of what is there now."""
        with reaching(self):
            return self.filesystem.get_file_info(self.path)


def is_uri(given: str) -> bool:
    """Whether a name is a URI; a local path may be written as one, file:///..."""
    return bool(URI.fullmatch(given)) and not given.lower().startswith("file:/")


def local_name(given: str) -> str:
    """A local path without the file:// it may be written with; percent signs of such a URI are decoded.

    Raises UserError for a URI that names another machine, or no path.
    """
    if not given.lower().startswith("file:/"):
        return given
    match = FILE_URI.fullmatch(given)
    host, path = match.groups(default="") if match else ("", "")
    if host.lower() not in ("", "localhost") or not path:
        raise UserError(
            f"{given} is not a path on this machine; expected file:/// and an absolute path, as in file:///data/x."
        )
    return os.fsdecode(unquote_to_bytes(path))


def locate(given: Path | str) -> Place:
    """The place that a path or URI names, whether or not anything is there.

    The path of a URI is taken as it is typed, as the stores' own tools do: a space is a space, and %20 three characters.
    Raises UserError for an unknown scheme, or one whose library is not installed.
    """
    text = str(given)
    match = URI.fullmatch(text)
    if match is None or not is_uri(text):
        return Place(fs.LocalFileSystem(), local_name(text))
    scheme, authority, path, options = match.groups(default="")
    user, at, host = authority.rpartition("@")
    account = user.partition(":")[0] + at if scheme.startswith("abfs") or ":" not in user else ""
    shown = f"{scheme}://{account}{host}{path}"
    if scheme in ("gs", "gcs") and not options:
        options = f"?retry_limit_seconds={GS_PATIENCE}"
    try:
        if scheme == "hf":
            filesystem, path = _by_fsspec(text, scheme)
        else:
            filesystem, path = fs.FileSystem.from_uri(f"{scheme}://{authority}{quote(path)}{options}")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "Unrecognized filesystem type" not in str(error):
            raise UserError(f"{shown} cannot be used: {first_line(error)}.") from None
        filesystem, path = _by_fsspec(text, scheme)
    except OSError as error:
        hint = HADOOP if scheme in ("hdfs", "viewfs") else ""
        raise UserError(f"{shown} cannot be used: {first_line(error)}.{hint}") from None
    return Place(filesystem, path, _prefix(shown, path))


def _prefix(shown: str, path: str) -> str:
    """What stands before a filesystem's path in the URI it came from."""
    bare = path.rstrip("/")
    if shown.rstrip("/").endswith(bare):
        return shown.rstrip("/").removesuffix(bare)
    if path.startswith(shown.partition(":")[0] + "://"):
        return ""
    # abfs://container@account.dfs.core.windows.net/path, which names the container elsewhere than a path does.
    scheme, _, rest = shown.partition("://")
    host = rest.partition("/")[0].rpartition("@")[2].replace(".dfs.", ".blob.")
    return f"{scheme}://{host}/"


def _by_fsspec(uri: str, scheme: str) -> tuple[fs.FileSystem, str]:
    try:
        with reaching(uri):
            filesystem, path = fsspec.url_to_fs(uri)
        # The Hub's own filesystem takes a glob for the name of a file here, and quotes it.
        path = uri.removeprefix("hf://").rstrip("/") if scheme == "hf" else path
    except ImportError as error:
        raise UserError(
            f"{uri}: {scheme}:// needs a package that is not installed here: {first_line(error)}."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{uri}: there is no filesystem {scheme}://; expected a local path or one of s3, gs, abfs, hdfs, hf ({first_line(error)})."
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


@contextlib.contextmanager
def reaching(place: Place | str) -> Iterator[None]:
    """Raises UserError, one line, in place of what a filesystem raises."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{place} does not exist. Check the path, or restore the file.") from None
    except UserError:
        raise
    except Exception as error:
        known = isinstance(error, (OSError, EOFError, pa.ArrowException))
        if not known and type(error).__module__.partition(".")[0] not in NETWORK:
            raise
        raise UserError(f"{place} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}.") from None


def stamp(place: Place) -> tuple[int, int | None]:
    """Size and modification time: they differ once a file was written again."""
    info = place.info()
    return info.size, info.mtime_ns
