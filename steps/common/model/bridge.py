"""A model that carries vectors of one model over into the space of another. MLflow runs this file as it is ("models from
code"), so it imports only what the model requires."""

from typing import Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import Schema, TensorSpec

ARTIFACT = "map"


class Bridge(PythonModel):
    """Old vectors in, float32 [n, old dim]; vectors for the new model's space out, float32 [n, new dim].

    Those are to be compared by cosine: their length is not that of the new model's own.
    """

    def load_context(self, context: PythonModelContext) -> None:
        self._map = np.load(context.artifacts[ARTIFACT])

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        return np.asarray(model_input, np.float32) @ self._map


def signature(shape: tuple[int, int]) -> ModelSignature:
    """Float32 [-1, old dim] in, float32 [-1, new dim] out."""
    inputs, outputs = (TensorSpec(np.dtype(np.float32), (-1, dim)) for dim in shape)
    return ModelSignature(Schema([inputs]), Schema([outputs]))


mlflow.models.set_model(Bridge())
