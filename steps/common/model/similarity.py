"""How alike two sentences are, as a model. MLflow runs this file as it is ("models from code"), with the code that shipped.py
puts beside it."""

import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from steps.common.errors import UserError
from steps.common.model.reference import Embedder, Reference
from steps.common.search.answer import servable
from steps.common.search.pairs import SCORES, score_pairs

ARTIFACT = "reference"

FIRST, SECOND, SCORE = "sentence_1", "sentence_2", "score"


class Similarity(PythonModel):
    """Pairs of sentences in, a score a row out."""

    def load_context(self, context: PythonModelContext) -> None:
        reference = Path(context.artifacts[ARTIFACT]).read_text(encoding="utf-8")
        self.embedder = Embedder(Reference.from_json(reference))

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


def log(
    reference: Reference,
    code: Path,
    *,
    metric: str,
    requirements: list[str],
    tags: dict[str, str],
    example: dict[str, str],
) -> ModelInfo:
    """Log the similarity by a model to the active run.

    Args:
        code: the code it runs with (shipped.copy_code).
        metric: the default of its param.
        tags: of the LoggedModel; they say which model it embeds with.
        example: a row for the input example.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "reference.json"
        path.write_text(reference.as_json(), encoding="utf-8")
        return mlflow.pyfunc.log_model(
            name="similarity",
            python_model=str(Path(__file__).absolute()),
            artifacts={ARTIFACT: str(path)},
            code_paths=[str(code)],
            signature=signature(metric),
            input_example=pd.DataFrame([example]),
            pip_requirements=requirements,
            tags=tags,
        )


mlflow.models.set_model(Similarity())
