"""Converted models, kept beside the model they were made from."""

import filecmp
import logging
import shutil
import tempfile
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from steps.common.backends import Store
from steps.common.model.find import FoundModel

logger = logging.getLogger("steps")

# Folder of a LoggedModel that holds what was converted from it.
CONVERTED = "converted"


class FolderStore(Store):
    """Converted models among the files of a model."""

    def __init__(self, folder: Path):
        """`folder` is where the model is."""
        self._folder = folder / CONVERTED

    def find(self, name: str) -> Path | None:
        folder = self._folder / name
        return folder if folder.is_dir() else None


class ConvertedStore(FolderStore):
    """Converted models, kept among the files of the LoggedModel they were made from."""

    def __init__(self, found: FoundModel, folder: Path):
        """`folder` is where the model was downloaded to."""
        super().__init__(folder)
        self._found = found

    def keep(self, name: str, folder: Path) -> Path:
        """Upload a folder; where the artifact store is this disk, that is where it is read from."""
        model_id = self._found.logged.model_id
        try:
            mlflow.MlflowClient().log_model_artifacts(model_id, str(folder), f"{CONVERTED}/{name}")
        except (MlflowException, OSError) as error:
            logger.warning("%s is not kept with model %s and will be converted again: %s", name, model_id, error)
        kept = self._folder / name
        if not _same_files(folder, kept):
            # The model was downloaded, or the store has taken nothing.
            try:
                shutil.copytree(folder, kept, dirs_exist_ok=True)
            except OSError:
                kept = Path(tempfile.mkdtemp(prefix="converted-")) / name
                shutil.copytree(folder, kept)
        return kept


def _same_files(first: Path, second: Path) -> bool:
    """Whether every file of `first` is in `second`, byte for byte."""
    names = [path.name for path in first.iterdir()]
    return second.is_dir() and filecmp.cmpfiles(first, second, names, shallow=False)[0] == names
