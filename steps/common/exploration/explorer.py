"""What the page asks while it is open: the hits of a question, and the nearest neighbours of a row."""

from collections.abc import Callable
from typing import Any

import numpy as np

from steps.common.errors import UserError
from steps.common.exploration.map import Map
from steps.common.exploration.page import as_text, scale
from steps.common.search.index import Index
from steps.common.search.matrix import Rows
from steps.common.vectors import finite, unit_length

# Letters of a text that an answer holds at most.
LONGEST = 20_000

# A question -> its vector as the corpus has them, float32 [1, dim], and whether the model read less than all of it.
Embed = Callable[[str], tuple[np.ndarray, bool]]


class Explorer:
    """Answers by meaning, over all rows of an index, on the map or not."""

    def __init__(self, index: Index, vectors: Rows, drawn: Map, embed: Embed, top_k: int):
        self._index, self._vectors, self._map, self._embed, self._top_k = index, vectors, drawn, embed, top_k

    def search(self, query: str) -> dict[str, Any]:
        """The best rows for a question; raises UserError where it is empty."""
        if not query.strip():
            raise UserError("The question is empty. Type what to search for.")
        # JSON can hold half of a character, which no tokenizer takes.
        vector, truncated = self._embed(query.encode("utf-8", "replace").decode())
        if self._index.facts.metric == "cosine":
            vector = unit_length(vector)
        found = self._index.search(vector, self._top_k)
        return {"hits": self._describe(found.rows[0], found.scores[0]), "truncated": truncated}

    def neighbours(self, row: int) -> dict[str, Any]:
        """A row, and the rows nearest to it; raises UserError where there is no such row."""
        if not 0 <= row < len(self._vectors):
            raise UserError(f"There is no row {row}; rows are numbered from 0 to {len(self._vectors) - 1}.")
        found = self._index.search(self._vectors.read(row, row + 1), self._top_k + 1)
        others = found.rows[0] != row
        near = self._describe(found.rows[0][others][: self._top_k], found.scores[0][others][: self._top_k])
        (own,) = self._describe(np.array([row]), np.array([np.nan]))
        return {"row": own, "hits": near}

    def _describe(self, rows: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
        """Rows as the page shows them, each with its place on the map, and the point there that stands for it."""
        rows, scores = rows[rows >= 0], scores[rows >= 0]
        if not len(rows):
            return []
        vectors = self._vectors.take(rows)
        own = np.isin(rows, self._map.rows)
        points = np.where(own, np.searchsorted(self._map.rows, rows), self._map.find_points(vectors))
        places = np.where(own[:, None], self._map.places[points], self._map.find_places(vectors))
        found = []
        for at, values in enumerate(self._index.take(rows).to_pylist()):
            text = values.pop("text", None)
            found.append(
                {
                    "row": int(rows[at]),
                    "point": int(points[at]),
                    "place": scale(places[at : at + 1], self._map)[0].tolist(),
                    "on_map": bool(own[at]),
                    "score": finite(float(scores[at])),
                    "id": str(values.pop("id")),
                    "text": text if text is None or len(text) <= LONGEST else f"{text[:LONGEST]}…",
                    "columns": {name: as_text(value) for name, value in values.items()},
                }
            )
        return found
