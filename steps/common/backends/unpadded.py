"""Texts through a transformer one behind the other, without padding, by PyTorch's own flash attention."""

import inspect
import logging
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface

from steps.common.backends.check import PROBES, TOLERANCE, relative_errors
from steps.common.backends.tokens import Tokenizer, Tokens

logger = logging.getLogger("steps")

# What transformers knows `attend` by.
ATTENTION = "unpadded"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    ends: torch.Tensor,
    longest: int,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each text, as transformers calls it: [1, heads, tokens, head_dim] -> [1, tokens, heads, head_dim].

    `ends`: 0 and the end of each text, int32 [texts + 1]. Whether what `others` say matters is seen by the result.
    """
    reach = -1 if sliding_window is None else sliding_window - 1
    causal = module.is_causal if is_causal is None else is_causal
    query, key, value = (of_heads.squeeze(0).transpose(0, 1) for of_heads in (query, key, value))
    found = varlen_attn(
        *(query, key, value, ends, ends, longest, longest),
        scale=scaling,
        window_size=(reach, 0 if causal else reach),
        **({} if query.shape[1] == key.shape[1] else {"enable_gqa": True}),
    )
    return found.unsqueeze(0), None


AttentionInterface.register(ATTENTION, attend)
# The ends of the texts say who sees whom.
AttentionMaskInterface.register(ATTENTION, lambda *sizes, **options: None)


class Unpadded:
    """A model whose transformer gets texts without padding. The modules behind it get them padded, as from the library:
    they cost little, and how each of them treats padding is its own affair."""

    def __init__(self, model: SentenceTransformer, device: str, constants: dict[str, Any]):
        """Changes the attention of the model. `constants`: features that are the same for every batch."""
        first = model[0]
        self._transformer, self._others, self._device, self._constants = first.model, list(model)[1:], device, constants
        self._first_position = first._infer_flatten_position_offset()
        self._has_token_types = "token_type_ids" in inspect.signature(self._transformer.forward).parameters
        self._transformer.set_attn_implementation(ATTENTION)

    def __call__(self, tokens: Tokens, rows: np.ndarray) -> torch.Tensor:
        """Embed some texts: [len(rows), dim] on the device."""
        taken = tokens.take(rows)
        longest = max(1, int(taken.widths.max()))
        ids = torch.from_numpy(taken.ids).to(self._device, non_blocking=True).long()
        ends = torch.from_numpy(taken.offsets.astype(np.int32)).to(self._device, non_blocking=True)
        texts = torch.arange(len(rows), device=self._device)
        text = torch.repeat_interleave(texts, ends.diff(), output_size=len(ids))
        position = torch.arange(len(ids), device=self._device) - ends[text]
        hidden = self._transform(ids, position, ends, longest)
        padded = hidden.new_zeros(len(rows), longest, hidden.shape[1])
        padded[text, position] = hidden
        mask = ids.new_zeros(len(rows), longest)
        mask[text, position] = 1
        features = dict(self._constants, token_embeddings=padded, attention_mask=mask)
        for module in self._others:
            features = module(features)
        return features["sentence_embedding"]

    def _transform(self, ids: torch.Tensor, position: torch.Tensor, ends: torch.Tensor, longest: int) -> torch.Tensor:
        """The hidden state of each token: [tokens, hidden]."""
        transformer = self._transformer
        if not len(ids):
            return torch.empty(0, transformer.config.hidden_size, device=self._device, dtype=transformer.dtype)
        types = {"token_type_ids": torch.zeros_like(ids)[None]} if self._has_token_types else {}
        positions = position[None] + self._first_position
        found = transformer(input_ids=ids[None], position_ids=positions, ends=ends, longest=longest, **types)
        return found.last_hidden_state[0]


def can_unpad(model: SentenceTransformer) -> bool:
    """Whether a model's transformer may get texts without padding: it takes positions and a way of attention, and its
    pooling asks for no more than the vectors of the tokens."""
    first = model[0]
    return (
        type(first) is Transformer
        and [type(module) for module in list(model)[1:2]] == [Pooling]
        and first.transformer_task == "feature-extraction"
        and first.model.is_backend_compatible()
        and "position_ids" in inspect.signature(first.model.forward).parameters
    )


def make_unpadded(
    model: SentenceTransformer,
    tokenizer: Tokenizer,
    expected: np.ndarray,
    *,
    precision: str,
    device: str,
    constants: dict[str, Any],
) -> Unpadded | None:
    """An Unpadded that gives PROBES the vectors `expected`, those of the model with padding; None where none does.

    Not taken on trust: whether attention in a model is all that `attend` is told of is seen by its vectors.
    """
    if not can_unpad(model):
        return None
    transformer, reason = model[0].model, ""
    usual = transformer.config._attn_implementation
    try:
        unpadded = Unpadded(model, device, constants)
        with torch.inference_mode():
            found = unpadded(tokenizer(PROBES), np.arange(len(PROBES))).float().cpu().numpy()
        # A backend cuts to the model's truncate_dim after the last module.
        error = relative_errors(found[:, : expected.shape[1]], expected).max()
        if error <= TOLERANCE[precision]:
            return unpadded
        reason = f"without padding its vectors differ by {error:.3g} (relative)"
    except (RuntimeError, TypeError, ValueError) as refusal:
        # What a model does not take, or this GPU (the kernels ask for head sizes, and for Ampere or newer).
        reason = str(refusal).partition("\n")[0]
    transformer.set_attn_implementation(usual)
    logger.info("texts are padded: %s", reason)
    return None
