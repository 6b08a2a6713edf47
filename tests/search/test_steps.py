"""index, search and similarity on the tiny model: what the chain answers, from stored embeddings."""

import io
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers.pages import find_page
from helpers.steps import error_of, last_json
from sentence_transformers import util

# Those of the corpus of conftest.py: the fourth is null there.
TEXTS = ["the cat is big", "a red car", "the river", "a dog on the house", "blue sky and stone", "a red car"]
KEYS = ["k0", "k1", "k2", "k4", "k5", "k6"]


def hits_of(summary):
    import mlflow

    return pq.read_table(mlflow.artifacts.download_artifacts(summary["table"])).to_pandas()


def test_an_index_answers_in_words_from_stored_embeddings(chain, step, tiny_model, monkeypatch):
    import mlflow

    code, out, err = step("search", f"run_id={chain.index['run_id']}", "query=a big tree", "top_k=4")
    assert code == 0, err
    hits = hits_of(last_json(out))
    # As sentence-transformers' own search, with the model's prompt for queries.
    (expected,) = util.semantic_search(
        tiny_model.encode(["a big tree"], prompt_name="query"), tiny_model.encode(TEXTS), top_k=4
    )
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
        answer[answer["query"] == "the car"].reset_index(drop=True),
        hits_of(last_json(out)),
        check_dtype=False,
        atol=1e-6,
    )
    assert model.metadata.get_input_schema().to_dict() == [{"type": "string", "name": "query", "required": True}]
    kinds = {column["name"]: column["type"] for column in model.metadata.get_output_schema().to_dict()}
    assert list(kinds) == list(answer)
    assert (kinds["id"], kinds["year"], kinds["score"], kinds["query_truncated"]) == (
        "string",
        "long",
        "double",
        "boolean",
    )

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
        ({"minimum_score": float("nan")}, "minimum_score is not a number"),
        ({"filter": '{"topic": "x"}'}, "the index has no column 'topic'; it has id, lang, year, score"),
        ({"prompt_name": "nope"}, "the model has no prompt 'nope'"),
    ):
        with pytest.raises(mlflow.MlflowException, match=reason):
            ask(**params)
    with pytest.raises(mlflow.MlflowException, match="query 1 of 1 is empty"):
        ask(" ")


def test_questions_of_a_file_and_of_the_terminal_are_answered(chain, step, tmp_path, monkeypatch):
    import mlflow

    (tmp_path / "questions.csv").write_text("query,n\nthe car,1\na stone,2\n")
    code, out, err = step("search", "run_id=latest", f"queries={tmp_path}/questions.csv", "top_k=2", "keep_nothing=1")
    assert code == 1 and "search has no config key 'keep_nothing'" in err
    code, out, err = step("search", "run_id=latest", f"queries={tmp_path}/questions.csv", "top_k=2")
    assert code == 0, err
    hits = hits_of(last_json(out))
    assert hits["query"].tolist() == ["the car", "the car", "a stone", "a stone"]
    assert hits["rank"].tolist() == [1, 2, 1, 2]

    monkeypatch.setattr("sys.stdin", io.StringIO("the car\na stone\n\nnever read\n"))
    code, out, err = step("search", f"run_id={chain.index['model_uri']}", "interactive=true", "top_k=2")
    assert code == 0, err
    pd.testing.assert_frame_equal(hits_of(last_json(out)), hits)
    assert out.index("the car\n") < out.index("a stone\n")

    # Nothing is found: said on the screen, and the run has an empty table.
    code, out, err = step("search", "run_id=latest", "query=x", 'filter={"lang": "it"}')
    assert code == 0 and "no hits" in out and len(hits_of(last_json(out))) == 0, err
    assert mlflow.get_run(last_json(out)["run_id"]).data.metrics["search/hits"] == 0


REFUSED = [
    ([], "none of query, queries and interactive=true given; expected one"),
    (["query=a", "interactive=true"], "several of query, queries and interactive=true given"),
    (["query= "], "query 1 of 1 is empty"),
    (["query=a", "top_k=0"], "top_k is 0; expected 1 or more"),
    (["query=a", "filter={lang: en}"], "is not JSON"),
    (["query=a", 'filter={"topic": 1}'], "the index has no column 'topic'; it has id, lang, year, score"),
    (["query=a", "prompt_name=nope"], "the model has no prompt 'nope'"),
    (["queries=QUESTIONS"], "has no column 'query'; its columns are 'text'"),
    (["query=a", "run_id=ENCODE"], "holds no index (it is a run of encode, FINISHED)"),
    (["query=a", "run_id=MODEL"], "cannot be loaded as an index"),
    (["query=a", "run_id=models:/m-0"], "models:/m-0 cannot be loaded as an index"),
]


