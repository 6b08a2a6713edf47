"""Corpora and suites as MLflow datasets."""

import hashlib
import warnings

import mlflow

from steps.common.model.find import FoundModel


def log_validation(found: FoundModel, metrics: dict[str, float], scores) -> None:
    """Log the metrics of validate, linked to the model, and those of each scoring.Score, linked to its suite as well."""
    import pandas as pd

    from steps.common.quality import suites

    mlflow.log_metrics(metrics, model_id=found.logged.model_id)
    for score in scores:
        suite = score.suite
        dataset = mlflow.data.from_pandas(
            pd.DataFrame(suite.columns),
            source=dataset_source(str(suite.path)),
            name=suite.name,
            digest=suites.digest(suite)[:36],
        )
        mlflow.log_input(dataset, context="validation")
        mlflow.log_metrics(score.as_metrics(), model_id=found.logged.model_id, dataset=dataset)


def log_corpus(texts) -> None:
    """Link a corpus.Corpus to the active run as a dataset."""
    from mlflow.data.meta_dataset import MetaDataset

    first = texts.sources[0].place
    where = str(first) if len(texts.sources) == 1 else str(first).rpartition("/")[0]
    name = where.rstrip("/").rpartition("/")[2]
    dataset = MetaDataset(dataset_source(where), name=name, digest=_joint_digest(texts.sources))
    mlflow.log_input(dataset, context="corpus")


def log_data(texts, result, where: str, found: FoundModel) -> None:
    """Link the corpus and the embeddings to the active run as datasets, and its metrics to the model.

    Args:
        texts: a corpus.Corpus. result: a pipeline.Result.
        where: folder or runs:/ URI of the embeddings.
    """
    from mlflow.data.meta_dataset import MetaDataset

    log_corpus(texts)
    embeddings = MetaDataset(dataset_source(where), name="embeddings", digest=_joint_digest(result.parts))
    mlflow.log_input(embeddings, context="embeddings")
    mlflow.log_metrics(result.metrics(), model_id=found.logged.model_id)


def _joint_digest(parts) -> str:
    """One digest for several files that each have a `sha256`; mlflow takes at most 36 characters."""
    return hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()[:36]


def dataset_source(where: str):
    """mlflow's name for where data is: a path or URI, or, for what a run holds, the run that made it."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.dataset_source_registry import resolve_dataset_source

    # Of most object stores mlflow knows nothing without their own libraries.
    if "://" in where or where.startswith("runs:/"):
        return CodeDatasetSource(tags={"uri": where})
    # It knows local paths under two types of the same name, and warns.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        return resolve_dataset_source(where)
