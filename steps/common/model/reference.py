"""A reference to an embedding model: what a served index or similarity embeds texts with.

MLflow runs this beside the code of such a model (shipped.py), so it imports only what that requires.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from sentence_transformers import SentenceTransformer

from steps.common.backends import Backend, Precision, Settings, Store
from steps.common.backends.load import load_backend
from steps.common.backends.torch import find_tasks
from steps.common.errors import UserError, first_line
from steps.common.vectors import shorten

logger = logging.getLogger("steps")

# The file of a served model that names its embedding model.
REFERENCE = "reference.json"

# The prompt and the route for queries, where a model has them.
QUERY = "query"

# What names a difference between two models: tags that log_model writes.
COMPARED = {
    "weights_sha256": "weights",
    "tokenizer_sha256": "tokenizer",
    "modules": "modules",
    "prompts": "prompts",
    "default_prompt": "default prompt",
    "dimension": "dimension",
    "max_seq_length": "longest input",
}


@dataclass(frozen=True)
class Reference:
    """A logged model by its digest, and what was done to its vectors."""

    model_id: str
    # SHA-256 of what decides its vectors.
    digest: str
    # Tags of the logged model, those of COMPARED and its name on the Hub.
    facts: dict[str, str]
    # Of the vectors: the prompt before each text, and embedding.truncate_dim and normalize as encode applied them.
    prompt: str | None = None
    truncate_dim: int | None = None
    normalize: bool = False

    @property
    def uri(self) -> str:
        return f"models:/{self.model_id}"

    def write(self, folder: Path) -> Path:
        """Write it into a folder, as the file REFERENCE."""
        path = folder / REFERENCE
        path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> "Reference":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def digest(folder: Path) -> str:
    """SHA-256 of what decides a logged model's vectors: its weights, modules, tokenizer and prompts."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.sentence_transformer/**/*")):
        if path.is_file() and path.suffix != ".md":
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder).as_posix()}\0{found}\0".encode())
    return total.hexdigest()


def check_same(expected: Reference, found: str, facts: dict[str, str], uri: str) -> None:
    """Raises UserError, which says what differs, where a model is not the one that made some vectors.

    Args:
        found: its digest. facts: its tags. uri: what the user knows it by.
    """
    if found == expected.digest:
        return
    differ = [
        f"{what} {facts[name][:60]!r}, expected {expected.facts[name][:60]!r}"
        for name, what in COMPARED.items()
        if name in facts and name in expected.facts and facts[name] != expected.facts[name]
    ]
    named = "; ".join(differ) or f"digest {found[:12]}..., expected {expected.digest[:12]}..."
    raise UserError(
        f"{uri} is not the model that made the vectors ({expected.uri}, {expected.facts.get('hub_id', 'local')}): {named}. Vectors of two models cannot be compared, whatever their dimensions: give that model, or encode and index again with this one."
    )


@dataclass(frozen=True)
class Embedded:
    """Vectors of texts, float32 [n, dim], and whether the model read less than the whole of each, bool [n]."""

    vectors: np.ndarray
    truncated: np.ndarray


class Embedder:
    """Embeds texts with the model of a reference, which is loaded when the first text comes."""

    def __init__(self, reference: Reference):
        self.reference = reference
        self._model: SentenceTransformer | None = None
        self._backends: dict[str | None, Backend] = {}
        # A tokenizer keeps its truncation as state, and a server calls from several threads.
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], prompt_name: str | None, *, queries: bool) -> Embedded:
        """Embed texts as those of the corpus were.

        Args:
            prompt_name: one of the model's prompts; None takes its prompt for queries, else its default.
            queries: whether the texts are queries: for the prompt, and the route through a model that has several.

        Raises:
            UserError: an unknown prompt, or a model that is out of reach or is another one.
        """
        with self._lock:
            model = self._load()
            # The library gives every model an empty prompt for queries.
            name = prompt_name or (QUERY if queries and model.prompts.get(QUERY) else None)
            if name not in self._backends:
                self._backends[name] = self._load_backend(model, name, queries)
            backend = self._backends[name]
            tokens = backend.tokenize(list(texts))
            longest = backend.max_tokens or np.iinfo(np.int64).max
            vectors = shorten(backend.embed(tokens), self.reference.truncate_dim, self.reference.normalize)
            return Embedded(vectors, tokens.lengths > longest)

    def _load(self) -> SentenceTransformer:
        if self._model is None:
            folder = fetch(self.reference)
            self._model = mlflow.sentence_transformers.load_model(str(folder)).to("cpu")
        return self._model

    def _load_backend(self, model: SentenceTransformer, prompt_name: str | None, queries: bool) -> Backend:
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        settings = Settings("torch", Precision.f32, 128, batch_tokens=None, device=device, threads=None, streams=None)
        return load_backend(
            settings,
            model,
            # torch converts none.
            store=Store(),
            calibration=list,
            prompt_name=prompt_name,
            task=QUERY if queries and QUERY in find_tasks(model) else None,
        )


def fetch(reference: Reference) -> Path:
    """The folder of the model that a reference names, on this machine.

    Raises:
        UserError: its files are out of reach, or are not those that made the vectors.
    """
    try:
        folder = Path(mlflow.artifacts.download_artifacts(reference.uri))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"the embedding model {reference.uri} cannot be read ({first_line(error)}). Set MLFLOW_TRACKING_URI to the server that has it."
        ) from None
    check_same(reference, digest(folder), reference.facts, reference.uri)
    return folder