def test_a_search_that_cannot_be_answered_ends_with_one_line(chain, step, tmp_path):
    (tmp_path / "questions.csv").write_text("text\nthe car\n")
    names = {"QUESTIONS": f"{tmp_path}/questions.csv", "ENCODE": chain.encode["run_id"]}
    names["MODEL"] = f"models:/{chain.log_model['model_id']}"
    for given, reason in REFUSED:
        words = [next((one.replace(name, names[name]) for name in names if name in one), one) for one in given]
        assert reason in error_of(step("search", *words))


def test_an_index_is_made_of_any_whole_output_and_of_no_other(chain, step, tmp_path, tiny_model):
    import mlflow

    model = f"run_id={chain.log_model['run_id']}"
    corpus = tmp_path / "corpus.jsonl"
    queries = tiny_model.encode(["the car"], prompt_name="query")
    vectors = tiny_model.encode(TEXTS)
    answers = {}
    for name, *more in (
        ("npy", "output_format=npy", "keep_text=false"),
        ("int8", "embedding.dtype=int8"),
        ("binary", "embedding.dtype=binary", "output_format=npy"),
        ("cut", "embedding.truncate_dim=16"),
    ):
        output = f"{tmp_path}/{name}"
        code, _, err = step("encode", model, f"corpus={corpus}", f"output={output}", "backend=torch", *more)
        assert code == 0, err
        code, out, err = step("index", f"embeddings={output}", "keep_text=false")
        assert code == 0, err
        index = mlflow.pyfunc.load_model(last_json(out)["model_uri"])
        answers[name] = index.predict(pd.DataFrame({"query": ["the car"]}))
    exact = (queries @ vectors.T)[0]
    found = answers["npy"].set_index("id")["score"]
    # Rows are numbered from 0 as in the corpus, whose fourth is null.
    np.testing.assert_allclose(found[[0, 1, 2, 4, 5, 6]], exact, atol=1e-6)
    assert list(answers["npy"]) == ["query", "rank", "id", "score", "query_truncated"]
    np.testing.assert_allclose(answers["int8"].set_index("id")["score"][[0, 1, 2, 4, 5, 6]], exact, atol=0.02)
    signs = np.where(vectors > 0, 1, -1) / np.sqrt(32)
    np.testing.assert_allclose(
        answers["binary"].set_index("id")["score"][[0, 1, 2, 4, 5, 6]], (queries @ signs.T)[0], atol=1e-6
    )
    cut = util.cos_sim(queries[:, :16], vectors[:, :16])[0]
    np.testing.assert_allclose(answers["cut"].set_index("id")["score"][[0, 1, 2, 4, 5, 6]], cut, atol=1e-6)

    def refused(*given):
        return error_of(step("index", *given))

    assert "are binary (signs only), and" in refused(f"embeddings={tmp_path}/binary", "metric=dot")
    assert "vectors=binary keeps only signs" in refused("metric=dot", "vectors=binary")
    assert "is a run of log_model" in refused(model)
    assert "embeddings: there is no" in refused("embeddings=/nowhere")
    part = tmp_path / "int8" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    assert "do not match their manifest, 1 finding(s): part-00000.parquet has" in refused(f"embeddings={tmp_path}/int8")
    (tmp_path / "nulls.jsonl").write_text('{"text": null}\n{"text": null}\n')
    step("encode", model, f"corpus={tmp_path}/nulls.jsonl", f"output={tmp_path}/nulls", "backend=torch")
    assert "holds no embedding: all 2 rows are null" in refused(f"embeddings={tmp_path}/nulls")


def test_another_model_of_the_same_dimension_is_refused(chain, step, tmp_path, tiny_model_folder):
    """The silent fault: queries of one model among the vectors of another."""

    import mlflow

    other = tmp_path / "other"
    shutil.copytree(tiny_model_folder, other)
    config = other / "config_sentence_transformers.json"
    config.write_text(config.read_text().replace("the cat: ", "the dog: "))
    code, out, err = step("log_model", "model=local", f"model.path={other}")
    assert code == 0, err
    code, _, err = step("index", f"run_id={chain.encode['run_id']}", f"embedding_model={last_json(out)['run_id']}")
    assert code == 1
    assert "is not the model that made the vectors" in err and "the dog" in err and "the cat" in err

    # The same model, logged again, is the same model; the index may name it instead.
    code, out, err = step("log_model", "model=local", f"model.path={tiny_model_folder}")
    assert code == 0, err
    again = last_json(out)
    code, out, err = step("index", f"run_id={chain.encode['run_id']}", f"embedding_model={again['run_id']}")
    assert code == 0, err
    logged = mlflow.get_logged_model(last_json(out)["model_uri"].removeprefix("models:/"))
    assert logged.tags["embeds_with_model_id"] == again["model_id"]

    # The files of the model are replaced after the index was made.
    folder = mlflow.artifacts.download_artifacts(f"models:/{chain.log_model['model_id']}")
    (path,) = Path(folder).glob("*.sentence_transformer/config_sentence_transformers.json")
    path.write_text(config.read_text())
    code, _, err = step("search", f"run_id={chain.index['run_id']}", "query=a")
    assert code == 1
    assert "is not the model that made the vectors" in err
    # Without the model, the line says where it is looked for.
    mlflow.MlflowClient().delete_logged_model(chain.log_model["model_id"])
    code, _, err = step("index", f"run_id={chain.encode['run_id']}")
    assert code == 1 and "has no such model. Name a run or models:/... that holds it: embedding_model=<run>" in err


