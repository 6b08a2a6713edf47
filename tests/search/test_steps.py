"""index, search and similarity on the tiny model: what the chain answers, from stored embeddings."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers.steps import last_json
from sentence_transformers import SentenceTransformer, util

# Those of the corpus of conftest.py: the fourth is null there.
TEXTS = ["the cat is big", "a red car", "the river", "a dog on the house", "blue sky and stone", "a red car"]
KEYS = ["k0", "k1", "k2", "k4", "k5", "k6"]


@pytest.fixture(scope="module")
def tiny(tiny_model_folder):
    return SentenceTransformer(str(tiny_model_folder), device="cpu")


def hits_of(summary):
    import mlflow

    return pq.read_table(mlflow.artifacts.download_artifacts(summary["table"])).to_pandas()


def test_an_index_answers_in_words_from_stored_embeddings(chain, step, tiny, monkeypatch):
    import mlflow

    code, out, err = step("search", f"run_id={chain.index['run_id']}", "query=a big tree", "top_k=4")
    assert code == 0, err
    hits = hits_of(last_json(out))
    # As sentence-transformers' own search, with the model's prompt for queries.
    (expected,) = util.semantic_search(tiny.encode(["a big tree"], prompt_name="query"), tiny.encode(TEXTS), top_k=4)
    assert hits["id"].tolist() == [KEYS[hit["corpus_id"]] for hit in expected]
    np.testing.assert_allclose(hits["score"], [hit["score"] for hit in expected], atol=1e-6)
    assert hits["rank"].tolist() == [1, 2, 3, 4]
    # A kept column that has the name of a column of answers.
    assert list(hits) == ["query", "rank", "id", "text", "score", "lang", "year", "score_", "query_truncated"]
    assert all(word in out for word in ("a big tree", hits["id"][0], hits["text"][0], "year"))

    run = mlflow.get_run(last_json(out)["run_id"])
    assert (run.data.metrics["search/queries"], run.data.metrics["search/hits"]) == (1, 4)
    assert len(mlflow.load_table("hits.json", run_ids=[run.info.run_id])) == 4

    index = mlflow.get_run(chain.index["run_id"])
    assert index.data.tags["upstream_run_id"] == chain.encode["run_id"]
    assert index.data.tags["model_id"] == chain.log_model["model_id"]
    logged = mlflow.get_logged_model(index.data.tags["semantic_search_model_id"])
    assert logged.tags["embeds_with_model_id"] == chain.log_model["model_id"]
    assert logged.tags["encode_run_id"] == chain.encode["run_id"]
    embeddings = {one.tags[0].value: one.dataset.digest for one in index.inputs.dataset_inputs}
    encode = mlflow.get_run(chain.encode["run_id"])
    assert embeddings["embeddings"] in [one.dataset.digest for one in encode.inputs.dataset_inputs]


def test_a_served_index_has_the_same_answers(chain, step):
    import mlflow

    code, out, err = step("search", f"run_id={chain.index['run_id']}", "query=the car", "top_k=3")
    assert code == 0, err
    model = mlflow.pyfunc.load_model(chain.index["model_uri"])
    answer = model.predict(pd.DataFrame({"query": ["a stone", "the car"]}), params={"top_k": 3})
    pd.testing.assert_frame_equal(
        answer[answer["query"] == "the car"].reset_index(drop=True), hits_of(last_json(out)), check_dtype=False, atol=1e-6
    )
    assert model.metadata.get_input_schema().to_dict() == [{"type": "string", "name": "query", "required": True}]
    kinds = {column["name"]: column["type"] for column in model.metadata.get_output_schema().to_dict()}
    assert list(kinds) == list(answer)
    assert (kinds["id"], kinds["year"], kinds["score"], kinds["query_truncated"]) == ("string", "long", "double", "boolean")

    def ask(query="the car", **params):
        return model.predict(pd.DataFrame({"query": [query]}), params=params)

    # The filter comes before the ranking: the two best of few rows, not what is left of the two best of all.
    found = ask(top_k=2, filter='{"year": {">=": 2021, "<": 2024}}')
    assert set(found["id"]) == {"k2", "k4"}
    assert ask(filter='{"lang": null}')["id"].tolist() == ["k5"]
    assert len(ask(filter='{"lang": "it"}')) == 0
    scores = ask()["score"]
    assert len(scores) == 6 and (ask(minimum_score=scores[2])["score"] >= scores[2]).all()
    # The prompt for queries by default; another one by name.
    assert not np.allclose(ask()["score"], ask(prompt_name="document")["score"])
    assert ask("the car " * 100)["query_truncated"].all() and not ask()["query_truncated"].any()
    for params, reason in (
        ({"top_k": 0}, "top_k is 0; expected 1 or more"),
        ({"filter": '{"topic": "x"}'}, "the index has no column 'topic'; it has id, lang, year, score"),
        ({"prompt_name": "nope"}, "the model has no prompt 'nope'"),
    ):
        with pytest.raises(mlflow.MlflowException, match=reason):
            ask(**params)
    with pytest.raises(mlflow.MlflowException, match="query 1 of 1 is empty"):
        ask(" ")
