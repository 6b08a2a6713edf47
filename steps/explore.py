"""explore: see a corpus as a map, and search it by meaning, in a browser.

Reads   a run of encode or index (run_id). Nothing is encoded again.
Writes  map.html, a copy of the map that needs no server, and the texts with their places as map.parquet. Then it serves the page on
        this machine only, until Ctrl-C.

    mlflow run . -e explore -P run_id=<run of encode or index>
    python -m steps.explore run_id=latest map.method=tsne map.colour=topic
"""

import socket

from steps.common.launch.call import Call
from steps.common.launch.config import ExploreConf
from steps.common.launch.process import launch
from steps.common.ports import listen, url_of


def open_inputs(call: Call[ExploreConf]) -> socket.socket | None:
    """The port that the page will have, taken already; raises UserError where it cannot be."""
    return listen(call.conf.port, "port") if call.conf.serve else None


if __name__ == "__main__":
    launch("explore", open_inputs, manual=__doc__)

# The second half: what computes.

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.errors import Stopped, UserError
from steps.common.exploration import page
from steps.common.exploration.colours import colour
from steps.common.exploration.explorer import Explorer
from steps.common.exploration.map import Map, choose_points, draw_map
from steps.common.exploration.server import make_app, serve
from steps.common.launch import summary
from steps.common.launch.commands import next_command
from steps.common.model.answers import rename
from steps.common.model.find import SCHEME, find_run
from steps.common.model.indexes import SEMANTIC_SEARCH, find_embedding_model, find_index, open_index, refer_from
from steps.common.model.reference import Embedder, Reference
from steps.common.search.collect import collect
from steps.common.search.index import VECTORS, Index
from steps.common.search.matrix import Rows
from steps.common.tracking import run as runs
from steps.common.tracking.outputs import open_whole
from steps.common.tracking.run import tag_upstream


@dataclass(frozen=True)
class Explored:
    """What is explored: an index, its vectors, and the model of its questions."""

    # The run, or the URI of a model, that it was found by.
    name: str
    index: Index
    vectors: Rows
    reference: Reference
    # Rows without an embedding, where that is known.
    without: int = 0

    @property
    def model(self) -> str:
        return self.reference.facts.get("hub_id", self.reference.uri)


def find(conf: ExploreConf, experiment_id: str, scratch: Path) -> Explored:
    """The index of a run of index, or one made of the embeddings of a run of encode.

    Raises UserError for another run, an output that is not whole or has no embedding, and a model that is not the one that made it.
    """
    if conf.run_id.startswith(SCHEME):
        return open_found(conf.run_id, *open_index(conf.run_id))
    run = find_run(conf.run_id, preceding="encode", experiment_id=experiment_id)
    name = run.info.run_id
    if SEMANTIC_SEARCH in run.data.tags:
        return open_found(name, *open_index(find_index(name, experiment_id=experiment_id)))
    whole = open_whole(run, scratch)
    manifest = whole.manifest
    reference = refer_from(manifest, find_embedding_model(conf.embedding_model, manifest, experiment_id))
    folder = scratch / "index"
    collect(whole.output, manifest, folder, keep_text=True)
    return open_found(name, folder, reference, manifest.null_rows)


def open_found(name: str, folder: Path, reference: Reference, without: int = 0) -> Explored:
    """Open an index; raises UserError where it has no float32 vectors."""
    if not (folder / VECTORS).exists():
        raise UserError(
            f"the index of {name} keeps no float32 vectors (rescore=0), and a map needs them. Give the encode run that it was made from."
        )
    return Explored(name, Index(folder), Rows(folder / VECTORS), reference, without)


def draw(explored: Explored, conf: ExploreConf, again: str) -> tuple[Map, pa.Table, dict]:
    """The map, the rows that are on it, and what its page shows.

    Args:
        again: the command that makes a page with a server.
    """
    chosen = choose_points(len(explored.vectors), conf.map.points)
    rows = explored.index.take(chosen)
    colourings = colour(rows, conf.map.colour)
    drawn = draw_map(explored.vectors, chosen, conf.map.method)
    about = page.About(len(explored.vectors), explored.without, explored.model, explored.name, again)
    return drawn, rows, page.describe(drawn, rows, colourings, about)


def log(drawn: Map, rows: pa.Table, content: dict, scratch: Path) -> None:
    """Log the map as a page without a server, and as a table."""
    if len(drawn.rows) <= page.COMPARED:
        content = content | {"neighbours": drawn.find_neighbours(page.NEIGHBOURS).tolist()}
    (scratch / "map.html").write_text(page.render(content, live=False), encoding="utf-8")
    places = {"x": pa.array(drawn.places[:, 0]), "y": pa.array(drawn.places[:, 1])}
    names = rename(rows.column_names, places)
    others = {names[name]: rows.column(name) for name in rows.column_names}
    pq.write_table(pa.table(others | places), scratch / "map.parquet", compression="zstd")
    for name in ("map.html", "map.parquet"):
        mlflow.log_artifact(str(scratch / name))


def prepare(explored: Explored, drawn: Map, top_k: int) -> Explorer:
    """What answers the page. The model is loaded now, so that what is wrong with it is said before the page is open."""
    embedder = Embedder(explored.reference)

    def embed(question: str) -> tuple[np.ndarray, bool]:
        embedded = embedder.embed([question], None, queries=True)
        return embedded.vectors, bool(embedded.truncated[0])

    embed("a question")
    return Explorer(explored.index, explored.vectors, drawn, embed, top_k)


def main(call: Call[ExploreConf], listener: socket.socket | None) -> None:
    conf = call.conf
    with tempfile.TemporaryDirectory() as scratch:
        with runs.run("explore", call.config, call.as_yaml) as run:
            start = time.perf_counter()
            explored = find(conf, run.info.experiment_id, Path(scratch))
            tag_upstream(explored.name, explored.reference.model_id)
            drawn, rows, content = draw(explored, conf, next_command("explore", run, run_id=explored.name))
            log(drawn, rows, content, Path(scratch))
            measures = {"rows": len(explored.vectors), "points": len(drawn.rows), **drawn.measures}
            measures["seconds"] = time.perf_counter() - start
            metrics = {f"explore/{name}": value for name, value in measures.items()}
            mlflow.log_metrics(metrics)
            run.name(f"{measures['rows']:,} rows {conf.map.method}")
            explorer = prepare(explored, drawn, conf.top_k) if listener else None
        where = f"runs:/{run.info.run_id}/map.html"
        summary.show("explore", {"run_id": run.info.run_id, "map": where, "model": explored.model, **metrics})
        if listener and explorer:
            # The run is over: how long the page stays open is no part of it.
            print(f"\nopen {url_of(listener)} in a browser; Ctrl-C ends it", flush=True)
            with contextlib.suppress(KeyboardInterrupt, Stopped):
                serve(make_app(page.render(content, live=True), explorer), listener)
