"""Texts -> float32 vectors. Knows neither MLflow nor Hydra."""

from typing import Protocol

import numpy as np

from steps.common.errors import UserError


class Backend(Protocol):
    """What computes embeddings: one method that computes, and what a caller must know beside it."""

    dim: int
    # Longest text the model reads, in tokens; None where it has no limit.
    max_tokens: int | None

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embed texts, prompt included: float32 [len(texts), dim], in the order of `texts`."""
        ...

    def count_tokens(self, texts: list[str]) -> np.ndarray:
        """Tokens of each text, prompt and special tokens included, before truncation: int64 [len(texts)]."""
        ...


def load_backend(
    name: str, model, *, precision: str, batch_size: int, device: str, prompt_name: str | None = None
) -> Backend:
    """Make the backend `name` compute with a loaded SentenceTransformer.

    Raises:
        UserError: an unknown backend, a device that is not there, or a prompt that the model does not have.
    """
    if name != "torch":
        raise UserError(f"there is no backend {name!r}; expected torch.")
    from steps.common.backends.torch import TorchBackend

    return TorchBackend(model, precision=precision, batch_size=batch_size, device=device, prompt_name=prompt_name)
