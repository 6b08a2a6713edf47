"""Texts -> token ids by the tokenizers library itself, as SentenceTransformer.preprocess would make them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import tokenizers
import torch
from sentence_transformers import SentenceTransformer

from steps.common.backends.check import PROBES

# What a batch of ours can hold; a model that reads more gets its batches from the library.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def without_limits(fast: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy of a tokenizer that neither pads nor truncates."""
    fast = tokenizers.Tokenizer.from_str(fast.to_str())
    fast.no_padding()
    fast.no_truncation()
    return fast


@dataclass(frozen=True)
class Tokens:
    """Texts as a model reads them: text i is ids[offsets[i]:offsets[i + 1]].

    `lengths` counts the tokens before truncation, prompt and special tokens included: int64 [n].
    """

    lengths: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def widths(self) -> np.ndarray:
        """Tokens of each text that the model reads: int64 [n]."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Tokens":
        """Some of the texts, in the order of `rows`."""
        widths = self.widths[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)])
        # Each id's place among all: its place among those taken, moved by as much as its text is.
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], widths)
        return Tokens(self.lengths[rows], self.ids[places], offsets)


class Tokenizer:
    """A model's fast tokenizer with its prompt, limit and padding; several times faster than through the library."""

    def __init__(self, fast: tokenizers.Tokenizer, *, prompt: str, limit: int | None, pad_id: int, pads_left: bool):
        # A copy, since the library sets padding and truncation of its own with every call.
        self._fast = without_limits(fast)
        self._limit = limit
        if limit is not None:
            self._fast.enable_truncation(limit)
        self._special = self._fast.num_special_tokens_to_add(False)
        self._prompt, self._pad_id, self._pads_left = prompt, pad_id, pads_left

    def __call__(self, texts: Sequence[str]) -> Tokens:
        if self._prompt:
            texts = [self._prompt + text for text in texts]
        encodings = self._fast.encode_batch_fast(list(texts))
        ids = [encoding.ids for encoding in encodings]
        widths = np.fromiter(map(len, ids), np.int64, len(ids))
        lengths = widths.copy()
        for i in np.flatnonzero(widths == self._limit):
            lengths[i] += sum(len(rest) - self._special for rest in encodings[i].overflowing)
        return Tokens(
            lengths,
            np.fromiter(chain.from_iterable(ids), np.int32, int(widths.sum())),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)]),
        )

    def pad(self, tokens: Tokens, rows: np.ndarray, width: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Some texts as one batch: ids and attention mask, each int64 [len(rows), longest of them, `width` at least]."""
        taken = tokens.take(rows)
        widths = taken.widths
        longest = max(width, int(widths.max()))
        columns = np.arange(longest)
        mask = columns >= longest - widths[:, None] if self._pads_left else columns < widths[:, None]
        ids = np.full((len(rows), longest), self._pad_id, np.int64)
        ids[mask] = taken.ids
        return ids, mask.astype(np.int64)


def make_tokenizer(model: SentenceTransformer, prompt: str | None) -> Tokenizer | None:
    """A Tokenizer that gives what the model's own preprocess gives; None where none does (images, slow tokenizers, ...).

    Not taken on trust: both are compared on PROBES.
    """
    try:
        outer = model.tokenizer
    except AttributeError:
        return None
    fast = getattr(outer, "backend_tokenizer", None)
    if not isinstance(fast, tokenizers.Tokenizer):
        return None
    limit = model.max_seq_length
    tokenizer = Tokenizer(
        fast,
        prompt=prompt or "",
        # No limit is 10^30 to transformers, more than the library behind it can hold.
        limit=limit if limit is not None and limit < sys.maxsize else None,
        pad_id=outer.pad_token_id or 0,
        pads_left=outer.padding_side == "left",
    )
    return tokenizer if _agrees(tokenizer, model, prompt) else None


def _agrees(tokenizer: Tokenizer, model: SentenceTransformer, prompt: str | None) -> bool:
    features = model.preprocess(list(PROBES), prompt=prompt)
    tensors = {name: value for name, value in features.items() if isinstance(value, torch.Tensor) and value.ndim}
    if not {"input_ids", "attention_mask"} <= set(tensors) <= set(INPUTS):
        return False
    if "token_type_ids" in tensors and bool(tensors["token_type_ids"].any()):
        return False
    ids, mask = tokenizer.pad(tokenizer(PROBES), np.arange(len(PROBES)))
    return bool(
        np.array_equal(tensors["attention_mask"].numpy(), mask)
        # What stands under the padding is masked, and need not be the same.
        and np.array_equal(tensors["input_ids"].numpy() * mask, ids * mask)
    )
