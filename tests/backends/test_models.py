"""Every backend gives what the library gives, for every kind of model."""

import copy
import re

import numpy as np
import pytest
import torch
import transformers
from helpers.architectures import (
    BY_THE_LIBRARY,
    DISTILBERT_SIZES,
    MODELS,
    REFUSED,
    SIZES,
    TAKEN,
    TEXTS,
    assert_same,
)
from helpers.errors import refusal
from helpers.models import FolderStore, backend_settings

from steps.common.backends.convert import converted, traceable
from steps.common.backends.load import load_backend
from steps.common.backends.openvino import OpenVinoBackend
from steps.common.backends.tokens import make_tokenizer
from steps.common.backends.torch import LibraryBackend, TorchBackend


@pytest.mark.parametrize("name", MODELS)
def test_torch_gives_what_the_library_gives(tiny, said, name):
    backend = tiny.load(name, "torch")
    assert isinstance(backend, LibraryBackend if name in BY_THE_LIBRARY else TorchBackend)
    assert (backend.name, backend.precision, backend.device, backend.digest) == ("torch", "f32", "cpu", None)
    assert backend.dim == tiny.expected(name).shape[1]
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    assert said() == []


@pytest.mark.parametrize("name", TAKEN)
def test_openvino_gives_what_the_library_gives(tiny, said, name):
    backend = tiny.load(name, "openvino")
    assert (backend.name, backend.precision, backend.device) == ("openvino", "f32", "cpu")
    assert backend.dim == tiny.expected(name).shape[1]
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    assert said() == []


@pytest.mark.parametrize("name", TAKEN)
def test_auto_takes_openvino_where_it_can(tiny, said, name):
    backend = tiny.load(name, "auto")
    assert (backend.name, backend.precision) == ("openvino", "f32")
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    assert said() == []


@pytest.mark.parametrize("name", REFUSED)
def test_openvino_says_why_it_cannot_have_a_model(tiny, name):
    message = refusal(tiny.load, name, "openvino")
    assert re.match(f"backend=openvino backend.precision=f32 cannot be used: {REFUSED[name]}", message)


@pytest.mark.parametrize("name", REFUSED)
def test_auto_goes_on_with_torch_and_says_once_why(tiny, said, name):
    backend = tiny.load(name, "auto")
    assert (backend.name, backend.precision) == ("torch", "f32")
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    (warning,) = said()
    assert re.match(f"backend=auto leaves out openvino/f32: {REFUSED[name]}", warning)


@pytest.mark.parametrize("backend, name", [("torch", "mean"), ("openvino", "mean"), ("torch", "StaticEmbedding")])
def test_few_texts_are_taken(tiny, backend, name):
    loaded = tiny.load(name, backend)
    assert loaded.encode([]).shape == (0, 32)
    assert loaded.encode([]).dtype == np.float32
    assert_same(loaded.encode(TEXTS[:1]), tiny.expected(name)[:1])


def test_nothing_has_the_dimension_of_a_shortened_model(tiny):
    assert tiny.load("truncate_dim", "openvino").encode([]).shape == (0, 12)


@pytest.mark.parametrize("backend, name", [("torch", "mean"), ("openvino", "mean"), ("torch", "StaticEmbedding")])
def test_the_rows_that_are_done_add_up_to_the_texts(tiny, backend, name):
    loaded, done = tiny.load(name, backend), []
    loaded.embed(loaded.tokenize(TEXTS), done.append)
    assert sum(done) == len(TEXTS)


def test_the_library_gives_a_sign_of_life_every_512_texts(tiny):
    backend, done = tiny.load("WordEmbeddings"), []
    texts = (TEXTS * 7)[:600]
    found = backend.embed(backend.tokenize(texts), done.append)
    assert done == [512, 88]
    assert_same(found, np.tile(tiny.expected("WordEmbeddings"), (7, 1))[:600])


def test_loading_leaves_the_model_as_it_is(tiny):
    tiny.load("mean", "torch", "bf16")
    tiny.load("mean", "openvino")
    model = tiny.model("mean")
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    np.testing.assert_array_equal(model.encode(TEXTS, show_progress_bar=False), tiny.expected("mean"))


@pytest.mark.parametrize("name", ["Qwen3", "ModernBERT"])
def test_converting_leaves_the_model_to_compute_as_before(tiny, tmp_path, name):
    model = copy.deepcopy(tiny.model(name))
    before = model[0].auto_model.config.to_dict() | {"attention": model[0].auto_model.config._attn_implementation}
    load_backend(
        backend_settings("openvino", "f32", 32, device="cpu"), model, store=FolderStore(tmp_path), calibration=list
    )
    config = model[0].auto_model.config
    assert config.to_dict() | {"attention": config._attn_implementation} == before
    np.testing.assert_array_equal(model.encode(TEXTS, show_progress_bar=False), tiny.expected(name))


def test_a_configuration_within_another_gets_its_own_attention_back(tiny):
    """As in models that join two others."""
    outer = transformers.BertModel(transformers.BertConfig(**SIZES))
    outer.inner = transformers.DistilBertModel(transformers.DistilBertConfig(**SIZES | DISTILBERT_SIZES))
    outer.inner.set_attn_implementation("eager")
    before = outer.config._attn_implementation
    with pytest.raises(ValueError, match="cannot be traced"), traceable(outer):
        assert outer.config._attn_implementation == "eager"
        raise ValueError("cannot be traced")
    assert (outer.config._attn_implementation, outer.inner.config._attn_implementation) == (before, "eager")
    assert before != "eager"


def test_the_padding_share_is_that_of_the_batches(tiny):
    """Texts of 5, 3 and 3 tokens: one batch of 3 x 5 for torch; OpenVINO shares 11 tokens out, as 2 x 5 and 1 x 3."""
    texts, model, settings = (
        ["the", "the cat the", "a"],
        tiny.model("mean"),
        backend_settings("torch", "f32", 32, threads=1),
    )
    tokenizer = make_tokenizer(model, None)
    ours = TorchBackend(model, tokenizer, settings, "cpu", None)
    assert ours.padding_share == 0
    ours.encode(texts)
    assert ours.padding_share == pytest.approx(4 / 15)
    ours.encode(["a"])
    assert ours.padding_share == pytest.approx(4 / 18)

    path, digest = converted(model, tokenizer, None, int8=False, calibration=list, store=tiny.store("mean"))
    whole = OpenVinoBackend(path, digest, model, tokenizer, settings)
    whole.encode(texts)
    assert whole.padding_share == pytest.approx(2 / 13)

    assert tiny.load("WordEmbeddings").padding_share is None


def test_a_prompt_the_model_does_not_have_is_one_line(tiny):
    asked = {"store": tiny.store("mean"), "calibration": list, "prompt_name": "passage"}
    message = refusal(
        load_backend, backend_settings("torch", "f32", 32, device="cpu"), tiny.model("prompt by name"), **asked
    )
    assert message == "the model has no prompt 'passage'; embedding.prompt_name is one of query, document."
