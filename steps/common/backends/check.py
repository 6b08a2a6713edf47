"""The check every backend passes when it loads: a few texts, beside the library on torch in float32."""

from collections.abc import Callable

import numpy as np

from steps.common.errors import UserError

# Short and long, nothing at all, what normalisers change, and scripts a vocabulary may not have.
PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "A",
    "",
    "  Spaces, \t tabs\nand lines; CAPITALS, 1,234.5 % and (brackets).",
    "Ärger über die Straße: naïve café, 東京タワー, Привет, \U0001f680!",
    "How does a city decide where the next line of its underground is built?",
    " ".join(f"Sentence {i} makes this text longer than the others, as a page would be." for i in range(24)),
)

# The most the vector of a text may be off, as a share of its length: |a - b| / |b|. float32 differs by rounding, about
# 1e-6 a layer; bfloat16 and float16 carry 8 and 11 bits, and all-MiniLM-L6-v2 is off by 0.008 and 0.001; its int8 form
# by 0.07 on average and 0.25 at worst on 8,000 real texts. Broken conversions are off by about 1.
TOLERANCE = {"f32": 1e-3, "fp16": 0.02, "bf16": 0.15, "int8": 0.4}


class Unsuitable(Exception):
    """A backend cannot compute with this model, or not on this machine; the message is the reason."""


def relative_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far each row of [n, dim] is off, as a share of its expected length; infinite where a number is not finite."""
    lengths = np.maximum(np.linalg.norm(expected, axis=1), np.finfo(np.float32).tiny)
    errors = np.linalg.norm(np.asarray(found, np.float64) - expected, axis=1) / lengths
    # A model may give a text no tokens or a vector of zeros: equal is equal.
    errors[(found == expected).all(axis=1)] = 0.0
    return np.where(np.isfinite(errors), errors, np.inf)


def check_against_torch(encode: Callable[[list[str]], np.ndarray], expected: np.ndarray, precision: str) -> float:
    """The largest relative error of PROBES by a backend's `encode`; raises Unsuitable above the precision's TOLERANCE.

    `expected`: PROBES by SentenceTransformer.encode in float32, [len(PROBES), dim].
    """
    # A conversion may hold for the batch it was made with and for no other.
    found = encode(list(PROBES))
    alone = np.concatenate([encode([text]) for text in PROBES[:2]])
    if found.shape != expected.shape:
        raise Unsuitable(f"its embeddings have shape {found.shape}, those of torch {expected.shape}")
    finite = np.isfinite(expected).all(axis=1)
    errors = [relative_errors(found[finite], expected[finite]), relative_errors(alone, expected[:2])]
    worst = float(np.concatenate(errors).max(initial=0.0))
    if worst > TOLERANCE[precision]:
        raise Unsuitable(
            f"its embeddings differ from torch's by {worst:.3g} (relative); at most {TOLERANCE[precision]:g} is allowed"
        )
    return worst


class Refused(UserError):
    """A backend was asked for by name, and is unsuitable."""

    def __init__(self, name: str, precision: str, reason: object):
        self.reason = str(reason)
        super().__init__(
            f"backend={name} backend.precision={precision} cannot be used: {reason}. backend=auto takes the fastest that can, backend=torch always works."
        )
