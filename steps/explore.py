"""explore: see a corpus as a map, and search it by meaning, in a browser.

Reads   a run of encode or index (run_id). Nothing is encoded again.
Writes  map.html, a copy of the map that needs no server, and the texts with their places as map.parquet. Then it serves the page on
        this machine only, until Ctrl-C.

    mlflow run . -e explore -P run_id=<run of encode or index>
    python -m steps.explore run_id=latest map.method=tsne map.colour=topic
"""

import socket

from steps.common.exploration.listen import listen, url_of
from steps.common.launch.call import Call
from steps.common.launch.config import ExploreConf
from steps.common.launch.process import launch


def open_inputs(call: Call[ExploreConf]) -> socket.socket | None:
    """The port that the page will have, taken already; raises UserError where it cannot be."""
    return listen(call.conf.port) if call.conf.serve else None


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

from steps.common.embeddings.verify import check_whole
from steps.common.errors import Stopped, UserError
from steps.common.exploration import page
from steps.common.exploration.colours import colour
from steps.common.exploration.explorer import Explorer
from steps.common.exploration.map import Map, choose_points, draw_map
from steps.common.exploration.server import make_app, serve
from steps.common.launch import summary
from steps.common.launch.commands import next_command
from steps.common.model.find import SCHEME, find_run
from steps.common.model.indexes import SEMANTIC_SEARCH, find_embedding_model, find_index, open_index, refer_from
from steps.common.model.reference import Embedder, Reference
from steps.common.search.collect import collect
from steps.common.search.index import VECTORS, Facts, Index, write_facts
from steps.common.search.matrix import Rows
from steps.common.tracking import run as runs
from steps.common.tracking.outputs import find_place, open_output
from steps.common.tracking.run import tag_upstream


@dataclass(frozen=True)
class Explored:
    """What a run stands for: an index, in a folder, and the model of its questions."""

    # The run, or the URI of a model.
    name: str
    folder: Path
    reference: Reference
    # Rows without an embedding, where that is known.
    without: int = 0


def find(conf: ExploreConf, experiment_id: str, scratch: Path) -> Explored:
    """The index of a run of index, or one made of the embeddings of a run of encode.

    Raises UserError for another run, an output that is not whole or has no embedding, and a model that is not the one that made it.
    """
    if conf.run_id.startswith(SCHEME):
        return Explored(conf.run_id, *open_index(conf.run_id))
    run = find_run(conf.run_id, preceding="encode", experiment_id=experiment_id)
    if SEMANTIC_SEARCH in run.data.tags:
        return Explored(run.info.run_id, *open_index(find_index(run.info.run_id, experiment_id=experiment_id)))
    where = find_place(run)
    output = open_output(where, scratch)
    manifest = check_whole(output, where)
    reference = refer_from(manifest, find_embedding_model(conf.embedding_model, manifest, experiment_id))
    folder = scratch / "index"
    folder.mkdir()
    rows = collect(output, manifest, folder, unit=True, keep_text=True)
    write_facts(folder, Facts(rows, manifest.dim, "cosine"))
    return Explored(run.info.run_id, folder, reference, manifest.null_rows)


def open_vectors(explored: Explored) -> Rows:
    """The vectors of an index as they are; raises UserError where it has only smaller numbers."""
    if not (explored.folder / VECTORS).exists():
        raise UserError(
            f"the index of {explored.name} keeps no float32 vectors (rescore=0), and a map needs them. Give the run of encode that it was made of."
        )
    return Rows(explored.folder / VECTORS)


def log(drawn: Map, rows: pa.Table, content: dict, scratch: Path) -> None:
    """Log the map as a page without a server, and as a table."""
    copy = content | {"neighbours": drawn.find_neighbours(page.NEIGHBOURS).tolist()}
    (scratch / "map.html").write_text(page.render(copy, live=False), encoding="utf-8")
    places = {"x": pa.array(drawn.places[:, 0]), "y": pa.array(drawn.places[:, 1])}
    others = {name: rows.column(name) for name in rows.column_names if name not in places}
    pq.write_table(pa.table(others | places), scratch / "map.parquet", compression="zstd")
    for name in ("map.html", "map.parquet"):
        mlflow.log_artifact(str(scratch / name))


def embed_with(reference: Reference) -> Embedder:
    """The model of the questions, loaded now, so that what is wrong with it is said before the page is open."""
    embedder = Embedder(reference)
    embedder.embed(["a question"], None, queries=True)
    return embedder


def main(call: Call[ExploreConf], listener: socket.socket | None) -> None:
    conf = call.conf
    with tempfile.TemporaryDirectory() as scratch:
        with runs.run("explore", call.config, call.as_yaml) as run:
            start = time.perf_counter()
            explored = find(conf, run.info.experiment_id, Path(scratch))
            tag_upstream(explored.name, explored.reference.model_id)
            index, vectors = Index(explored.folder), open_vectors(explored)
            chosen = choose_points(len(vectors), conf.map.points)
            rows = index.take(chosen)
            colourings = colour(rows, conf.map.colour)
            drawn = draw_map(vectors, chosen, conf.map.method)
            again = next_command("explore", run, run_id=explored.name)
            model = explored.reference.facts.get("hub_id", explored.reference.uri)
            about = page.About(len(vectors), explored.without, model, explored.name, again)
            content = page.describe(drawn, rows, colourings, about)
            log(drawn, rows, content, Path(scratch))
            measures = {"rows": len(vectors), "points": len(drawn.rows), **drawn.measures}
            measures["seconds"] = time.perf_counter() - start
            metrics = {f"explore/{name}": value for name, value in measures.items()}
            mlflow.log_metrics(metrics)
            results = {"run_id": run.info.run_id, "map": f"runs:/{run.info.run_id}/map.html", "model": model, **metrics}
            embedder = embed_with(explored.reference) if listener else None
        summary.show("explore", results)
        if listener and embedder:
            # The run is over: a page that is open, and then closed, is no part of what it made.
            def embed(question: str) -> tuple[np.ndarray, bool]:
                embedded = embedder.embed([question], None, queries=True)
                return embedded.vectors, bool(embedded.truncated[0])

            print(f"\nopen {url_of(listener)} in a browser; Ctrl-C ends it", flush=True)
            explorer = Explorer(index, vectors, drawn, embed, conf.top_k)
            with contextlib.suppress(KeyboardInterrupt, Stopped):
                serve(make_app(page.render(content, live=True), explorer), listener)
