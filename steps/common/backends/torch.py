"""The sentence-transformers library on PyTorch."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from steps.common.errors import UserError

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class TorchBackend:
    """`SentenceTransformer.encode` with fixed settings."""

    def __init__(
        self, model: SentenceTransformer, *, precision: str, batch_size: int, device: str, prompt_name: str | None
    ):
        self._device = pick_device(device)
        self._model = model.to(device=self._device, dtype=DTYPES[precision])
        self._batch_size = batch_size
        self._prompt = find_prompt(model, prompt_name)
        self.dim = model.get_embedding_dimension()
        self.max_tokens = model.max_seq_length

    def encode(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dim), np.float32)
        embeddings = self._model.encode(
            texts, prompt=self._prompt, batch_size=self._batch_size, show_progress_bar=False
        )
        return np.asarray(embeddings, np.float32)

    def count_tokens(self, texts: list[str]) -> np.ndarray:
        return count_tokens(self._model.tokenizer, [f"{self._prompt or ''}{text}" for text in texts])


def pick_device(device: str) -> str:
    """The torch device to compute on; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        UserError: a device that this machine does not have.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    kind, _, index = device.partition(":")
    if not there.get(kind) or (
        index and not (kind == "cuda" and index.isdigit() and int(index) < torch.cuda.device_count())
    ):
        names = ", ".join(["auto", *(name for name, is_there in there.items() if is_there)])
        raise UserError(f"backend.device={device} is not on this machine; expected one of {names}.")
    return device


def find_prompt(model: SentenceTransformer, name: str | None) -> str | None:
    """The text of one of the model's prompts, by name; without a name the model's default prompt.

    Raises:
        UserError: the model has no prompt of this name.
    """
    name = name or model.default_prompt_name
    if name is None:
        return None
    if name not in model.prompts:
        raise UserError(
            f"the model has no prompt {name!r}; embedding.prompt_name is one of {', '.join(model.prompts) or 'none'}."
        )
    return model.prompts[name]


def count_tokens(tokenizer, texts: list[str]) -> np.ndarray:
    """Tokens of each text before truncation, special tokens included: int64 [len(texts)]."""
    if not texts:
        return np.empty(0, np.int64)
    # Hugging Face keeps the fast tokenizer inside its own; a static model has only that one.
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(fast, "encode_batch_fast"):
        truncation, padding = fast.truncation, fast.padding
        fast.no_truncation()
        fast.no_padding()
        try:
            return np.fromiter((len(encoding) for encoding in fast.encode_batch_fast(texts)), np.int64, len(texts))
        finally:
            if truncation:
                fast.enable_truncation(**truncation)
            if padding:
                fast.enable_padding(**padding)
    return np.fromiter((len(ids) for ids in tokenizer(texts, truncation=False)["input_ids"]), np.int64, len(texts))
