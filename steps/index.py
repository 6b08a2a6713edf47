"""index: make stored embeddings searchable.

Reads   a run of encode (run_id), or an output of encode (embeddings=); it has to be whole. Nothing is encoded again.
Writes  a LoggedModel, semantic_search, that answers queries: it holds vectors, ids, texts and kept columns, and names the
        embedding model, which is loaded when the first query comes.

    mlflow run . -e index -P run_id=<run of encode>
    python -m steps.index embeddings=s3://bucket/embeddings
"""

from steps.common.launch.call import Call
from steps.common.launch.config import IndexConf
from steps.common.launch.paths import existing_output
from steps.common.launch.process import launch
from steps.common.search.conf import check_conf


def open_inputs(call: Call[IndexConf]) -> str | None:
    """The path or URI of the output, None where a run names it.

    Raises UserError for a local path that does not exist, and for settings that do not go together.
    """
    check_conf(call.conf)
    return existing_output(call.conf.embeddings, "embeddings") if call.conf.embeddings else None


if __name__ == "__main__":
    launch("index", open_inputs, manual=__doc__)

# The second half: what computes.

import tempfile
import time
from pathlib import Path

import mlflow
import pandas as pd

from steps.common.embeddings.manifest import Manifest
from steps.common.errors import UserError
from steps.common.launch import summary
from steps.common.launch.commands import next_command
from steps.common.model import semantic_search, shipped
from steps.common.model.answers import QUERY
from steps.common.model.find import EMBEDS_WITH, find_run
from steps.common.model.indexes import SEMANTIC_SEARCH, find_embedding_model, refer_from
from steps.common.model.reference import Reference
from steps.common.search.build import build
from steps.common.search.collect import collect
from steps.common.search.index import Facts, Index
from steps.common.tracking import run as runs
from steps.common.tracking.datasets import log_corpus_of, log_embeddings
from steps.common.tracking.outputs import open_whole
from steps.common.tracking.run import tag_upstream


def check_dtype(manifest: Manifest, conf: IndexConf, where: str) -> None:
    """Raises UserError for embeddings that the metric cannot use."""
    if manifest.dtype == "binary" and conf.metric == "dot":
        raise UserError(
            f"embeddings {where} are binary (signs only), and metric=dot needs the length of each vector. Take metric=cosine, or encode with embedding.dtype=float32."
        )


def log(folder: Path, facts: Facts, reference: Reference, tags: dict[str, str]) -> str:
    """Log an index as a model; returns the model's ID."""
    reference.write(folder)
    info = shipped.log_model(
        semantic_search,
        folder,
        signature=semantic_search.signature(Index(folder).rows.schema),
        example=(pd.DataFrame({QUERY: ["What is it about?"]}), {"top_k": 3}),
        tags=tags,
        packages=["faiss-cpu"] if facts.method == "approximate" else [],
    )
    mlflow.set_tag(SEMANTIC_SEARCH, info.model_id)
    return info.model_id


def main(call: Call[IndexConf], where: str | None) -> None:
    conf = call.conf
    with runs.run("index", call.config, call.as_yaml) as run, tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        experiment_id = run.info.experiment_id
        named = where or find_run(conf.run_id, preceding="encode", experiment_id=experiment_id)
        whole = open_whole(named, Path(scratch))
        manifest, where = whole.manifest, whole.where
        found = find_embedding_model(conf.embedding_model, manifest, experiment_id)
        reference = refer_from(manifest, found)
        tag_upstream(manifest.run_id, found.logged.model_id)
        check_dtype(manifest, conf, where)
        folder = Path(scratch) / "index"
        collect(whole.output, manifest, folder, metric=conf.metric.value, keep_text=conf.keep_text)
        facts, measures = build(folder, conf)
        tags = {EMBEDS_WITH: found.logged.model_id, "encode_run_id": manifest.run_id, "embeddings": where}
        model_id = log(folder, facts, reference, tags)
        log_corpus_of(manifest.run_id)
        log_embeddings(manifest.parts, where)
        measures |= {"rows": facts.rows, "seconds": time.perf_counter() - start}
        metrics = {f"index/{name}": value for name, value in measures.items()}
        mlflow.log_metrics(metrics, model_id=model_id)
        run.name(f"{facts.rows:,} rows {facts.method}")
        results = {
            "run_id": run.info.run_id,
            "model_uri": f"models:/{model_id}",
            "embeddings": where,
            "embedding model": found.name,
            "search": f"{facts.method}, {facts.metric} of {facts.vectors}",
            **metrics,
        }
        summary.show("index", results, next_command("search", run, run_id=run.info.run_id, query="..."))
