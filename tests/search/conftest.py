"""One chain for all tests of search: the tiny model, a corpus with kept columns, its embeddings, an index of them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.encodes import write_jsonl
from helpers.steps import summary_of
from helpers.stores import copy_store, working_in

TEXTS = ["the cat is big", "a red car", "the river", None, "a dog on the house", "blue sky and stone", "a red car"]
LANGUAGES = ["en", "en", "de", "de", "fr", None, "fr"]
YEARS = [2019, 2020, 2021, 2022, 2023, 2024, 2025]


@pytest.fixture(scope="session")
def searched_store(tiny_store, tmp_path_factory) -> tuple[Path, SimpleNamespace]:
    folder = tmp_path_factory.mktemp("searched")
    copy_store(tiny_store[0], folder)
    with working_in(folder):
        columns = {"lang": LANGUAGES, "year": YEARS, "score": ["x"] * len(TEXTS), "key": [f"k{i}" for i in range(7)]}
        corpus = write_jsonl(folder / "corpus.jsonl", TEXTS, **columns)
        model = f"run_id={tiny_store[1]['run_id']}"
        kept = ("corpus.id_column=key", "corpus.keep_columns=[lang,year,score]", "rows_per_part=3", "backend=torch")
        encode = summary_of("encode", model, f"corpus={corpus}", *kept)
        index = summary_of("index", f"run_id={encode['run_id']}")
    return folder, SimpleNamespace(log_model=tiny_store[1], encode=encode, index=index)


@pytest.fixture
def chain(store, searched_store, tmp_path) -> SimpleNamespace:
    """The summaries of log_model, encode and index, in this test's own copy of their store."""
    copy_store(searched_store[0], tmp_path)
    return searched_store[1]
