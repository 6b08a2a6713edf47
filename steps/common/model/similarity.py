"""How alike two sentences are, as a model. MLflow runs this file as it is ("models from code"), with the code that shipped.py
puts beside it."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from steps.common.errors import UserError
from steps.common.model.answers import servable
from steps.common.model.reference import Embedder, Reference
from steps.common.search.pairs import SCORES, score_pairs

ARTIFACT = "reference"

FIRST, SECOND, SCORE = "sentence_1", "sentence_2", "score"


class Similarity(PythonModel):
    """Pairs of sentences in, a score a row out."""

    def load_context(self, context: PythonModelContext) -> None:
        self.embedder = Embedder(Reference.read(Path(context.artifacts[ARTIFACT])))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score pairs: the columns sentence_1 and sentence_2, any number of rows; the column score, in their order.

        A pair with a null has a null score. The params are metric (pairs.PairMetric) and prompt_name (one of the model's
        prompts, put before both sentences; its default by default).

        Raises:
            MlflowException: an unknown metric or prompt; the server makes it a 400 with its message.
        """
        # MLflow fills in the defaults of the signature.
        options = params or {}
        if options["metric"] not in SCORES:
            raise MlflowException.invalid_parameter_value(
                f"metric is {options['metric']!r}; expected one of {', '.join(SCORES)}."
            )
        # pandas may hold a null as NaN.
        given = model_input[[FIRST, SECOND]].astype(object)
        given = given.where(given.notna(), None)
        first, second = given[FIRST].tolist(), given[SECOND].tolist()
        try:
            scores = score_pairs(
                lambda texts: self.embedder.embed(texts, options["prompt_name"], queries=False).vectors,
                first,
                second,
                options["metric"],
            )
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return servable(pa.table({SCORE: scores}))


def signature(metric: str) -> ModelSignature:
    """Two columns of strings in, a column of scores out."""
    params = ParamSchema([ParamSpec("metric", "string", metric), ParamSpec("prompt_name", "string", None)])
    inputs = Schema([ColSpec("string", name) for name in (FIRST, SECOND)])
    return ModelSignature(inputs, Schema([ColSpec("float", SCORE)]), params)


mlflow.models.set_model(Similarity())
