"""paraphrases: find near texts of a corpus, or of a new one in an old one.

Reads   a run of encode (run_id), or an output of encode (embeddings=), and where new rows are compared with old ones, another
        (against=). They have to be whole. Nothing is encoded again.
Writes  all pairs with a cosine above a threshold (pairs.parquet, the highest first), clusters (clusters.parquet), the corpus without
        its duplicates (deduplicated.parquet) and which row stands for which (duplicates.parquet); and a LoggedModel, paraphrases,
        that finds the paraphrases of any text in the corpus.

    mlflow run . -e paraphrases -P run_id=<run of encode>
    python -m steps.paraphrases run_id=<run of encode> against=embeddings threshold=0.8
"""

from dataclasses import dataclass

from steps.common.embeddings.reuse import RUN_ID
from steps.common.errors import UserError
from steps.common.launch.call import Call
from steps.common.launch.config import ParaphrasesConf
from steps.common.launch.paths import existing_output
from steps.common.launch.process import launch
from steps.common.search.conf import check_threshold


@dataclass(frozen=True)
class Named:
    """Paths or URIs of outputs, and of the old one the ID of its run; None is an output that a run names, and no old one."""

    new: str | None
    old: str | None


def open_inputs(call: Call[ParaphrasesConf]) -> Named:
    """Raises UserError for a local path that does not exist, and for a threshold that is no cosine above 0."""
    conf = call.conf
    check_threshold(conf.threshold)
    old = conf.against or None
    if old and not RUN_ID.fullmatch(old):
        old = existing_output(old, "against")
    return Named(existing_output(conf.embeddings, "embeddings") if conf.embeddings else None, old)


if __name__ == "__main__":
    launch("paraphrases", open_inputs, manual=__doc__)

# The second half: what computes.

import tempfile
import time
from pathlib import Path

import mlflow
import pandas as pd
import pyarrow.parquet as pq
from mlflow.entities import Run

from steps.common.embeddings.manifest import Manifest
from steps.common.errors import clip
from steps.common.launch import summary
from steps.common.launch.commands import ui_command
from steps.common.model import paraphrases, shipped
from steps.common.model.answers import QUERY
from steps.common.model.find import EMBEDS_WITH, FoundModel, find_run
from steps.common.model.indexes import find_embedding_model, refer_from
from steps.common.search.collect import collect
from steps.common.search.index import Index
from steps.common.search.paraphrases import (
    CLUSTERS,
    DUPLICATES,
    KEPT,
    PAIRS,
    Corpus,
    mine,
    write_clusters,
    write_duplicates,
    write_pairs,
)
from steps.common.tracking import run as runs
from steps.common.tracking.datasets import log_corpus_of, log_embeddings
from steps.common.tracking.outputs import open_whole
from steps.common.tracking.run import tag_upstream
from steps.common.tracking.tables import log_table

# Pairs that the table of the run and the screen show at most.
TABLED, SHOWN = 1000, 20


@dataclass(frozen=True)
class Collected:
    """An output, with its vectors and rows in a folder."""

    where: str
    manifest: Manifest
    folder: Path
    rows: int


def gather(where: str | Run, name: str, keep_text: bool, scratch: Path) -> Collected:
    """Check an output, and write its vectors and rows to a folder of that name; raises UserError for one that cannot be used."""
    folder, whole = scratch / name, open_whole(where, scratch)
    if whole.manifest.dtype == "binary":
        raise UserError(
            f"embeddings {whole.where} are binary (signs only), and the threshold is a cosine of texts. Encode with embedding.dtype=float32, float16 or int8."
        )
    rows = collect(whole.output, whole.manifest, folder, keep_text=keep_text).rows
    return Collected(whole.where, whole.manifest, folder, rows)


def check_comparable(new: Manifest, old: Manifest, where: str) -> None:
    """Raises UserError where two outputs have vectors that cannot be compared, and says why."""

    def facts(manifest: Manifest) -> dict[str, object]:
        embedding = manifest.plan["embedding"]
        return {
            "model": manifest.plan["model"]["files"][:12],
            "prompt": manifest.plan["model"]["prompt"],
            **{f"embedding.{name}": embedding.get(name) for name in ("truncate_dim", "task")},
        }

    found, expected = facts(old), facts(new)
    differ = [
        f"{name} is {found[name]!r}, expected {expected[name]!r}" for name in expected if found[name] != expected[name]
    ]
    if differ:
        raise UserError(
            f"against={where} was made with another model or other settings: {'; '.join(differ)}. Their vectors cannot be compared: encode one of the two again."
        )


