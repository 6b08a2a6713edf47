"""How another process gets a model: downloaded once, checked, and loaded as the backend that the first one has."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from pyarrow import fs

from steps.common.backends import Precision, Settings
from steps.common.errors import UserError
from steps.common.model.find import find_model
from steps.common.model.load import load_backend, load_native
from steps.common.model.recipe import describe_recipe
from steps.common.storage.place import locate

SETTINGS = Settings("torch", Precision.auto, 128, None, "auto", None, None)


@pytest.fixture
def recipe(tiny_run, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = mlflow.MlflowClient().get_run(tiny_run["run_id"])
    found = find_model(tiny_run["run_id"], preceding="log_model", experiment_id=run.info.experiment_id)
    folder = Path(mlflow.artifacts.download_artifacts(found.uri))
    backend = load_backend(found, folder, load_native(folder), SETTINGS)
    return describe_recipe(found, folder, backend, SETTINGS, prompt_name=None, task=None), backend, folder


def test_a_model_in_an_object_store_is_downloaded_once_however_many_ask(recipe, s3, tmp_path, monkeypatch):
    made, backend, folder = recipe
    there = locate(f"{s3}/{tmp_path.name}/model")
    fs.copy_files(str(folder), there.path, destination_filesystem=there.filesystem)
    made, calls, download = replace(made, location=str(there)), [], mlflow.artifacts.download_artifacts
    monkeypatch.setattr(
        mlflow.artifacts, "download_artifacts", lambda **given: calls.append(given) or download(**given)
    )
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: made._fetch(), range(4)))
    assert len(calls) == len(folders) == 1 and folders != {folder}
    loaded = made.load(threads=1)
    assert np.array_equal(loaded.encode(["the cat", "a red car"]), backend.encode(["the cat", "a red car"]))


def test_a_model_that_cannot_be_had_or_is_another_is_refused(recipe, tmp_path):
    made, _, _ = recipe
    for location, line in (("/not/there", "a folder that this machine does not have"), ("s3x://b/m", "cannot be read")):
        with pytest.raises(UserError, match=f"{line}.*engine.model_from=driver"):
            replace(made, location=location).load(threads=1)
    with pytest.raises(UserError, match="is not the one that the plan was made with"):
        replace(made, model_digest="0" * 64).load(threads=1)
    with pytest.raises(UserError, match="loads the backend as torch f32 on cpu; the plan says torch f32 on cuda:0"):
        replace(made, device="cuda:0").load(threads=1)
