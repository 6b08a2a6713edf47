"""A long text as overlapping pieces that a model can read whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tokenizers

from steps.common.backends.tokens import without_limits
from steps.common.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import InputModule


def chunk_room(fast: tokenizers.Tokenizer, prompt: str, limit: int | None, overlap: int) -> int | None:
    """Tokens of a text that a model reads beside its prompt and special tokens; None where it has no limit.

    `fast` has no padding and truncation. Raises UserError for an overlap as long as that.
    """
    room = None if limit is None else limit - len(fast.encode(prompt).ids)
    if room is not None and overlap >= room:
        raise UserError(
            f"corpus.chunk_overlap is {overlap}; expected less than {room}, the tokens of a text that the model reads."
        )
    return room


class Chunker:
    """Cuts texts into windows of tokens, at the beginnings of words where it can.

    Every token is in a piece, and each piece with its prompt and special tokens is no longer than the model reads.
    """

    def __init__(self, model: SentenceTransformer | InputModule, prompt: str | None, overlap: int):
        """`overlap`: tokens that a piece has in common with the one before it.

        Raises UserError for a model without a fast tokenizer, or an overlap as long as a piece.
        """
        fast = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
        if not isinstance(fast, tokenizers.Tokenizer):
            raise UserError(
                "corpus.long_text=chunk needs a model with a fast tokenizer. Use corpus.long_text=truncate."
            )
        self._fast = without_limits(fast)
        self._prompt, self._overlap = prompt or "", overlap
        self._limit = model.max_seq_length
        self._room = chunk_room(self._fast, self._prompt, self._limit, overlap)

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The pieces of each text; a text that the model reads whole is its own one piece."""
        limit, room = self._limit, self._room
        if limit is None or room is None:
            return [[text] for text in texts]
        counts = self._count(texts)
        return [[text] if count <= limit else self._cut(text, limit, room) for text, count in zip(texts, counts)]

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(e.ids) for e in self._fast.encode_batch_fast([self._prompt + text for text in texts])]

    def _cut(self, text: str, limit: int, room: int) -> list[str]:
        encoding = self._fast.encode(text, add_special_tokens=False)
        spans, words = encoding.offsets, encoding.word_ids
        starts = {i for i in range(1, len(words)) if words[i] is None or words[i] != words[i - 1]}
        while True:
            pieces = [text[a:b] for a, b in self._windows(spans, starts, room)]
            # A piece on its own may have another token at its edges than in its text.
            excess = max(self._count(pieces)) - limit
            if excess <= 0 or room == 1:
                return pieces
            room = max(1, room - excess)

    def _windows(self, spans: list[tuple[int, int]], starts: set[int], room: int) -> list[tuple[int, int]]:
        """Windows of at most `room` tokens, as places in the text."""
        overlap = min(self._overlap, room - 1)
        windows, first, count = [], 0, len(spans)
        while True:
            end = min(first + room, count)
            if end < count:
                # Back to the beginning of a word, as long as the next window still advances.
                end = next((i for i in range(end, first + overlap, -1) if i in starts), end)
            begin = 0 if first == 0 else spans[first][0]
            windows.append((begin, spans[end - 1][1]))
            if end == count:
                return windows
            first = next((i for i in range(max(first + 1, end - overlap), end) if i in starts), end)
