"""Where embeddings go: a folder of this machine or of an object store, written to by one encode at a time.

Until the output is whole its folder `.encode` holds what a later encode needs to go on (the plan, a record of each
finished part), and the claim of the process that writes.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from steps.common.errors import UserError, first_line
from steps.common.storage.place import Place, reaching
from steps.common.storage.stream import BUFFER, open_bytes, sha256

# Hidden, so that no reader of the folder takes what is in it for data.
WORK = ".encode"

DONE = f"{WORK}/done"

PLAN = f"{DONE}/plan.json"

# How the folders begin in which several processes write parts at once.
ATTEMPT = "attempt-"

# What was found when the corpus was read through.
CORPUS = f"{DONE}/corpus.json"


class Output:
    """Named files in a folder; each appears whole, under its name, or not at all."""

    def __init__(self, place: Place, scratch: Path | None = None):
        """`scratch`: a folder of this machine for unfinished files of an output elsewhere; not needed to read."""
        self.place = place
        self.workspace = place.local / WORK if place.local else scratch or Path(tempfile.gettempdir())

    def __str__(self) -> str:
        return str(self.place)

    def names(self, folder: str | None = None) -> list[str]:
        """Every file in it, or in a folder of it, as a path below that."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str | None = None) -> dict[str, int]:
        """As names, with the bytes of each file."""
        return {name: info.size for name, info in self._found(folder).items() if info.type == fs.FileType.File}

    def folders(self) -> list[str]:
        """Every folder in it, as a path below it."""
        return sorted(name for name, info in self._found().items() if info.type == fs.FileType.Directory)

    def _found(self, folder: str | None = None) -> dict[str, fs.FileInfo]:
        place = self.place if folder is None else self.place.joined(folder)
        with reaching(place):
            infos = place.filesystem.get_file_info(fs.FileSelector(place.path, recursive=True, allow_not_found=True))
        base = place.path.rstrip("/") + "/"
        return {info.path.removeprefix(base): info for info in infos}

    def put(self, temporary: Path, name: str) -> None:
        """Move a finished file of the workspace to its name."""
        local = self.place.local
        with self.explain_errors():
            if local is None:
                self._upload(temporary, name)
                temporary.unlink()
                return
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(local / name)
            _sync_folder((local / name).parent)

    def _upload(self, temporary: Path, name: str) -> None:
        # An object appears when its stream is closed, also by an error: what counts is the record written after it.
        with (
            temporary.open("rb") as source,
            self.place.filesystem.open_output_stream(self.place.joined(name).path) as target,
        ):
            shutil.copyfileobj(source, target, 8 * BUFFER)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file, in one piece."""
        with self.explain_errors():
            self.workspace.mkdir(parents=True, exist_ok=True)
            # Another process may write a file of this name at the same time.
            temporary = self.workspace / f"{Path(name).name}.{os.getpid()}.tmp"
            try:
                temporary.write_text(text, encoding="utf-8")
                self.put(temporary, name)
            finally:
                temporary.unlink(missing_ok=True)

    def read_bytes(self, name: str) -> bytes:
        """Raises UserError where it is not there."""
        place = self.place.joined(name)
        with reaching(place), open_bytes(place) as stream:
            return stream.read()

    def read_json(self, name: str) -> Any:
        """The content of a JSON file; None where it does not exist or is not JSON."""
        try:
            return json.loads(self.read_bytes(name))
        except (UserError, ValueError, RecursionError):
            return None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is not there."""
        info = self.place.joined(name).info()
        return info.size if info.type == fs.FileType.File else None

    def facts(self, name: str) -> tuple[int, str] | None:
        """Bytes and SHA-256 of a file, as it is now; None where it is not there."""
        size = self.size(name)
        return None if size is None else (size, sha256(self.place.joined(name)))

    @contextlib.contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """A file as one of this machine; raises UserError where it is not there."""
        place = self.place.joined(name)
        if place.local is not None:
            yield place.local
            return
        with tempfile.NamedTemporaryFile(dir=self.workspace) as copy:
            with reaching(place), open_bytes(place) as stream:
                shutil.copyfileobj(stream, copy, 8 * BUFFER)
            copy.flush()
            yield Path(copy.name)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[pa.NativeFile]:
        """A file to read some of, from anywhere in it; raises UserError where it is not there."""
        place = self.place.joined(name)
        with reaching(place):
            stream = place.filesystem.open_input_file(place.path)
        with stream:
            yield stream

    def flush(self) -> None:
        """Wait until every file that was put is there."""

    def delete(self, name: str) -> None:
        """Raises UserError where it is still there afterwards; some object stores do as asked and then complain."""
        place = self.place.joined(name)
        try:
            place.filesystem.delete_file(place.path)
        except OSError:
            if self.size(name) is not None:
                raise UserError(f"{place} cannot be deleted.") from None

    def clear_work(self) -> None:
        """Remove what only an interrupted output needs. Claims stay: each is removed by its owner."""
        folder = self.place.joined(DONE)
        with contextlib.suppress(OSError):
            folder.filesystem.delete_dir(folder.path)

    def tidy(self) -> None:
        """Remove the hidden folder if nothing is in it."""
        folder = self.place.joined(WORK)
        with contextlib.suppress(OSError, UserError):
            if folder.local is not None:
                folder.local.rmdir()
            elif not any(name.startswith(f"{WORK}/") for name in self.names()):
                folder.filesystem.delete_dir(folder.path)

    def make(self) -> None:
        """Make the workspace, and remove what a killed encode had not finished. The caller holds the claim."""
        with self.explain_errors():
            self.workspace.mkdir(parents=True, exist_ok=True)
            for left in self.workspace.glob("part-*.tmp"):
                left.unlink(missing_ok=True)
            self.clear_attempts()

    def clear_attempts(self) -> None:
        """Remove what killed processes had not finished, once none is at work."""
        for left in self.workspace.glob(f"{ATTEMPT}*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def attempt(self) -> Iterator["Output"]:
        """The same output for one of several processes that write parts to it: unfinished files have a folder of their own."""
        shared = self.workspace if self.place.local else None
        with self.explain_errors():
            folder = Path(tempfile.mkdtemp(prefix=ATTEMPT, dir=shared))
        try:
            own = Output(self.place)
            own.workspace = folder
            yield own
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Raises UserError, one line, where the disk is full or gone, or a store refuses."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or first_line(error)
            kept, resume = (" The finished parts are kept.", " to resume") if self._has_parts() else ("", "")
            raise UserError(
                f"output {self} cannot be written: {reason}.{kept} Correct that and run the same command again{resume}, or give another output."
            ) from None

    def _has_parts(self) -> bool:
        """Whether a part is finished; no where that cannot be seen."""
        try:
            return any(name.startswith("part-") for name in self.names())
        except UserError:
            return False


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut once its folder is synced; not every filesystem can sync a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
