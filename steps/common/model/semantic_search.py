"""An index that answers queries, as a model. MLflow runs this file as it is ("models from code"), with the code that
shipped.py puts beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ParamSpec

from steps.common.errors import UserError
from steps.common.model.answers import QUERY, check_queries, make_answer, make_signature, servable
from steps.common.model.reference import REFERENCE, Embedder, Reference
from steps.common.search.index import Index
from steps.common.vectors import unit_length

ARTIFACT = "index"

TOP_K = 10


@dataclass(frozen=True)
class Options:
    """What a request may ask for beside its queries."""

    # Hits of each query at most.
    top_k: int = TOP_K
    # Worse hits are left out.
    minimum_score: float | None = None
    # One of the model's prompts; None takes its prompt for queries, else its default.
    prompt_name: str | None = None
    # search.filters.choose_rows.
    filter: str | None = None


class SemanticSearch(PythonModel):
    """Queries in, a row for each hit out."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts[ARTIFACT])
        self.index = Index(folder)
        self.embedder = Embedder(Reference.read(folder / REFERENCE))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer queries: the column `query`, any number of rows. The params are those of Options.

        Raises:
            MlflowException: a request that cannot be answered; the server makes it a 400 with its message.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            answer = self.answer(model_input[QUERY].tolist(), Options(**given))
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return servable(answer)

    def answer(self, queries: list[str], options: Options) -> pa.Table:
        """The hits of each query together, best first, in the order of the queries.

        The columns are query, rank (from 1), id, chunk and text where the index has them, score, the kept columns, and
        query_truncated.

        Raises:
            UserError: an empty query, a top_k below 1, an unknown prompt, a filter that cannot be used, or an embedding
                model that is out of reach or another one.
        """
        check_queries(queries)
        if options.top_k < 1:
            raise UserError(f"top_k is {options.top_k}; expected 1 or more.")
        if options.minimum_score is not None and np.isnan(options.minimum_score):
            raise UserError("minimum_score is not a number; expected one, or nothing.")
        embedded = self.embedder.embed(queries, options.prompt_name, queries=True)
        vectors = unit_length(embedded.vectors) if self.index.facts.metric == "cosine" else embedded.vectors
        hits = self.index.search(vectors, options.top_k, options.minimum_score, options.filter)
        of_query, rank = np.nonzero(hits.rows >= 0)
        found = self.index.take(hits.rows[of_query, rank])
        return make_answer(queries, embedded.truncated, of_query, found, hits.scores[of_query, rank])


def signature(rows: pa.Schema) -> ModelSignature:
    """A column of queries in, hits with the columns of an index out."""
    optional = {"minimum_score": "double", "prompt_name": "string", "filter": "string"}
    params = [ParamSpec("top_k", "long", TOP_K), *(ParamSpec(name, kind, None) for name, kind in optional.items())]
    return make_signature(rows, params)


mlflow.models.set_model(SemanticSearch())
