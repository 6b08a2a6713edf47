"""Checks of a model's weights and word vectors."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from steps.common.model.facts import find_tokenizer, token_ids, vocabulary
from steps.common.validation.checks import Check
from steps.common.vectors import unit_length

# Words whose vectors are close in every model that was trained on English.
NEIGHBOURS = tuple(
    tuple(pair.split())
    for pair in [
        "monday tuesday",
        "king queen",
        "red blue",
        "cat dog",
        "two three",
        "father mother",
        "france germany",
        "january february",
        "north south",
        "summer winter",
        "he she",
        "small large",
        "east west",
        "brother sister",
        "eight nine",
        "son daughter",
        "man woman",
        "boy girl",
        "river lake",
        "bread cheese",
    ]
)

# The check needs at least so many pairs whose words are one token each.
ENOUGH_PAIRS = 8

# The lengths of random word vectors vary by 1 / sqrt(2 dim) of their mean, those of a few words by up to 1.4 times that;
# trained ones vary far more (all-MiniLM-L6-v2: 6 times).
TRAINED_SPREAD = 2.0

# Standard errors by which such words have to be closer than others: all-MiniLM-L6-v2 reaches 23, and with its tokens in
# another order between -2 and 2.
NEARER = 4.0


def check_weights(model: SentenceTransformer) -> list[Check]:
    """Every parameter is a number, and the tokenizer has no token that the model has no vector for."""
    broken = [name for name, values in model.named_parameters() if not torch.isfinite(values).all()]
    shown = f"{len(broken)} ({', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''})" if broken else "0"
    checks = [Check("weights/not_finite", shown, "= 0 tensors", not broken)]
    vectors, tokens = word_vectors(model), vocabulary(model)
    if vectors is not None and tokens:
        rows, largest = len(vectors), max(tokens.values())
        # Models pad their vectors to a round number and reserve some, but never more than half.
        fits = largest < rows <= 2 * (largest + 1)
        checks.append(
            Check(
                "tokenizer/vocabulary",
                f"{len(tokens)} tokens, largest id {largest}",
                f"fits {rows} word vectors",
                bool(fits),
            )
        )
    return checks


def word_vectors(model: SentenceTransformer) -> np.ndarray | None:
    """The vectors of the tokens, where the model has such: float32 [tokens, dim]."""
    for module in model.modules():
        if isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            return module.weight.detach().float().cpu().numpy()
    return None


def check_word_vectors(model: SentenceTransformer) -> list[Check]:
    """The tokenizer belongs to the weights: related words have similar vectors.

    There is no check for random word vectors, or for a tokenizer that has few of these English words.
    """
    vectors = word_vectors(model)
    if vectors is None or not _is_trained(vectors):
        return []
    pairs = [(_one_token(model, a), _one_token(model, b)) for a, b in NEIGHBOURS]
    pairs = [(a, b) for a, b in pairs if a is not None and b is not None and max(a, b) < len(vectors)]
    if len(pairs) < ENOUGH_PAIRS:
        return []
    first, second = (unit_length(vectors[list(ids)] - vectors.mean(axis=0)) for ids in zip(*pairs))
    cosines = first @ second.T
    others = cosines[~np.eye(len(pairs), dtype=bool)]
    nearer = (np.diag(cosines).mean() - others.mean()) / (others.std() / np.sqrt(len(pairs)))
    return [
        Check(
            "tokenizer/word_vectors",
            float(nearer),
            f">= {NEARER:g} standard errors between related words and others",
            bool(nearer >= NEARER),
        )
    ]


def is_untrained(model: SentenceTransformer) -> bool:
    """Whether a model has word vectors, and these are random."""
    vectors = word_vectors(model)
    return vectors is not None and not _is_trained(vectors)


def _is_trained(vectors: np.ndarray) -> bool:
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(lengths).all() or not lengths.mean() > 0:
        return False
    return bool(lengths.std() / lengths.mean() > TRAINED_SPREAD / np.sqrt(2 * vectors.shape[1]))


def _one_token(model: SentenceTransformer, word: str) -> int | None:
    """The id of a word that is one token, at the start of a text or behind a space; without special tokens."""
    tokenizer = find_tokenizer(model)
    unknown = getattr(tokenizer, "unk_token_id", None)
    around = set(getattr(tokenizer, "all_special_ids", ()))
    for text in (word, f" {word}"):
        ids = [token for token in token_ids(model, text) or [] if token not in around]
        if len(ids) == 1 and ids[0] != unknown:
            return ids[0]
    return None


def check_trained(
    score: float, threshold: float, score_of: Callable[[SentenceTransformer], float], model: SentenceTransformer
) -> list[Check]:
    """Whether a model that misses a threshold is trained: closer to the threshold than to itself with shuffled weights.

    There is no check where the score passes or is undefined.

    Args:
        score_of: the score of a model on the same suite.
    """
    if not np.isfinite(score) or score >= threshold:
        return []
    untrained = score_of(shuffled(model))
    if not np.isfinite(untrained):
        untrained = 0.0
    nearer = (untrained + threshold) / 2
    trained = bool(score >= nearer)
    return [
        Check(
            "weights/trained",
            float(score),
            f">= {nearer:.1f} (half way between the score of shuffled weights, {untrained:.1f}, and the threshold)",
            trained,
        )
    ]


def shuffled(model: SentenceTransformer, seed: int = 0) -> SentenceTransformer:
    """A copy of a model that has learned nothing: the values of each of its matrices in random order."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in twin.parameters():
            if values.ndim > 1:
                flat = values.reshape(-1)
                values.copy_(flat[torch.randperm(flat.numel(), generator=generator)].reshape(values.shape))
    return twin
