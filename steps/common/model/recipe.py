"""How another process gets the backend that this one has loaded."""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from steps.common.backends import Backend, Settings, describe_backend
from steps.common.backends import load as backends
from steps.common.corpus.sample import calibration_texts
from steps.common.errors import UserError, first_line
from steps.common.model.converted import FolderStore
from steps.common.model.find import FoundModel
from steps.common.model.load import load_native
from steps.common.model.reference import digest
from steps.common.storage.place import local_name


@dataclass(frozen=True)
class Recipe:
    """The model, where it is, and the backend that its loading has to give."""

    # Of the logged model's files, and the server through which some stores hand them out.
    location: str
    tracking_uri: str
    # Where the first process has it.
    folder: Path
    # SHA-256 of what decides its vectors.
    model_digest: str
    settings: Settings
    prompt_name: str | None
    task: str | None
    # What the first process has loaded.
    name: str
    precision: str
    device: str
    digest: str | None
    # Texts that int8 was calibrated on.
    calibration: list[str]
    # Name of the archive in which an engine sends the model to its workers.
    archive: str | None = None

    def load(self, *, threads: int, device: str | None = None, folder: Path | None = None) -> Backend:
        """Load the backend here.

        Args:
            threads: to compute with, where the settings do not say.
            device: to compute on, in place of that of the settings.
            folder: where the model is, if it came another way than from its store.

        Raises:
            UserError: the model cannot be had, is another, or does not give that backend here.
        """
        folder = folder or self._fetch()
        if digest(folder) != self.model_digest:
            raise UserError(f"the model in {folder} is not the one that the plan was made with. Remove that folder.")
        chosen = self.settings.of(f"{self.name}/{self.precision}")
        settings = replace(chosen, threads=chosen.threads or threads, device=device or chosen.device)
        backend = backends.load_backend(
            settings,
            load_native(folder),
            store=_ReadOnly(folder),
            calibration=lambda: self.calibration,
            prompt_name=self.prompt_name,
            task=self.task,
        )
        here = (backend.name, backend.precision, _kind(backend.device), backend.digest)
        if here != (self.name, self.precision, _kind(self.device), self.digest):
            raise UserError(
                f"This machine loads the backend as {describe_backend(backend)}; the plan says {self.name} {self.precision} on {self.device}. Choose one that every machine has: backend=… backend.precision=… backend.device=…"
            )
        return backend

    def _fetch(self) -> Path:
        """The folder of the model on this machine, downloaded by the first process that asks."""
        if self.location.startswith(("/", "file:")):
            folder = Path(local_name(self.location))
            if not folder.is_dir():
                raise UserError(
                    f"the model is at {folder}, a folder that this machine does not have. Take engine.model_from=driver, or an artifact store that every machine reaches."
                )
            return folder
        key = hashlib.sha256(f"{self.location} {self.model_digest} {self.digest}".encode()).hexdigest()[:32]
        folder = Path(tempfile.gettempdir()) / f"embedding-models-{os.getuid()}" / key
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if not folder.is_dir():
                self._download(folder)
        return folder

    def _download(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            target = Path(scratch) / "model"
            target.mkdir()
            try:
                found = mlflow.artifacts.download_artifacts(
                    artifact_uri=self.location, dst_path=str(target), tracking_uri=self.tracking_uri
                )
            except (MlflowException, OSError, ImportError) as error:
                raise UserError(
                    f"the model cannot be read from {self.location} ({first_line(error)}). Take engine.model_from=driver, or an artifact store that every machine reaches."
                ) from error
            Path(found).rename(folder)


def describe_recipe(
    found: FoundModel,
    folder: Path,
    backend: Backend,
    settings: Settings,
    *,
    prompt_name: str | None,
    task: str | None,
) -> Recipe:
    """How another process gets a backend that was loaded with these settings for a found model, downloaded to a folder."""
    return Recipe(
        location=found.logged.artifact_location,
        tracking_uri=mlflow.get_tracking_uri(),
        folder=folder,
        model_digest=digest(folder),
        settings=settings,
        prompt_name=prompt_name,
        task=task,
        name=backend.name,
        precision=backend.precision,
        device=backend.device,
        digest=backend.digest,
        calibration=calibration_texts(),
    )


class _ReadOnly(FolderStore):
    """Converted models that came with the model."""

    def keep(self, name: str, folder: Path) -> Path:
        raise UserError(
            f"the plan needs {name}, which is not stored with the model or was made with other library versions. Use the same environment on every machine, and let the first one write to the artifact store."
        )


def _kind(device: str) -> str:
    return device.partition(":")[0]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system frees the lock of one that dies."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
