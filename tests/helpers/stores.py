"""Tracking stores that several tests begin from, each in a copy of its own."""

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.project import LEAKED


def copy_store(folder: Path, target: Path) -> None:
    """Copy a folder that holds mlflow.db and its artifacts; the copy knows that it has moved."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    with contextlib.closing(sqlite3.connect(target / "mlflow.db")) as database, database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(folder), str(target)))


def forget_mlflow() -> None:
    """End every run, and forget the store of this test."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None:
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        # The experiment of this test's store, which mlflow keeps for the process and has no call to forget.
        mlflow.tracking.fluent._active_experiment_id = None
        # Copies of one store hold the same runs elsewhere.
        mlflow.tracking._tracking_service.utils._artifact_repos_cache.clear()
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Run steps with the store of a folder, outside any test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LEAKED:
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(folder)
        yield
        forget_mlflow()
