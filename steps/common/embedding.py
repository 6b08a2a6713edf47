"""What is done to embeddings after the model. Knows neither MLflow nor Hydra."""

import numpy as np


def unit_length(embeddings: np.ndarray) -> np.ndarray:
    """Scale each row of [n, dim] to length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.maximum(lengths, np.finfo(embeddings.dtype).tiny)).astype(embeddings.dtype, copy=False)


def shorten(embeddings: np.ndarray, truncate_dim: int | None, normalize: bool) -> np.ndarray:
    """Keep the first `truncate_dim` dimensions of [n, dim], then make rows unit length if `normalize`.

    The library cuts after the model's own Normalize module, so a cut embedding is shorter than 1: whoever cuts the
    embeddings of a model that normalises wants `normalize` too.
    """
    if truncate_dim is not None:
        embeddings = np.ascontiguousarray(embeddings[:, :truncate_dim])
    return unit_length(embeddings) if normalize else embeddings


def pair_cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of row i of `first` with row i of `second`, both [n, dim]: float [n]."""
    return np.sum(unit_length(first) * unit_length(second), axis=1)
