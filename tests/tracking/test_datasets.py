"""Corpora as MLflow datasets: where they are, what they are called, and a digest."""

import mlflow
import pytest
from helpers.corpora import open_corpus
from helpers.corpus_files import put

from steps.common.tracking import datasets


@pytest.mark.parametrize("where", ["s3://bucket/out", "runs:/r/embeddings", "table:made"])
def test_what_is_in_no_folder_is_a_source_by_its_uri(where):
    assert datasets.dataset_source(where).to_dict()["tags"] == {"uri": where}


def test_the_source_of_a_folder_is_the_folder(tmp_path):
    assert datasets.dataset_source(str(tmp_path)).to_dict() == {"uri": str(tmp_path)}


def test_a_corpus_of_one_file_is_that_file_and_one_of_several_is_their_folder(tmp_path):
    path = put(tmp_path / "news" / "a.txt", "a\n")
    alone = datasets.locate_corpus(open_corpus(path))
    assert (alone.where, alone.name) == (str(path), "a.txt")
    put(tmp_path / "news" / "b.txt", "b\n")
    both = datasets.locate_corpus(open_corpus(path.parent))
    assert (both.where, both.name) == (str(path.parent), "news")
    put(tmp_path / "news" / "b.txt", "c\n")
    assert len({alone.digest, both.digest, datasets.locate_corpus(open_corpus(path.parent)).digest}) == 3


def test_another_version_of_a_table_has_another_digest():
    first, second = (datasets.locate_table("catalog.news", version) for version in ("1", "2"))
    assert (first.where, first.name) == ("table:catalog.news", "news")
    assert first.digest != second.digest and len(first.digest) == 36


def test_the_corpus_of_a_run_is_linked_to_another_and_one_that_is_gone_to_none(store, tmp_path):
    source = datasets.locate_corpus(open_corpus(put(tmp_path / "a.txt", "a\n")))
    with mlflow.start_run() as encode:
        datasets.log_corpus(source)
        datasets.log_embeddings([], str(tmp_path))
    with mlflow.start_run() as run:
        datasets.log_corpus_of(encode.info.run_id)
        datasets.log_corpus_of("f" * 32)
    (linked,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert (linked.dataset.name, linked.dataset.digest) == ("a.txt", source.digest)


def test_metrics_of_the_run_are_linked_to_no_model(store):
    datasets.log_to_run({"nowhere": 1.0})
    with mlflow.start_run() as run:
        model = mlflow.initialize_logged_model(name="tiny", source_run_id=run.info.run_id)
        datasets.log_to_run({"backends/x/rows_per_second": 2.0})
    assert mlflow.get_run(run.info.run_id).data.metrics == {"backends/x/rows_per_second": 2.0}
    assert not mlflow.get_logged_model(model.model_id).metrics
