"""Texts that no suite holds: words from all over a tokenizer's vocabulary, and texts as long as a model reads.

A model may be the champion's equal on every suite because it differs only where no suite looks: the suites that ship use about a tenth
of MiniLM's tokens, and few of their texts are long.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from steps.common.model.facts import find_tokenizer
from steps.common.vectors import pair_cosine

Embed = Callable[[list[str]], np.ndarray]

# Texts of words, tokens in each, and long texts; at most so many tokens in those, which bounds the time.
TEXTS, TOKENS = 100, 32
LONG_TEXTS, MOST_TOKENS = 8, 512

# The distance (1 - cosine, the 5th percentile) that vectors of these texts may have moved: so many times that of the sample corpus, or
# this. Measured with MiniLM, sample corpus -> words, long texts: 5 % noise on the weights 0.025 -> 0.043, 0.084; 6-bit weights
# 0.003 -> 0.005, 0.012; rare words exchanged 0.000 -> 0.77, 0.51; 3,000 words exchanged 0.000 -> 0.21, 0.15; noise in the positions
# from 200 on 0.000 -> 0.000, 0.10 (docs/validation-and-suites.md).
TIMES, ALLOWED = 10, 0.02


@dataclass(frozen=True)
class Moved:
    """A kind of texts of which a model's vectors are not the champion's, where those of the sample corpus are nearly so."""

    texts: str
    # Cosine of old and new vector, the 5th percentile: of these texts, and of the sample corpus.
    cosine: float
    sample: float

    def __str__(self) -> str:
        return f"{self.texts} ({self.cosine:.2f})"


def make_texts(model: SentenceTransformer, seed: int = 0) -> dict[str, list[str]]:
    """Texts of random tokens, by what they are; empty where the model has no vocabulary.

    Args:
        seed: the same texts for the same seed and vocabulary.
    """
    tokenizer = find_tokenizer(model)
    if not hasattr(tokenizer, "get_vocab") or not hasattr(tokenizer, "decode"):
        return {}
    rng = np.random.default_rng(seed)
    special = set(getattr(tokenizer, "all_special_ids", ()))
    ids = rng.permutation(sorted(set(tokenizer.get_vocab().values()) - special))
    texts = {"rare words": [_decode(tokenizer, ids[i * TOKENS : (i + 1) * TOKENS]) for i in range(TEXTS)]}
    longest = min(getattr(model, "max_seq_length", None) or MOST_TOKENS, MOST_TOKENS)
    texts["long texts"] = [_decode(tokenizer, rng.choice(ids, longest)) for _ in range(LONG_TEXTS)] if len(ids) else []
    kept = {name: [text for text in made if text.strip()] for name, made in texts.items()}
    return {name: made for name, made in kept.items() if made}


def _decode(tokenizer: Any, ids: np.ndarray) -> str:
    return str(tokenizer.decode(ids.tolist()))


def compare_unseen(model: SentenceTransformer, old: Embed, new: Embed) -> dict[str, float]:
    """The cosine of two models' vectors of one text, the 5th percentile of each kind of texts that no suite holds.

    Args:
        model: whose vocabulary the texts are made of.
        old, new: embed texts by either model: float32 [n texts, dim], of one dim.
    """
    return {
        name: float(np.quantile(pair_cosine(old(texts), new(texts)), 0.05)) for name, texts in make_texts(model).items()
    }


def find_moved(
    model: SentenceTransformer, old: Embed, new: Embed, sample: tuple[np.ndarray, np.ndarray]
) -> list[Moved]:
    """The kinds of texts that no suite holds of which another model's vectors are not this one's, though those of the sample corpus are.

    Args:
        model, old, new: as compare_unseen has them; old embeds by the other model, new by this one.
        sample: their vectors of the sample corpus, both [n, dim]; of other dimensions nothing is compared.
    """
    if sample[0].shape != sample[1].shape:
        return []
    seen = float(np.quantile(pair_cosine(*sample), 0.05))
    allowed = max(TIMES * (1 - seen), ALLOWED)
    if not allowed < 1:
        # Nothing is so far away that this could say anything.
        return []
    # NaN is no cosine.
    cosines = compare_unseen(model, old, new).items()
    return [Moved(name, cosine, seen) for name, cosine in cosines if not 1 - cosine <= allowed]


def describe_moved(moved: list[Moved]) -> str:
    """What was found, as an objection to a new champion."""
    of = " and ".join(map(str, moved))
    return f"its vectors of {of} are not the champion's (cosine; of the sample corpus {moved[0].sample:.3f}), and no suite measures such texts"
