"""Texts without padding, by an attention that computes one text after another: PyTorch's own is for GPUs."""

import copy

import numpy as np
import pytest
import torch
from helpers.architectures import TAKEN, TEXTS, assert_same
from helpers.models import backend_settings

from steps.common.backends import unpadded
from steps.common.backends.tokens import Tokens

# Models that are padded nevertheless: what they read of a layer, or how they attend, is not told by where texts end.
PADDED = ("WeightedLayerPooling", "MPNet", "T5 without a limit")


def attend_in_turn(
    query, key, value, ends, ends_of_keys, longest, longest_key, *, scale, window_size, enable_gqa=False
):
    """What `varlen_attn` computes: [tokens, heads, head_dim], each text by itself."""
    assert ends is ends_of_keys and ends.dtype == torch.int32 and longest == longest_key == int(ends.diff().max())
    found = []
    for start, end in zip(ends.tolist(), ends.tolist()[1:]):
        place = torch.arange(end - start)
        ahead = place[None, :] - place[:, None]
        seen = torch.ones_like(ahead, dtype=torch.bool)
        for reach, distance in zip(window_size, (-ahead, ahead)):
            seen &= (distance <= reach) | (reach < 0)
        of_text = (one[start:end].transpose(0, 1) for one in (query, key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(
            *of_text, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
        )
        found.append(attended.transpose(0, 1))
    return torch.cat(found)


@pytest.fixture
def unpad(tiny, monkeypatch):
    """Load a model as on a GPU, but in float32 on the CPU."""
    monkeypatch.setattr(unpadded, "varlen_attn", attend_in_turn)

    def load(name):
        backend = tiny.load(name)
        backend._model = copy.deepcopy(backend._model)
        backend._unpad(backend_settings("torch", "f32", device="cpu", batch_tokens=512))
        return backend

    return load


@pytest.mark.parametrize("name", TAKEN)
def test_texts_without_padding_get_the_librarys_vectors(tiny, unpad, name):
    backend = unpad(name)
    assert (backend._unpadded is None) == (name in PADDED)
    backend.start_counting()
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    assert (backend.padding_share == 0) == (name not in PADDED)


def test_a_model_that_attention_takes_nothing_of_is_padded(tiny, unpad, monkeypatch, caplog):
    def refuse(*given, **options):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nmore")

    backend = unpad("mean")
    for attention, reason in (
        (refuse, "FlashAttention only supports Ampere GPUs or newer."),
        (lambda query, *given, **options: query, "without padding its vectors differ by"),
    ):
        monkeypatch.setattr(unpadded, "varlen_attn", attention)
        monkeypatch.setattr(backend, "_model", copy.deepcopy(tiny.model("mean")))
        monkeypatch.setattr(backend, "_unpadded", None)
        monkeypatch.setattr(backend, "_pads", True)
        with caplog.at_level("INFO", "steps"):
            backend._unpad(backend_settings("torch", "f32", device="cpu"))
        assert backend._unpadded is None and backend._pads
        assert caplog.messages[-1].startswith(f"texts are padded: {reason}")
        assert_same(backend.encode(TEXTS), tiny.expected("mean"))


def test_texts_of_no_tokens_at_all_are_pooled_as_nothing(tiny, unpad):
    nothing = Tokens(np.zeros(2, np.int64), np.empty(0, np.int32), np.zeros(3, np.int64))
    assert_same(unpad("mean").embed(nothing), np.zeros((2, 32), np.float32))
    assert_same(tiny.load("mean").embed(nothing), np.zeros((2, 32), np.float32))
