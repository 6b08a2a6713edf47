"""One check of validate: its name, value, threshold, and whether it passed."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from steps.common.errors import UserError, clip
from steps.common.vectors import finite, max_abs_diff


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


def scaled(tolerance: float, expected: np.ndarray) -> float:
    """The tolerance for vectors like these: it is given for numbers up to 1, and rounding grows with the numbers."""
    numbers = np.abs(np.asarray(expected, np.float64))
    return tolerance * max(1.0, float(numbers.max(initial=0.0, where=np.isfinite(numbers))))


def check_close(name: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> Check:
    """Vectors are those expected, but for rounding."""
    return at_most(name, max_abs_diff(found, expected), scaled(tolerance, expected))


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


def describe_failures(checks: Sequence[Check]) -> str:
    """How many checks failed, and each with its value and what it had to be."""
    found = [f"{check.name} is {_short(check.value)} (expected {check.threshold})" for check in failed(checks)]
    return f"{len(found)} of {len(checks)} checks: {', '.join(found)}"


def _short(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def failed(checks: Sequence[Check]) -> list[Check]:
    """The checks that did not pass."""
    return [check for check in checks if not check.passed]
