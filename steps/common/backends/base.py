"""What every backend that makes its own batches has in common."""

from abc import ABC, abstractmethod

import numpy as np
from sentence_transformers import SentenceTransformer

from steps.common.backends import OnRows
from steps.common.backends.batches import computed_tokens, plan_batches
from steps.common.backends.tokens import Tokenizer, Tokens


class BatchedBackend(ABC):
    """Texts by length, batches by token budget, vectors back in the order of the texts."""

    name: str
    precision: str
    device: str
    digest: str | None = None

    def __init__(self, model: SentenceTransformer, tokenizer: Tokenizer, *, batch_size: int, batch_tokens: int):
        self.dim = model.get_embedding_dimension() or 0
        self.max_tokens = model.max_seq_length
        # Some models keep the first dimensions only; the library cuts after their last module.
        self._truncate_dim = model.truncate_dim
        self._batch_size, self._batch_tokens = batch_size, batch_tokens
        self.tokenize = tokenizer
        # Whether the texts of a batch are padded to its longest.
        self._pads = True
        self.start_counting()

    def start_counting(self) -> None:
        """Forget the padding so far."""
        self._tokens = self._computed = 0

    @property
    def padding_share(self) -> float:
        return 1 - self._tokens / self._computed if self._computed else 0.0

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.embed(self.tokenize(texts))

    def embed(self, tokens: Tokens, on_rows: OnRows | None = None) -> np.ndarray:
        if not len(tokens):
            return np.empty((0, self.dim), np.float32)
        widths = tokens.widths
        planned = self._padded(widths)
        batches = plan_batches(planned, max_tokens=self._budget(int(widths.sum())), max_rows=self._batch_size)
        self._tokens += int(widths.sum())
        self._computed += computed_tokens(planned, batches) if self._pads else int(widths.sum())
        return self._run(tokens, batches, on_rows or (lambda rows: None))[:, : self._truncate_dim]

    def _padded(self, widths: np.ndarray) -> np.ndarray:
        """Tokens of each text once it is padded, beside texts of its length: int64 [n]."""
        return widths

    def _budget(self, total: int) -> int:
        """Most tokens in a batch, for texts of so many tokens in all."""
        return self._batch_tokens

    @abstractmethod
    def _run(self, tokens: Tokens, batches: list[np.ndarray], on_rows: OnRows) -> np.ndarray:
        """Compute batches: float32 [len(tokens), dimension of the model's last module]."""

    def close(self) -> None:  # noqa: B027 - most hold nothing but memory
        pass