def log_model(conf: ParaphrasesConf, new: Collected, found: FoundModel) -> str:
    """Log the servable model; returns its ID."""
    refer_from(new.manifest, found).write(new.folder)
    prompt_name = new.manifest.options["embedding"]["prompt_name"]
    return shipped.log_model(
        paraphrases,
        new.folder,
        signature=paraphrases.signature(Index(new.folder).rows.schema, conf.threshold, prompt_name),
        example=(pd.DataFrame({QUERY: ["Where can I get a refund?"]}), {"threshold": conf.threshold}),
        tags={EMBEDS_WITH: found.logged.model_id, "encode_run_id": new.manifest.run_id, "embeddings": new.where},
    ).model_id


def write_tables(conf: ParaphrasesConf, new: Collected, old: Collected | None, folder: Path) -> dict[str, float]:
    """Find pairs and what follows from them, and write the tables; returns how many rows of each kind there are."""
    folder.mkdir()
    start = time.perf_counter()
    corpus, older = Corpus(new.folder), Corpus(old.folder) if old else None
    mined = mine(corpus, older, conf.threshold, new.folder.parent)
    seconds = time.perf_counter() - start
    counts = {"rows": new.rows, "null_rows": new.manifest.written_rows - new.rows}
    counts["pairs"] = write_pairs(mined, corpus, older, folder)
    counts["duplicates"] = write_duplicates(mined, corpus, older, folder)
    counts["kept_rows"] = new.rows - counts["duplicates"]
    if older is None:
        counts["clusters"] = write_clusters(mined, corpus, conf.min_cluster_rows, folder, new.folder.parent)
    return {**counts, "find_seconds": seconds}


def log_inputs(new: Collected, old: Collected | None) -> None:
    """Link the outputs, and the corpus of the new one, to the run."""
    log_corpus_of(new.manifest.run_id)
    for output in (new, old):
        if output:
            log_embeddings(output.manifest.parts, output.where)


def read_first(path: Path) -> pd.DataFrame:
    """The first rows of a table."""
    file = pq.ParquetFile(path)
    return next(file.iter_batches(batch_size=TABLED), file.schema_arrow.empty_table()).to_pandas()


def show(pairs: pd.DataFrame) -> None:
    """Print the first pairs."""
    if pairs.empty:
        print("no pairs")
        return
    columns = [name for name in pairs.columns if not name.startswith("chunk")]
    rows = (
        [f"{row[name]:.4f}" if name == "score" else clip(row[name], 60) for name in columns]
        for row in pairs.head(SHOWN).to_dict("records")
    )
    summary.show_table(columns, rows)


def main(call: Call[ParaphrasesConf], named: Named) -> None:
    conf = call.conf
    with runs.run("paraphrases", call.config, call.as_yaml) as run, tempfile.TemporaryDirectory() as folder:
        start, scratch, experiment = time.perf_counter(), Path(folder), run.info.experiment_id
        where = named.new or find_run(conf.run_id, preceding="encode", experiment_id=experiment)
        new = gather(where, "new", conf.keep_text, scratch)
        found = find_embedding_model(conf.embedding_model, new.manifest, experiment)
        tag_upstream(new.manifest.run_id, found.logged.model_id)
        old = None
        if named.old:
            is_run = RUN_ID.fullmatch(named.old)
            at = find_run(named.old, preceding="encode", experiment_id=experiment) if is_run else named.old
            old = gather(at, "old", conf.keep_text, scratch)
            check_comparable(new.manifest, old.manifest, old.where)
        tables = scratch / "tables"
        counts = write_tables(conf, new, old, tables)
        for name in (PAIRS, DUPLICATES, KEPT, CLUSTERS):
            if (tables / name).exists():
                mlflow.log_artifact(str(tables / name))
        log_inputs(new, old)
        first = read_first(tables / PAIRS)
        log_table(first, "pairs.json", ["score"])
        model_id = log_model(conf, new, found)
        metrics = {f"paraphrases/{name}": value for name, value in counts.items()}
        metrics["paraphrases/seconds"] = time.perf_counter() - start
        mlflow.log_metrics(metrics, model_id=model_id)
        run.name(f"{counts['pairs']:,} pairs of {counts['rows']:,} rows")
        show(first)
        results = {"run_id": run.info.run_id, "model_uri": f"models:/{model_id}", "embeddings": new.where}
        results |= {"against": old.where} if old else {}
        results |= {**metrics, "tables": f"runs:/{run.info.run_id}/{PAIRS}, {DUPLICATES}, {KEPT}"}
        summary.show("paraphrases", results, ui_command(run))
