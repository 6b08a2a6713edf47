"""What is wrong with a model that is broken, from the model itself. Knows neither MLflow nor Hydra."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from steps.common.embedding import pair_cosine, unit_length
from steps.common.errors import clip
from steps.common.identity import find_tokenizer, token_ids, vocabulary
from steps.common.quality import Check, at_most, finite, max_abs_diff, scaled

# Words that are near each other in the word vectors of every model that was trained on English.
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

# Fewest of those pairs that have to be one token each.
ENOUGH_PAIRS = 8

# Lengths of random word vectors vary by 1 / sqrt(2 dim) of their mean; those of trained ones by far more (all-MiniLM-L6-v2
# by 6 times that, random ones of few words by up to 1.4 times).
TRAINED_SPREAD = 2.0

# Least number of standard errors by which neighbours have to be nearer than other words: all-MiniLM-L6-v2 has 23, with
# its tokens in another order between -2 and 2.
NEARER = 4.0

# Texts that a model has to survive.
HOSTILE = {
    "empty": "",
    "blank": " \t ",
    "very_long": "word " * 600,
    "one_long_word": "x" * 1000,
    "emoji": "\U0001f680 \U0001f469‍\U0001f469‍\U0001f467 \U0001f3f3️‍\U0001f308 \U0001f44b\U0001f3fd",
    "right_to_left": "مرحبا بالعالم، שלום עולם ‮mixed‬",
    "control_characters": "a\x00b\x07c\x1b[31md\x7f e​f﻿g\u2028h",
    "combining": "Z̷̡̢a̴̛l̵g̶o̸ é ﷽",
}


def check_weights(model: SentenceTransformer) -> list[Check]:
    """Every parameter is a number, and the tokenizer has no token that the model has no vector for."""
    broken = [name for name, values in model.named_parameters() if not torch.isfinite(values).all()]
    shown = f"{len(broken)} ({', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''})" if broken else "0"
    checks = [Check("weights/not_finite", shown, "= 0 tensors", not broken)]
    vectors, tokens = word_vectors(model), vocabulary(model)
    if vectors is not None and tokens:
        rows, largest = len(vectors), max(tokens.values())
        # Vectors are padded to a round number, and some are kept for later, but not most of them.
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
    """The tokenizer belongs to the weights: words that belong together have vectors that are near each other.

    No check where it says nothing: word vectors that are random, or a tokenizer that has few of these English words.
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
            f">= {NEARER:g} standard errors between words that belong together and others",
            bool(nearer >= NEARER),
        )
    ]


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


def check_output(embeddings: np.ndarray, max_cosine: float) -> list[Check]:
    """The model does not answer everything alike; nothing where its vectors are not finite, which is a check of its own."""
    if np.ndim(embeddings) != 2 or len(embeddings) < 2 or not np.isfinite(embeddings).all():
        return []
    unit = unit_length(np.asarray(embeddings, np.float64))
    cosines = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    return [at_most("embeddings/constant", float(cosines.min()), max_cosine)]


def check_hostile(encode: Callable[[list[str]], np.ndarray], sentence: str, tolerance: float) -> list[Check]:
    """A finite vector for whatever a text holds, and the sentence beside it as if it were not there."""
    alone = encode([sentence])
    tolerance = scaled(tolerance, alone)
    checks = []
    for name, text in HOSTILE.items():
        try:
            found = np.asarray(encode([sentence, text]))
        except Exception as error:  # noqa: BLE001 - any error is a finding, not a crash of the gate
            checks.append(Check(f"robust/{name}", clip(f"{type(error).__name__}: {error}"), "a finite vector", False))
            continue
        if found.shape != (2, alone.shape[1]) or not np.isfinite(found[1]).all():
            checks.append(Check(f"robust/{name}", "no finite vector", "a finite vector", False))
            continue
        moved = max_abs_diff(found[:1], alone)
        checks.append(
            Check(
                f"robust/{name}",
                finite(moved),
                f"a finite vector; moves its neighbour <= {tolerance:g}",
                moved <= tolerance,
            )
        )
    return checks


def check_white_space(
    encode: Callable[[list[str]], np.ndarray], model: SentenceTransformer, sentences: Sequence[str], tolerance: float
) -> list[Check]:
    """White space around a sentence changes nothing, where the tokenizer drops it.

    Some tokenizers read it, and then a text with it is another text: that is shown, not failed.
    """
    strays = [f"  {sentence} \n" for sentence in sentences]
    plain, found = encode(list(sentences)), encode(strays)
    same = np.array([token_ids(model, a) in (None, token_ids(model, b)) for a, b in zip(strays, sentences)])
    moved = max_abs_diff(found[same], plain[same]) if same.any() else 0.0
    tolerance = scaled(tolerance, plain)
    note = f"<= {tolerance:g}"
    if not same.all():
        nearest = pair_cosine(found[~same], plain[~same]).min()
        note += f" where the tokens are the same; they are not for {int((~same).sum())} (lowest cosine {nearest:.3f})"
    return [Check("invariance/white_space", finite(moved), note, bool(moved <= tolerance))]


def check_trained(
    score: float, threshold: float, score_of: Callable[[SentenceTransformer], float], model
) -> list[Check]:
    """Why a model misses a threshold: it is no better than itself with its weights shuffled.

    No check where the score passes, or is undefined: then the vectors say why. It counts as trained if it is nearer to
    the threshold than to the shuffled one.

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
            f">= {nearer:.1f}, half way from {untrained:.1f} with the same weights shuffled to the threshold",
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
