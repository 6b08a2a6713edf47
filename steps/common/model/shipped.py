"""The code of the project that a model needs which MLflow runs as code, copied beside it."""

import shutil
from pathlib import Path

from steps.common.project import PROJECT

# What semantic_search.py, paraphrases.py and similarity.py import, and no more: their requirements follow from it.
SHIPPED = ("errors.py", "vectors.py", "backends", "search", "model/reference.py", "model/answers.py")

# Packages of conda.yaml that this code imports.
REQUIREMENTS = (
    *("mlflow", "sentence-transformers", "transformers", "tokenizers", "torch"),
    *("numpy", "pandas", "pyarrow", "psutil"),
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
