"""Log a model that MLflow runs as code, with the code of the project that it needs beside it."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo

from steps.common.model.log import requirements
from steps.common.project import PROJECT

# What semantic_search.py, paraphrases.py and similarity.py import, and no more: their requirements follow from it.
SHIPPED = ("errors.py", "vectors.py", "backends", "search", "model/reference.py", "model/answers.py")

# Packages of conda.yaml that this code imports.
REQUIREMENTS = (
    *("mlflow", "sentence-transformers", "transformers", "tokenizers", "torch"),
    *("numpy", "pandas", "pyarrow", "psutil"),
)


def log_model(
    model: ModuleType,
    artifact: Path,
    *,
    signature: ModelSignature,
    example: Any,
    tags: dict[str, str],
    packages: Sequence[str] = (),
) -> ModelInfo:
    """Log a model to the active run, under the name of its module.

    Args:
        model: semantic_search, paraphrases or similarity.
        artifact: the file or folder that the model loads, its ARTIFACT.
        example: an input, as mlflow takes it.
        tags: of the LoggedModel; they say what it was made of.
        packages: what it imports beside REQUIREMENTS.
    """
    name = model.__name__.rpartition(".")[2]
    with tempfile.TemporaryDirectory() as scratch:
        return mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name(f"{name}.py")),
            artifacts={model.ARTIFACT: str(artifact)},
            code_paths=[str(copy_code(Path(scratch)))],
            signature=signature,
            input_example=example,
            pip_requirements=requirements((*REQUIREMENTS, *packages)),
            tags=tags,
        )


def copy_code(folder: Path) -> Path:
    """Copy SHIPPED into a folder as the package `steps`; returns that package's folder, for code_paths."""
    common = folder / "steps" / "common"
    for name in SHIPPED:
        source, target = PROJECT / "steps" / "common" / name, common / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for package in (common.parent, common, common / "model"):
        (package / "__init__.py").touch()
    return folder / "steps"
