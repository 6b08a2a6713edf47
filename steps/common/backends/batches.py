"""Which texts go through the model together. Plain arrays in, plain arrays out."""

import numpy as np


def plan_batches(lengths: np.ndarray, *, max_tokens: int, max_rows: int) -> list[np.ndarray]:
    """Cut texts into batches, longest first, so that texts of about one length share a batch.

    `lengths`: tokens of each text, int [n]. A batch holds at most `max_rows` texts and, once every text is padded to its
    longest, at most `max_tokens` tokens; a longer text is a batch of its own. Returns the positions of each batch's texts.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = min(max_rows, max(1, max_tokens // max(1, int(lengths[order[start]]))))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def computed_tokens(lengths: np.ndarray, batches: list[np.ndarray]) -> int:
    """Tokens that go through the model, padding included."""
    return sum(len(rows) * max(1, int(lengths[rows[0]])) for rows in batches)


def rounded_widths(widths: np.ndarray, most: int) -> np.ndarray:
    """Tokens of each text, rounded up to one of 56 numbers up to 256, but not beyond `most`.

    Up to 32 tokens every number, then about an eighth of itself apart: 4 up to 64, 8 up to 128, 16 up to 256, ...
    """
    step = 2 ** np.maximum(0, np.ceil(np.log2(np.maximum(widths, 1))).astype(np.int64) - 4)
    step[widths <= 32] = 1
    # No limit at all is 10^30 to transformers.
    return np.maximum(widths, np.minimum(-(-widths // step) * step, min(most, np.iinfo(np.int64).max)))
