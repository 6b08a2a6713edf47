"""similarity: how alike the two sentences of each pair are.

Reads   a run of log_model or validate (run_id), and pairs: a file with a column for each sentence, or two sentences.
Writes  a score a pair: similarity.parquet and a table of the run; and a LoggedModel, similarity, that scores pairs when it is
        served.

    mlflow run . -e similarity -P run_id=<run of log_model> -P pairs=pairs.csv
    python -m steps.similarity sentence_1="a red car" sentence_2="a vehicle"
"""

from steps.common.corpus import opening
from steps.common.corpus.conf import PairedConf
from steps.common.corpus.corpus import Corpus
from steps.common.corpus.rows import Column
from steps.common.errors import UserError
from steps.common.launch.call import Call
from steps.common.launch.config import SimilarityConf
from steps.common.launch.paths import corpus_place, reading_as
from steps.common.launch.process import launch


def open_inputs(call: Call[SimilarityConf]) -> Corpus | None:
    """The file of pairs, None for two sentences; raises UserError where it cannot be read, or neither or both are given."""
    conf, pairs = call.conf, call.conf.pairs
    sentences = [conf.sentence_1, conf.sentence_2]
    if (pairs.path is None) == (None in sentences) or (pairs.path is not None and sentences != [None, None]):
        raise UserError(
            'expected pairs=<file>, or both sentence_1 and sentence_2. Type -P pairs=pairs.csv, or -P sentence_1="a red car" -P sentence_2="a vehicle".'
        )
    if pairs.path is None:
        return None
    columns = PairedConf(
        path=pairs.path,
        format=pairs.format,
        text_column=pairs.column_1,
        template=None,
        delimiter=pairs.delimiter,
        quoting=pairs.quoting,
        on_bad_row=pairs.on_bad_row,
        second=Column(pairs.column_2, "string", "corpus.keep_columns"),
    )
    with reading_as("pairs", text_column="column_1", keep_columns="column_2"):
        return opening.open_corpus(corpus_place(pairs.path, "pairs"), columns)


if __name__ == "__main__":
    launch("similarity", open_inputs, manual=__doc__)

# The second half: what computes.

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.backends import Backend, describe_backend
from steps.common.errors import clip
from steps.common.launch import summary
from steps.common.launch.commands import ui_command
from steps.common.model import load as models
from steps.common.model import shipped, similarity
from steps.common.model.find import EMBEDS_WITH, FoundModel, download, find_model
from steps.common.model.indexes import refer_to
from steps.common.search.pairs import score_pairs
from steps.common.tracking import run as runs
from steps.common.tracking.datasets import locate_corpus, log_corpus
from steps.common.tracking.run import tag_upstream

# Pairs that are scored together.
TOGETHER = 4096

# Pairs that the table of the run and the screen show at most.
TABLED, SHOWN = 1000, 20

SCHEMA = pa.schema([("sentence_1", pa.string()), ("sentence_2", pa.string()), ("score", pa.float32())])


def read_pairs(conf: SimilarityConf, pairs: Corpus | None) -> Iterator[tuple[list[str | None], list[str | None]]]:
    """The first and the second sentences, those that are scored together at a time."""
    if pairs is None:
        yield [conf.sentence_1], [conf.sentence_2]
        return
    for batch in pairs.batches(TOGETHER):
        yield batch.column("text").to_pylist(), batch.column(conf.pairs.column_2).to_pylist()


def write_scores(conf: SimilarityConf, pairs: Corpus | None, backend: Backend, path: Path) -> None:
    """Score pairs into a Parquet file, a row each, in their order."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for first, second in read_pairs(conf, pairs):
            scores = score_pairs(backend.encode, first, second, conf.metric)
            writer.write_table(pa.table([first, second, pa.array(scores, from_pandas=True)], schema=SCHEMA))


def show(scored: pa.Table) -> None:
    """Print pairs and their scores."""
    rows = []
    for row in scored.to_pylist():
        score = "-" if row["score"] is None else f"{row['score']:.4f}"
        rows.append([score, clip(row["sentence_1"], 60), clip(row["sentence_2"], 60)])
    summary.show_table(["score", "sentence 1", "sentence 2"], rows)


def log_model(conf: SimilarityConf, found: FoundModel, scratch: Path) -> str:
    """Log the servable model; returns its URI."""
    info = shipped.log_model(
        similarity,
        refer_to(found).write(scratch),
        signature=similarity.signature(str(conf.metric)),
        example=pd.DataFrame([{"sentence_1": "A red car.", "sentence_2": "A vehicle."}]),
        tags={EMBEDS_WITH: found.logged.model_id},
    )
    return f"models:/{info.model_id}"


def main(call: Call[SimilarityConf], pairs: Corpus | None) -> None:
    conf = call.conf
    with runs.run("similarity", call.config, call.as_yaml) as run, tempfile.TemporaryDirectory() as scratch:
        found = find_model(conf.run_id, preceding="log_model", experiment_id=run.info.experiment_id)
        tag_upstream(found.run_id, found.logged.model_id)
        folder, path = download(found), Path(scratch) / "similarity.parquet"
        native = models.load_native(folder)
        backend = models.load_backend(found, folder, native, conf.backend, prompt_name=conf.prompt_name)
        with contextlib.closing(backend):
            start = time.perf_counter()
            write_scores(conf, pairs, backend, path)
            seconds = time.perf_counter() - start
        mlflow.log_artifact(str(path))
        scored = pq.read_table(path)
        first = scored.slice(0, TABLED)
        mlflow.log_table(first.to_pandas(), "similarity.json")
        metrics = {
            "similarity/pairs": scored.num_rows,
            "similarity/null_pairs": scored.column("score").null_count,
            "similarity/seconds": seconds,
        }
        source = locate_corpus(pairs) if pairs is not None else None
        if source is not None:
            log_corpus(source)
        mlflow.log_metrics(metrics)
        run.name(f"{source.name} {scored.num_rows:,} pairs" if source else f'"{conf.sentence_1}", "{conf.sentence_2}"')
        uri = log_model(conf, found, Path(scratch))
        show(first.slice(0, SHOWN))
        results = {
            "run_id": run.info.run_id,
            "model_uri": uri,
            "backend": describe_backend(backend),
            **metrics,
        }
        summary.show("similarity", results, ui_command(run))
