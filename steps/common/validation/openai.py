"""Checks of the model that answers OpenAI's embeddings request (embeddings_api.py)."""

import base64
import json
from collections.abc import Callable, Sequence

import httpx
import numpy as np

from steps.common.validation import serving
from steps.common.validation.checks import Check
from steps.common.vectors import unit_length

# Requests that have to be refused, by name.
BAD_REQUESTS: dict[str, dict] = {
    "token_ids": {"input": [101, 2023, 102]},
    "no_input": {"input": []},
    "dimensions": {"input": "a text", "dimensions": 1_000_000},
    "encoding_format": {"input": "a text", "encoding_format": "int8"},
}


def check_api(client: serving.Client, examples: Sequence[str], expected: np.ndarray, tolerance: float) -> list[Check]:
    """Every kind of request gives the vectors of the model, and a wrong request is refused.

    Args:
        expected: [n, dim], the embeddings of the examples by that model.
    """
    dimensions = max(1, expected.shape[1] // 2)
    texts = list(examples)
    cases: dict[str, tuple[dict, Callable[[dict], list], np.ndarray]] = {
        "float": ({"input": texts, "encoding_format": "float"}, _floats, expected),
        "base64": ({"input": texts, "encoding_format": "base64"}, _base64, expected),
        "single_string": ({"input": texts[0]}, _floats, expected[:1]),
        "dimensions": ({"input": texts, "dimensions": dimensions}, _floats, unit_length(expected[:, :dimensions])),
    }
    checks, answers = [], {}
    for name, (body, read, vectors) in cases.items():
        answers[name] = serving.post(client, json.dumps({"model": "any", **body}))
        checks.append(serving.check_answer(f"embeddings_api/{name}", answers[name], read, vectors, tolerance))
    checks.append(_check_usage(answers["float"]))
    for name, body in BAD_REQUESTS.items():
        checks.append(serving.check_refusal(f"embeddings_api/refuses_{name}", serving.post(client, json.dumps(body))))
    return checks


def _floats(body: dict) -> list:
    return [entry["embedding"] for entry in sorted(body["data"], key=lambda entry: entry["index"])]


def _base64(body: dict) -> list[np.ndarray]:
    """As OpenAI's clients decode it: little-endian float32."""
    return [np.frombuffer(base64.b64decode(text, validate=True), "<f4") for text in _floats(body)]


def _check_usage(response: httpx.Response | httpx.HTTPError) -> Check:
    """Tokens are counted."""
    try:
        usage = response.json()["usage"]  # type: ignore[union-attr]
        counted = usage["prompt_tokens"] > 0 and usage["total_tokens"] == usage["prompt_tokens"]
    except (AttributeError, ValueError, KeyError, TypeError):
        usage, counted = None, False
    return Check("embeddings_api/usage", json.dumps(usage), "= a count of tokens", counted)
