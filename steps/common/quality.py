"""Checks of a model: what it promises and how it behaves.

Every check is a `Check`, a row of validation.json. Functions take embeddings, or something that makes
them, and never raise on a bad model: a bad model is a failed check.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from steps.common.embedding import unit_length
from steps.common.errors import UserError, clip


@dataclass(frozen=True)
class Check:
    """One row of validation.json. `threshold` says in words what `value` had to be."""

    name: str
    value: float | str | None
    threshold: str
    passed: bool


def at_most(name: str, value: float, limit: float) -> Check:
    """A value that has to be finite and no greater than `limit`."""
    return Check(name, finite(value), f"<= {limit:g}", bool(np.isfinite(value) and value <= limit))


def at_least(name: str, value: float, limit: float) -> Check:
    """A value that has to be finite and no smaller than `limit`."""
    return Check(name, finite(value), f">= {limit:g}", bool(np.isfinite(value) and value >= limit))


def equal(name: str, value: object, expected: object) -> Check:
    """A value that has to be `expected`."""
    return Check(name, str(value), f"= {expected}", bool(value == expected))


def finite(value: float) -> float | None:
    """The value, or None for what JSON cannot hold."""
    return float(value) if np.isfinite(value) else None


def max_abs_diff(first: np.ndarray, second: np.ndarray) -> float:
    """Largest difference of one number; infinite where shapes differ or a number is not finite."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        return math.inf
    difference = np.abs(first - second)
    return float(difference.max(initial=0.0)) if np.isfinite(difference).all() else math.inf


def scaled(tolerance: float, expected: np.ndarray) -> float:
    """The tolerance for vectors like these: it is given for numbers up to 1, and rounding grows with the numbers."""
    numbers = np.abs(np.asarray(expected, np.float64))
    return tolerance * max(1.0, float(numbers.max(initial=0.0, where=np.isfinite(numbers))))


def check_close(name: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> Check:
    """Vectors are those expected, but for rounding."""
    return at_most(name, max_abs_diff(found, expected), scaled(tolerance, expected))


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
    unit = unit_length(np.asarray(embeddings, np.float64))
    cosines = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    checks.append(at_most("embeddings/most_alike", float(cosines.max(initial=-1.0)), max_cosine))
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


def latencies_ms(predict: Callable[[str], object], sentences: Sequence[str], calls: int) -> np.ndarray:
    """Milliseconds of single-sentence calls, one after another, after one that is not counted."""
    predict(sentences[0])
    taken = []
    for i in range(calls):
        start = time.perf_counter()
        predict(sentences[i % len(sentences)])
        taken.append((time.perf_counter() - start) * 1000)
    return np.array(taken)


def rows_per_second(encode: Callable[[list[str]], np.ndarray], sentences: list[str], repeats: int = 3) -> float:
    """Median rate of embedding the sentences, after a call that is not counted."""
    encode(sentences)
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        encode(sentences)
        rates.append(len(sentences) / (time.perf_counter() - start))
    return float(np.median(rates))


def guarded(name: str, call: Callable[[], Sequence[Check]]) -> list[Check]:
    """The checks that a call makes; where it raises, that is a failed check: a broken model must not stop the gate.

    Raises:
        UserError: what the user can put right. With HYDRA_FULL_ERROR=1 also everything else.
    """
    try:
        return list(call())
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return [Check(f"{name}/runs", clip(f"{type(error).__name__}: {error}", 300), "no error", False)]


def failed(checks: Sequence[Check]) -> list[Check]:
    """The checks that did not pass."""
    return [check for check in checks if not check.passed]
