"""What is done to embeddings after the model."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from steps.common.errors import UserError


class Dtype(StrEnum):
    """Numbers an embedding is stored in."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    binary = "binary"


@dataclass
class EmbeddingConf:
    """The node `embedding` of encode's config, explained in conf/encode.yaml."""

    dtype: Dtype
    truncate_dim: int | None = field(metadata={"min": 1})
    normalize: bool
    prompt_name: str | None
    task: str | None


# embedding.dtype -> type of the numbers that are stored. `binary` has a bit for each dimension, eight in a number.
STORED = {"float32": "float32", "float16": "float16", "int8": "int8", "binary": "int8"}


def unit_length(embeddings: np.ndarray) -> np.ndarray:
    """Scale each row of [n, dim] to length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.maximum(lengths, np.finfo(embeddings.dtype).tiny)).astype(embeddings.dtype, copy=False)


def shorten(embeddings: np.ndarray, truncate_dim: int | None, normalize: bool) -> np.ndarray:
    """Keep the first `truncate_dim` dimensions of [n, dim], then make rows unit length if `normalize`.

    The cut comes after the model's own Normalize module, so cut embeddings of such a model want `normalize` too.
    """
    if truncate_dim is not None:
        embeddings = np.ascontiguousarray(embeddings[:, :truncate_dim])
    return unit_length(embeddings) if normalize else embeddings


def check_dim(truncate_dim: int | None, dim: int) -> None:
    """Raises UserError where embeddings of `dim` dimensions cannot be cut to `truncate_dim`."""
    if truncate_dim is not None and truncate_dim > dim:
        raise UserError(
            f"embedding.truncate_dim is {truncate_dim}, but the model has {dim} dimensions. Give {dim} or less."
        )


def stored_width(dim: int, dtype: str) -> int:
    """Numbers that an embedding of `dim` dimensions is stored in."""
    return -(-dim // 8) if dtype == "binary" else dim


def value_ranges(embeddings: np.ndarray) -> np.ndarray:
    """Least and greatest value of each dimension of [n, dim]: [2, dim], what `int8` is scaled between."""
    return np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])


def unpack_signs(stored: np.ndarray, dim: int) -> np.ndarray:
    """Whether each dimension of what is stored as `binary`, int8 [n, width], is above 0: uint8 [n, dim]."""
    return np.unpackbits((stored.astype(np.int16) + 128).astype(np.uint8), axis=1, count=dim)


def nearest_stored(vectors: np.ndarray, stored: np.ndarray, dtype: str, ranges: np.ndarray | None) -> np.ndarray:
    """The vectors nearest to float32 `vectors` [n, dim] that are stored as `stored` [n, width]: themselves, where storing rounds
    them to that."""
    if dtype == "binary":
        return np.where(unpack_signs(stored, vectors.shape[1]) == (vectors > 0), vectors, 0)
    if dtype == "int8" and ranges is not None:
        # quantize_embeddings cuts what is behind the point: a number stands for all within a step of it.
        step = (ranges[1] - ranges[0]) / 255
        low = ranges[0] + (stored.astype(np.float32) + 128) * step
        inside = np.clip(vectors, ranges[0], ranges[1])
        return vectors - inside + np.clip(inside, low - step, low + step)
    return stored.astype(np.float32)


def pair_cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of row i of `first` with row i of `second`, both [n, dim]: float [n]."""
    return np.sum(unit_length(first) * unit_length(second), axis=1)


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