def test_pairs_get_the_scores_of_sentence_transformers(chain, step, tmp_path, tiny_model):
    import mlflow

    first = ["the cat is big", "a red car", None, "the cat is big"]
    second = ["a red car", "a tree", "the river", "the cat is big"]
    pairs = tmp_path / "pairs.jsonl"
    pd.DataFrame({"a": first, "b": second}).to_json(pairs, orient="records", lines=True)
    run, columns = f"run_id={chain.log_model['run_id']}", ("pairs.column_1=a", "pairs.column_2=b", "backend=torch")
    whole = [0, 1, 3]
    vectors = [tiny_model.encode([texts[i] for i in whole]) for texts in (first, second)]
    code, out, err = step("similarity", run, f"pairs={pairs}", "metric=euclidean", *columns)
    assert code == 0, err
    summary = last_json(out)
    table = pq.read_table(mlflow.artifacts.download_artifacts(f"runs:/{summary['run_id']}/similarity.parquet"))
    scores = table.column("score").to_pylist()
    np.testing.assert_allclose([scores[i] for i in whole], util.pairwise_euclidean_sim(*vectors), atol=1e-5)
    assert scores[2] is None and summary["similarity/null_pairs"] == 1
    assert table.column("sentence_2").to_pylist() == second

    # Served: the metric of the step by default, any by its name; any number of rows.
    served = mlflow.pyfunc.load_model(summary["model_uri"])
    frame = pd.DataFrame({"sentence_1": first[:2] * 50, "sentence_2": second[:2] * 50})
    np.testing.assert_allclose(served.predict(frame)["score"], [scores[0], scores[1]] * 50, atol=1e-5)
    functions = {"cosine": "cos_sim", "dot": "dot_score", "euclidean": "euclidean_sim", "manhattan": "manhattan_sim"}
    for metric, name in functions.items():
        found = served.predict(frame[:2], params={"metric": metric})["score"]
        np.testing.assert_allclose(found, getattr(util, f"pairwise_{name}")(*vectors)[:2], atol=1e-5)
    cosine = served.predict(frame[:1], params={"metric": "cosine"})["score"]
    with pytest.raises(mlflow.MlflowException, match="metric is 'jaccard'; expected one of cosine, dot"):
        served.predict(frame, params={"metric": "jaccard"})

    code, out, err = step("similarity", run, "sentence_1=the cat is big", "sentence_2=a red car")
    assert code == 0 and f"{cosine[0]:.4f}" in out, err
    for given in ([], ["sentence_1=a"], [f"pairs={pairs}", "sentence_1=a"]):
        code, _, err = step("similarity", run, *given)
        assert code == 1 and "expected pairs=<file>, or both sentence_1 and sentence_2" in err
    code, _, err = step("similarity", run, f"pairs={pairs}")
    assert code == 1 and "has no column 'sentence_1'; its columns are 'a', 'b'" in err and "pairs.column_1=" in err


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_a_real_server_answers_queries_as_the_step_does(chain, step):
    import mlflow

    from steps.common.validation.server import serve

    code, out, err = step("search", f"run_id={chain.index['run_id']}", "query=the car", "top_k=3")
    assert code == 0, err
    expected = hits_of(last_json(out))
    folder = mlflow.artifacts.download_artifacts(chain.index["model_uri"])
    with serve(folder, None) as server:
        assert server.wait(120) is None
        with server.client() as client:
            # As the page on search shows it, with another question.
            (curl,) = [line for line in find_page("docs/search.md").commands() if line.startswith("curl")]
            body = json.loads(shlex.split(curl.replace("a red car", "the car"))[-1])
            assert body == {"dataframe_records": [{"query": "the car"}], "params": {"top_k": 3}}
            answer = client.post("/invocations", json=body)
            assert answer.status_code == 200, answer.text
            found = pd.DataFrame(answer.json()["predictions"])
            assert found["id"].tolist() == expected["id"].tolist() and list(found) == list(expected)
            np.testing.assert_allclose(found["score"], expected["score"], atol=1e-6)
            answer = client.post("/invocations", json=body | {"params": {"top_k": 0}})
            assert answer.status_code == 400 and "top_k is 0" in answer.json()["message"]
