"""Corpora and suites as MLflow datasets."""

import hashlib
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Metric

from steps.common.corpus.corpus import Corpus
from steps.common.embeddings.manifest import CHANGES, Reused
from steps.common.embeddings.parts import Part
from steps.common.embeddings.pipeline import Result
from steps.common.model.find import FoundModel, ask
from steps.common.quality.scoring import Score
from steps.common.storage.output import Output
from steps.common.storage.place import locate

# Tag of a run of encode: the run whose embeddings it has reused.
REUSED = "reused_run_id"

# Most bytes of changes.parquet that a run keeps beside the output.
SMALL = 10_000_000


def log_validation(found: FoundModel, metrics: dict[str, float], scores: Sequence[Score]) -> None:
    """Log the metrics of validate, linked to the model; those of a suite are linked to the suite as well.

    The page of a run lists them in this order. Those of backends stay with the run: the page of a model has a row for each
    metric of each run.
    """
    for score in scores:
        suite = score.suite
        dataset = from_pandas(
            pd.DataFrame(suite.columns),
            source=dataset_source(str(suite.path)),
            name=suite.name,
            digest=suite.digest[:36],
        )
        mlflow.log_input(dataset, context="validation")
        mlflow.log_metrics(score.as_metrics(), model_id=found.logged.model_id, dataset=dataset)
    own = {name: value for name, value in metrics.items() if not name.startswith("backends/")}
    mlflow.log_metrics(own, model_id=found.logged.model_id)
    # Not by the fluent call, which links them to every model that the run holds.
    log_to_run({name: value for name, value in metrics.items() if name not in own})


def log_to_run(metrics: dict[str, float]) -> None:
    """Log metrics of the active run that are linked to no model."""
    run = mlflow.active_run()
    now = int(time.time() * 1000)
    entries = [Metric(name, value, now, 0) for name, value in metrics.items()]
    if run is not None and entries:
        mlflow.MlflowClient().log_batch(run.info.run_id, metrics=entries)


@dataclass(frozen=True)
class CorpusSource:
    """Where a corpus is: its file, the folder of its files, or its table; the name of that, and a digest of what it holds."""

    where: str
    name: str
    digest: str


def locate_corpus(texts: Corpus) -> CorpusSource:
    """The source of files."""
    first = texts.sources[0].place
    where = str(first) if len(texts.sources) == 1 else str(first).rpartition("/")[0]
    return CorpusSource(where, where.rstrip("/").rpartition("/")[2], _joint_digest(texts.sources))


def locate_table(name: str, version: str | None) -> CorpusSource:
    """The source that a table is; where its format has no version, its digest is that of its name."""
    digest = hashlib.sha256(f"{name} {version}".encode()).hexdigest()[:36]
    return CorpusSource(f"table:{name}", name.rpartition(".")[2], digest)


def log_corpus(source: CorpusSource) -> None:
    """Link a corpus to the active run as a dataset."""
    dataset = MetaDataset(dataset_source(source.where), name=source.name, digest=source.digest)
    mlflow.log_input(dataset, context="corpus")


def log_corpus_of(run_id: str) -> None:
    """Link the corpus of a run of encode to the active run as a dataset, where this server has that run."""
    client, run = mlflow.MlflowClient(), mlflow.active_run()
    encode = ask(lambda: client.get_run(run_id))
    if run is not None and encode is not None:
        found = [one for one in encode.inputs.dataset_inputs if "corpus" in [tag.value for tag in one.tags]]
        client.log_inputs(run.info.run_id, found)


def log_data(source: CorpusSource, result: Result, where: str) -> None:
    """Link the corpus and the embeddings to the active run as datasets, and log its metrics.

    Args:
        where: folder, URI or table of the embeddings.
    """
    log_corpus(source)
    log_embeddings(result.parts, where)
    mlflow.log_metrics(result.metrics())


def log_embeddings(parts: Sequence[Part], where: str) -> None:
    """Link embeddings to the active run as a dataset.

    Args:
        where: their folder or URI.
    """
    dataset = MetaDataset(dataset_source(where), name="embeddings", digest=_joint_digest(parts))
    mlflow.log_input(dataset, context="embeddings")


def log_reused(reused: Reused | None, where: str) -> None:
    """Link the output that embeddings were taken from to the active run, and keep what has changed since in it, if that is small.

    Args:
        where: folder or URI of the new embeddings.
    """
    if reused is None:
        return
    mlflow.set_tag(REUSED, reused.run_id)
    old = MetaDataset(dataset_source(reused.output), name="embeddings", digest=reused.manifest[:36])
    mlflow.log_input(old, context="reused")
    if reused.changes is None or reused.changes.file.bytes > SMALL or where.startswith("runs:/"):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CHANGES
        path.write_bytes(Output(locate(where)).read_bytes(CHANGES))
        mlflow.log_artifact(str(path))


def _joint_digest(parts: Sequence) -> str:
    """One digest for several files that each have a `sha256`; mlflow takes at most 36 characters."""
    return hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()[:36]


def dataset_source(where: str) -> DatasetSource:
    """The source of a dataset, as mlflow records it, from its path or URI."""
    # Most object stores mlflow resolves with their own libraries only, which the project does not need.
    if "://" in where or where.startswith(("runs:/", "table:")):
        return CodeDatasetSource(tags={"uri": where})
    # Local paths match two of mlflow's types, and it warns.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        return resolve_dataset_source(where)
