"""Load a logged model: natively, as pyfunc, as a backend."""

import json
from pathlib import Path

import mlflow
from fastapi import FastAPI
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from sentence_transformers import SentenceTransformer

from steps.common.backends import Backend, Settings, load
from steps.common.corpus.sample import calibration_texts
from steps.common.model.converted import ConvertedStore
from steps.common.model.find import EMBEDDINGS_API, FoundModel

# What a model raises over an input that its signature rules out.
RefusedInput = MlflowException


def load_native(folder: Path) -> SentenceTransformer:
    """Load a logged model as SentenceTransformer, on the CPU; a backend moves it to where it computes."""
    return mlflow.sentence_transformers.load_model(str(folder)).to("cpu")


# A model as mlflow serves it: predict(data, params) gives float32 [n, dim].
Pyfunc = mlflow.pyfunc.PyFuncModel


def load_pyfunc(folder: Path) -> PyFuncModel:
    """Load a logged model as pyfunc, on the CPU too, so that both can be compared number by number."""
    pyfunc = mlflow.pyfunc.load_model(str(folder))
    pyfunc.get_raw_model().to("cpu")
    return pyfunc


def load_embeddings_api(found: FoundModel) -> PyFuncModel | None:
    """The model that was logged beside this one to answer OpenAI's embeddings call; None where there is none."""
    client = mlflow.MlflowClient()
    tags = client.get_run(found.run_id).data.tags if found.run_id else {}
    # A run may hold several models.
    if EMBEDDINGS_API not in tags or tags.get("model_id") != found.logged.model_id:
        return None
    return mlflow.pyfunc.load_model(f"models:/{tags[EMBEDDINGS_API]}")


def scoring_app(pyfunc: PyFuncModel) -> FastAPI:
    """What `mlflow models serve` runs: an ASGI app."""
    return scoring_server.init(pyfunc)


def load_backend(
    found: FoundModel,
    folder: Path,
    model: SentenceTransformer,
    settings: Settings,
    *,
    prompt_name: str | None = None,
    task: str | None = None,
) -> Backend:
    """Load a backend for a logged model; what was converted for it before is taken from the model's files.

    Args:
        folder: where the model was downloaded to. model: the model in it.

    Raises:
        UserError: as backends.load.load_backend.
    """
    return load.load_backend(
        settings,
        model,
        store=ConvertedStore(found, folder),
        calibration=calibration_texts,
        prompt_name=prompt_name,
        task=task,
        passed=found.passed_backends,
    )


def input_example(folder: Path) -> list[str]:
    """The sentences that were logged with the model as its input example."""
    return json.loads((folder / "input_example.json").read_text())
