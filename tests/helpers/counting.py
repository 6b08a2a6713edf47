"""A backend whose vectors can be counted by hand."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Words:
    texts: list
    lengths: np.ndarray


class CountingBackend:
    """Embeds a text as [letters, words, 12]; a token is a word, and two special ones.

    It has what the pipeline uses of a backend, and records what it was given, call by call.
    """

    dim, padding_share = 3, 0.25

    def __init__(self, max_tokens=None):
        self.max_tokens = max_tokens
        self.tokenized, self.embedded = [], []

    @property
    def seen(self):
        return [text for call in self.embedded for text in call]

    def tokenize(self, texts):
        self.tokenized.append(list(texts))
        return Words(list(texts), np.array([len(text.split()) + 2 for text in texts], np.int64))

    def embed(self, tokens, on_rows=None):
        self.embedded.append(tokens.texts)
        for _ in tokens.texts:
            on_rows(1)
        return np.array([vector_of(text) for text in tokens.texts], np.float32).reshape(-1, 3)


def vector_of(text):
    return None if text is None else [len(text), len(text.split()), 12]
