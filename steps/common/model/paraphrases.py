"""The paraphrases of a text among those of a corpus, as a model. MLflow runs this file as it is ("models from code"), with the code
that shipped.py puts beside it."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ParamSpec

from steps.common.errors import UserError
from steps.common.model.answers import QUERY, check_queries, make_answer, make_signature, servable
from steps.common.model.reference import REFERENCE, Embedder, Reference
from steps.common.search.conf import check_threshold
from steps.common.search.index import VECTORS, Index
from steps.common.search.matrix import map_matrix
from steps.common.search.scan import Float32, find_above
from steps.common.vectors import unit_length

ARTIFACT = "index"


class Paraphrases(PythonModel):
    """Texts in, a row for each text of the corpus that is near one of them out."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts[ARTIFACT])
        self.index, self.vectors = Index(folder), Float32(map_matrix(folder / VECTORS))
        self.embedder = Embedder(Reference.read(folder / REFERENCE))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Find paraphrases: the column `query`, any number of rows.

        The params are threshold, the least cosine, and prompt_name, one of the model's prompts; both are those of the corpus by
        default.

        Raises:
            MlflowException: a request that cannot be answered; the server makes it a 400 with its message.
        """
        # MLflow fills in the defaults of the signature.
        options = params or {}
        try:
            answer = self.answer(model_input[QUERY].tolist(), options["threshold"], options["prompt_name"])
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return servable(answer)

    def answer(self, queries: list[str], threshold: float, prompt_name: str | None) -> pa.Table:
        """The rows with a cosine of `threshold` or more with a query, best first, in the order of the queries; those of
        answers.make_answer. A row that has the text of the query is one of them.

        Raises:
            UserError: an empty query, a threshold that is none, an unknown prompt, or an embedding model that is out of reach or
                another one.
        """
        check_queries(queries)
        check_threshold(threshold)
        embedded = self.embedder.embed(queries, prompt_name, queries=False)
        of_query, rows, scores = find_above(self.vectors, unit_length(embedded.vectors), threshold)
        return make_answer(queries, embedded.truncated, of_query, self.index.take(rows), scores)


def signature(rows: pa.Schema, threshold: float, prompt_name: str | None) -> ModelSignature:
    """A column of queries in, hits with the columns of an index out; the threshold and the prompt are the defaults of params."""
    params = [ParamSpec("threshold", "double", threshold), ParamSpec("prompt_name", "string", prompt_name)]
    return make_signature(rows, params)


mlflow.models.set_model(Paraphrases())
