"""The recipe of a backend: a description of it, and a module that checks and loads it. This file is that module."""

import hashlib

import numpy as np
import pytest
import torch
from helpers.models import backend_settings
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from steps.common.backends import Request, kinds
from steps.common.backends.check import Unsuitable
from steps.common.backends.kinds import Kind
from steps.common.backends.load import load_backend
from steps.common.errors import UserError

DIM = 4


def hash_text(text: str) -> np.ndarray:
    """The first bytes of a text's SHA-256: float32 [DIM]."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest()[:DIM], np.uint8).astype(np.float32)


class Hashing(InputModule):
    """A model that hashes texts, as a module of the library."""

    tokenizer, max_seq_length = None, None

    def preprocess(self, inputs, prompt=None, **given):
        return {"input_ids": torch.zeros(len(inputs), 1), "texts": [f"{prompt or ''}{text}" for text in inputs]}

    def forward(self, features, **given):
        vectors = np.stack([hash_text(text) for text in features["texts"]])
        return features | {"sentence_embedding": torch.from_numpy(vectors)}

    def get_embedding_dimension(self) -> int:
        return DIM

    def save(self, *given, **others) -> None:
        pass


class HashBackend:
    name, precision, device, dim, max_tokens, digest, padding_share = "hash", "f32", "cpu", DIM, None, None, None

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.stack([hash_text(text) for text in texts])

    def close(self) -> None:
        pass


def check(precision: str, devices: list[str]) -> None:
    if devices != ["cpu"]:
        raise Unsuitable(f"it hashes on one CPU, not on {','.join(devices)}")


def load(request: Request) -> HashBackend:
    if request.model.get_embedding_dimension() != DIM:
        raise Unsuitable("the model does not hash")
    return HashBackend()


@pytest.fixture
def toy(monkeypatch) -> Kind:
    kind = Kind("hash", precisions=("f32",), devices=("cpu",), module=__name__)
    monkeypatch.setitem(kinds.registered(), "hash", kind)
    return kind


def load_toy(**others) -> HashBackend:
    model = SentenceTransformer(modules=[Hashing()], device="cpu")
    return load_backend(backend_settings("hash", "f32", **others), model, store=None, calibration=list)


def test_a_backend_of_another_file_loads_and_encodes(toy):
    backend = load_toy()
    assert isinstance(backend, HashBackend)
    np.testing.assert_array_equal(backend.encode(["a"]), [list(hashlib.sha256(b"a").digest()[:DIM])])


def test_a_backend_of_another_file_says_what_it_cannot_do(toy):
    with pytest.raises(UserError, match="backend=hash backend.precision=f32 cannot be used: it hashes on one CPU"):
        load_toy(device="cpu,cpu")
    with pytest.raises(UserError, match="backend=hash computes in f32, not in int8; backend=openvino does"):
        load_backend(
            backend_settings("hash", "int8"), SentenceTransformer(modules=[Hashing()]), store=None, calibration=list
        )


def test_a_backend_of_another_file_is_a_candidate(toy):
    kinds.check_candidates(["hash/f32"])
    assert backend_settings("torch", "bf16", device="cuda").of("hash/f32") == backend_settings(
        "hash", "f32", device="cpu"
    )
