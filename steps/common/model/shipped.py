"""Log a model that MLflow runs as code, with the code of the project that it needs beside it."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo

from steps.common.model.log import log_code
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
    """Log a model to the active run, as log_code.

    Args:
        model: semantic_search, paraphrases or similarity.
        packages: what it imports beside REQUIREMENTS.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return log_code(
            model,
            artifact,
            signature=signature,
            example=example,
            tags=tags,
            packages=(*REQUIREMENTS, *packages),
            code_paths=[str(copy_code(Path(scratch)))],
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
