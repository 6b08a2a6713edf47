"""A model that answers the embeddings call of OpenAI, logged beside the one it wraps. MLflow runs this file as it is
("models from code"), so it imports only what the model requires.

`mlflow models serve` hands a JSON body that holds `input`, `messages` or `prompt` at its top to the model as it is, and
sends the answer back unwrapped (mlflow.pyfunc.scoring_server._parse_json_data and mlflow.pyfunc.utils.serving_data_parser),
so the body of an OpenAI client works on /invocations. The signature makes one row of the body's keys; keys that it does
not declare are ignored, with a warning in the server's log.
"""

import base64
import threading
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType, Array, Object, Property
from sentence_transformers import SentenceTransformer

ARTIFACT = "sentence_transformer"

FORMATS = ("float", "base64")


class EmbeddingsAPI(PythonModel):
    """OpenAI's embeddings call: https://platform.openai.com/docs/api-reference/embeddings/create"""

    def load_context(self, context: PythonModelContext) -> None:
        self._name = context.model_config["name"]
        self._model = SentenceTransformer(
            context.artifacts[ARTIFACT], trust_remote_code=context.model_config["trust_remote_code"]
        )
        # A tokenizer keeps its truncation as state: the server calls from several threads.
        self._lock = threading.Lock()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Answer one request.

        Args:
            model_input: the columns input (a text or a list of texts), model, dimensions, encoding_format and user; several
                rows are one request with the texts of all. The signature makes it from a dict.

        Returns:
            {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": ...}, ...], "model": ..., "usage": {"prompt_tokens": ..., "total_tokens": ...}}.
            An embedding is a list of numbers, or with encoding_format=base64 the base64 of its little-endian float32.
            `dimensions` keeps the first ones and makes the rest unit length. Tokens are those that the model reads: its own
            special ones included, those beyond its longest input not.

        Raises:
            MlflowException: a request that cannot be answered; the server makes it a 400 with its message.
        """
        texts, options = read_request(model_input)
        dimensions = options.get("dimensions")
        full = self._model.get_embedding_dimension()
        if dimensions is not None and not 1 <= dimensions <= full:
            raise refused(f"dimensions is {dimensions}; expected 1 to {full}, the model's own number")
        with self._lock:
            embeddings = self._model.encode(texts, show_progress_bar=False)
            tokens = count_tokens(self._model, texts)
        if dimensions is not None:
            embeddings = embeddings[:, :dimensions]
            lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
            embeddings = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
        in_base64 = options.get("encoding_format") == "base64"
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": to_base64(embedding) if in_base64 else embedding.tolist(),
                }
                for index, embedding in enumerate(embeddings)
            ],
            "model": self._name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def count_tokens(model: SentenceTransformer, texts: list[str]) -> int:
    """Tokens that a model reads of texts, its default prompt included, in all."""
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    features = model.preprocess([prompt + text for text in texts])
    if "attention_mask" in features:
        return int(features["attention_mask"].sum())
    if "offsets" in features:
        # Static embeddings: the ids of all texts in one row.
        return features["input_ids"].numel()
    # The word tokenizers of the library's own bag-of-words and word-vector modules.
    return sum(len(model.tokenizer.tokenize(prompt + text)) for text in texts)


def read_request(model_input: pd.DataFrame) -> tuple[list[str], dict[str, Any]]:
    """The texts of a request, and its other keys, checked.

    Raises:
        MlflowException: no text, token ids in place of text, dimensions that are no whole number, an unknown encoding_format,
            requests that differ.
    """
    rows = model_input.to_dict("records")
    others = [{key: value for key, value in row.items() if key != "input" and _is_given(value)} for row in rows]
    if not rows or any(other != others[0] for other in others):
        raise refused("expected one request, found rows that ask for different things")
    given = [row.get("input") for row in rows]
    texts = [text for value in given for text in (value if isinstance(value, list | tuple | np.ndarray) else [value])]
    if not texts:
        raise refused("input is an empty list; expected a text or a list of texts")
    for text in texts:
        if isinstance(text, bool) or not isinstance(text, str):
            is_tokens = isinstance(text, int | np.integer | list | np.ndarray) and not isinstance(text, bool)
            raise refused(
                "input holds token ids; expected text"
                if is_tokens
                else f"input holds {text!r}; expected a text or a list of texts"
            )
    options = others[0]
    dimensions = options.get("dimensions")
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int | np.integer)):
        raise refused(f"dimensions is {dimensions!r}; expected a whole number")
    form = options.get("encoding_format", "float")
    if form not in FORMATS:
        raise refused(f"encoding_format is {form!r}; expected {' or '.join(FORMATS)}")
    return texts, options


def _is_given(value: object) -> bool:
    """A key that is null, or a column that this row does not have, is not given."""
    return value is not None and value is not pd.NA and not (isinstance(value, float) and np.isnan(value))


def refused(reason: str) -> MlflowException:
    """What the scoring server answers with status 400."""
    return MlflowException.invalid_parameter_value(f"{reason}.")


def to_base64(embedding: np.ndarray) -> str:
    """Little-endian float32, as OpenAI's clients decode it."""
    return base64.b64encode(np.ascontiguousarray(embedding, dtype="<f4").tobytes()).decode("ascii")


def signature() -> ModelSignature:
    """The keys of a request and of its answer; a text or a list of them is no type that MLflow has, so `input` takes any."""
    return ModelSignature(
        Schema(
            [
                ColSpec(AnyType(), "input"),
                ColSpec("string", "model", required=False),
                # A client may send null, which no number of MLflow takes.
                ColSpec(AnyType(), "dimensions", required=False),
                ColSpec("string", "encoding_format", required=False),
                ColSpec("string", "user", required=False),
            ]
        ),
        Schema(
            [
                ColSpec("string", "object"),
                ColSpec(
                    Array(
                        Object(
                            [Property("object", "string"), Property("index", "long"), Property("embedding", AnyType())]
                        )
                    ),
                    "data",
                ),
                ColSpec("string", "model"),
                ColSpec(Object([Property("prompt_tokens", "long"), Property("total_tokens", "long")]), "usage"),
            ]
        ),
    )


mlflow.models.set_model(EmbeddingsAPI())
