"""The page of a map: one document with all that it needs, which asks its server only where it has one."""

import base64
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, FileSystemLoader

from steps.common.errors import clip
from steps.common.exploration.colours import Colouring, kept_columns
from steps.common.exploration.map import Map

FOLDER = Path(__file__).parent
TEMPLATE, STYLE, SCRIPTS = "page.html.j2", "page.css", ("d3.min.js", "page.js")

# Letters of a text on the map, and steps of its two axes.
CLIPPED, STEPS = 200, 65_535

# Neighbours of each point that a page without a server has, and most points that are all compared for them: half a minute.
NEIGHBOURS, COMPARED = 5, 50_000


@dataclass(frozen=True)
class About:
    """What the page says of the corpus."""

    # Rows with an embedding, and those without.
    rows: int
    without: int
    model: str
    # The run that was explored, and the command that makes a page which answers by meaning.
    run: str
    command: str


def describe(drawn: Map, rows: pa.Table, colourings: list[Colouring], about: About) -> dict[str, Any]:
    """What the page is drawn from. `rows` are those of the map."""
    places = scale(drawn.places, drawn)
    return {
        "about": asdict(about),
        "measures": drawn.measures,
        "rows": drawn.rows.tolist(),
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "ids": [str(value) for value in rows.column("id").to_pylist()],
        "texts": [clip(text, CLIPPED) for text in rows.column("text").to_pylist()]
        if "text" in rows.column_names
        else None,
        "values": {name: [shorten(value) for value in rows.column(name).to_pylist()] for name in kept_columns(rows)},
        "columns": [asdict(one) for one in colourings],
    }


def scale(places: np.ndarray, drawn: Map) -> np.ndarray:
    """Places in whole steps of a map, whose longer axis has STEPS; the second axis grows downwards, as on a screen."""
    low, high = drawn.places.min(axis=0), drawn.places.max(axis=0)
    extent = float((high - low).max())
    offsets = np.stack([places[:, 0] - low[0], high[1] - places[:, 1]], axis=1)
    return np.round(offsets * (STEPS / extent if extent > 0 else 0)).astype(np.int64)


def shorten(value: object) -> str | None:
    text = as_text(value)
    return None if text is None else clip(text, CLIPPED)


def as_text(value: object) -> str | None:
    """A value of a kept column in words; None for null."""
    if value is None:
        return None
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def render(content: dict[str, Any], *, live: bool) -> str:
    """The page as HTML.

    Args:
        live: whether it has a server to ask; without one, it finds words and has the neighbours that `content` gives.
    """
    data = json.dumps(content | {"live": live}, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    style = (FOLDER / STYLE).read_text(encoding="utf-8")
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE).render(
        about=content["about"],
        points=len(content["rows"]),
        measures=content["measures"],
        live=live,
        data=data,
        style=style,
        script=script,
        # Nothing is fetched, and no text of the corpus can run, whatever it holds.
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "connect-src 'self'" if live else "connect-src 'none'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
    )


def _hash(text: str) -> str:
    """How a policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
