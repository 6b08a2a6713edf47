"""One chain for all tests of explore: the tiny model, a corpus with hostile and foreign texts, its embeddings."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.encodes import write_jsonl
from helpers.hostile import TEXTS, TOPICS
from helpers.steps import summary_of
from helpers.stores import copy_store, working_in
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread():
    """t-SNE waits for all its threads a thousand times, and the tests share the cores."""
    with threadpool_limits(1, "openmp"):
        yield


@pytest.fixture(scope="session")
def encoded_store(tiny_store, tmp_path_factory) -> tuple[Path, SimpleNamespace]:
    folder = tmp_path_factory.mktemp("explored")
    copy_store(tiny_store[0], folder)
    with working_in(folder):
        columns = {"topic": TOPICS, "year": [2000 + i for i in range(40)], "key": [f"k{i}" for i in range(40)]}
        corpus = write_jsonl(folder / "corpus.jsonl", TEXTS, **columns)
        kept = ("corpus.id_column=key", "corpus.keep_columns=[topic,year]", "rows_per_part=15", "backend=torch")
        encode = summary_of("encode", f"run_id={tiny_store[1]['run_id']}", f"corpus={corpus}", *kept)
    return folder, SimpleNamespace(log_model=tiny_store[1], encode=encode)


@pytest.fixture
def chain(store, encoded_store, tmp_path) -> SimpleNamespace:
    """The summaries of log_model and encode, in this test's own copy of their store."""
    copy_store(encoded_store[0], tmp_path)
    return encoded_store[1]
