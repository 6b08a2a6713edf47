"""Checks of what a model does with its inputs."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats
from sentence_transformers import SentenceTransformer

from steps.common.errors import clip
from steps.common.model.facts import token_ids
from steps.common.validation.checks import Check, at_most, check_close, equal, scaled
from steps.common.validation.identity import MEAN_COSINE
from steps.common.vectors import finite, max_abs_diff, pair_cosine, unit_length

# Texts that a model has to embed.
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

# Correlation of the cosines of two models, each with its mean vector taken off, from which on they are one space. MiniLM and a
# vector added to it have 0.99, with 4-bit weights 0.95, without its last layer 0.79.
SAME_SPACE = 0.9


def bad_inputs() -> dict[str, object]:
    """Inputs that `string` in the signature rules out, by name."""
    return {
        "number": 3,
        "list_of_numbers": [1, 2],
        "column_of_numbers": pd.DataFrame({"text": [1.5, 2.5]}),
        "matrix": np.zeros((2, 2)),
        "nothing": None,
    }


def check_form(
    embeddings: np.ndarray,
    sentences: Sequence[str],
    dim: int,
    normalizes: bool,
    *,
    unit_tolerance: float,
    max_cosine: float,
) -> list[Check]:
    """One finite vector of the declared length for each sentence, different ones for different sentences."""
    checks = [
        equal("predict/shape", tuple(np.shape(embeddings)), (len(sentences), dim)),
        equal("predict/dtype", str(embeddings.dtype), "float32"),
    ]
    if np.ndim(embeddings) != 2 or not len(embeddings):
        return checks
    bad = int(np.size(embeddings) - np.isfinite(embeddings).sum())
    checks.append(equal("embeddings/non_finite", bad, 0))
    if bad:
        return checks
    lengths = np.linalg.norm(embeddings, axis=1)
    if normalizes:
        checks.append(at_most("embeddings/unit_length", float(np.abs(lengths - 1).max()), unit_tolerance))
    checks.append(Check("embeddings/shortest", float(lengths.min()), "> 0", bool(lengths.min() > 0)))
    checks.append(at_most("embeddings/most_alike", float(_cosines(embeddings).max(initial=-1.0)), max_cosine))
    return checks


def check_invariance(encode: Callable[..., np.ndarray], sentences: Sequence[str], tolerance: float) -> list[Check]:
    """The same vectors on every call, in any order and with any batch size.

    Args:
        encode: takes (sentences, batch_size=...).
    """
    expected = encode(sentences)
    backwards = encode(list(reversed(sentences)))[::-1]
    one_by_one = np.concatenate([encode([sentence]) for sentence in sentences])
    return [
        check_close("invariance/repeat", encode(sentences), expected, 0.0),
        check_close("invariance/order", backwards, expected, tolerance),
        check_close("invariance/batch_of_1", one_by_one, expected, tolerance),
        check_close("invariance/batch_size_2", encode(sentences, batch_size=2), expected, tolerance),
        check_close("invariance/beside_long_text", encode([*sentences, "word " * 400])[:-1], expected, tolerance),
    ]


def check_refusals(predict: Callable, bad_inputs: dict[str, object], refusal: type[Exception]) -> list[Check]:
    """Inputs that the signature does not allow are refused, with the error meant for that."""
    checks = []
    for name, bad in bad_inputs.items():
        try:
            predict(bad)
            found = "accepted"
        except refusal:
            found = "refused"
        except Exception as error:  # noqa: BLE001 - any other error is a finding, not a crash of the gate
            found = type(error).__name__
        checks.append(Check(f"schema/refuses_{name}", found, "= refused", found == "refused"))
    return checks


def check_output(embeddings: np.ndarray, max_cosine: float) -> list[Check]:
    """Different texts get different vectors; no check where they are not finite, which is a check of its own."""
    if np.ndim(embeddings) != 2 or len(embeddings) < 2 or not np.isfinite(embeddings).all():
        return []
    return [at_most("embeddings/constant", float(_cosines(embeddings).min()), max_cosine)]


def check_mean_cosine(embeddings: np.ndarray, limit: float, declared: bool) -> list[Check]:
    """Unrelated texts get unlike vectors: their cosines are not compressed by a direction that all of them share.

    The mean cosine of texts on many topics is the share of that direction (Ethayarajh 2019, How Contextual are
    Contextualized Word Representations; Mu & Viswanath 2018, All-but-the-Top). No check where vectors are not finite.

    Args:
        embeddings: of the sample corpus, float32 [n, dim].
        limit: the highest mean accepted. declared: it is what the model is known to have.
    """
    if not np.isfinite(embeddings).all():
        return []
    mean = float(_cosines(embeddings).mean())
    threshold = f"<= {limit:g}" + (", as declared" if declared else "")
    if mean > limit:
        typed = f"model.expected_facts.{MEAN_COSINE}={math.ceil(mean * 20) / 20:g}"
        threshold += f"; unrelated texts have a mean cosine of {mean:.2f}: a common offset compresses the cosines. If the model is trained that way (low temperature, as E5), declare it: log it again with -P {typed}"
    return [Check("embeddings/mean_cosine", mean, threshold, mean <= limit)]


def check_spread(embeddings: np.ndarray, champion: np.ndarray, least: float) -> list[Check]:
    """A model that has the champion's neighbours spreads its cosines no less than that one: otherwise a vector was added to
    all of them, and every threshold on cosines would let all through.

    The spread is the interquartile range of the cosines of all pairs. No check of a model whose cosines, with the mean vector
    taken off, are not the champion's: that is another space, with a spread of its own.

    Args:
        embeddings, champion: of the sample corpus, float32 [n, dim] each.
        least: share of the champion's spread.
    """
    if not (np.isfinite(embeddings).all() and np.isfinite(champion).all()):
        return []
    here, there = _cosines(embeddings), _cosines(champion)
    first, second = (_cosines(vectors - vectors.mean(axis=0)) for vectors in (embeddings, champion))
    if not np.corrcoef(first, second)[0, 1] >= SAME_SPACE:
        return []
    share = float(stats.iqr(here) / stats.iqr(there))
    threshold = f">= {least:g} of the champion's spread of cosines"
    if share < least:
        threshold += f"; the cosines are compressed: their interquartile range is {stats.iqr(here):.3f}, the champion's {stats.iqr(there):.3f}. Remove the constant added to every vector, then log the model again"
    return [Check("embeddings/spread", share, threshold, share >= least)]


def _cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of [n, dim]: float [n (n - 1) / 2]."""
    unit = unit_length(np.asarray(vectors, np.float64))
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def check_hostile(encode: Callable[[list[str]], np.ndarray], sentence: str, tolerance: float) -> list[Check]:
    """Every text gets a finite vector, and does not change the vector of the sentence beside it."""
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
                f"a finite vector; changes its neighbour by <= {tolerance:g}",
                moved <= tolerance,
            )
        )
    return checks


def check_white_space(
    encode: Callable[[list[str]], np.ndarray], model: SentenceTransformer, sentences: Sequence[str], tolerance: float
) -> list[Check]:
    """White space around a sentence changes nothing, where the tokenizer drops it.

    Some tokenizers keep it; the lowest cosine is shown then, and does not fail.
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
