"""paraphrases on the tiny model: pairs, clusters and duplicates of stored embeddings, old ones and new, and the model that is served."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.encodes import write_jsonl
from helpers.steps import error_of, last_json
from sentence_transformers import util

# Those of the corpus of conftest.py, whose fourth is null; "a red car" is there twice.
TEXTS = ["the cat is big", "a red car", "the river", None, "a dog on the house", "blue sky and stone", "a red car"]
KEYS = [f"k{i}" for i in range(7)]
TABLES = ("pairs", "clusters", "duplicates", "deduplicated")


@pytest.fixture
def mine(chain, step):
    """Run paraphrases, over the embeddings of the chain by default; its summary, with the tables of its run."""
    import mlflow

    def run(*given):
        code, out, err = step("paraphrases", *given)
        assert code == 0, err
        summary = last_json(out)
        summary["shown"] = out
        for name in TABLES:
            try:
                path = mlflow.artifacts.download_artifacts(f"runs:/{summary['run_id']}/{name}.parquet")
            except (mlflow.MlflowException, OSError):
                continue
            summary[name] = pq.read_table(path).to_pandas()
        return summary

    return run


def expected_pairs(tiny_model, threshold):
    """As the library's paraphrase mining finds them; the texts are few, so it caps none."""
    whole = [row for row, text in enumerate(TEXTS) if text is not None]
    found = util.paraphrase_mining(tiny_model, [TEXTS[row] for row in whole])
    return {
        frozenset((KEYS[whole[first]], KEYS[whole[second]])): score
        for score, first, second in found
        if score >= threshold
    }


def test_pairs_clusters_and_duplicates_of_stored_embeddings(chain, mine, tiny_model):
    import mlflow

    threshold = float(np.median(list(expected_pairs(tiny_model, -1).values())))
    found = mine(f"run_id={chain.encode['run_id']}", f"threshold={threshold}")
    pairs, expected = found["pairs"], expected_pairs(tiny_model, threshold)
    assert list(pairs) == ["score", "id_1", "text_1", "id_2", "text_2"] and 5 < len(pairs) < 12
    by_ids = {frozenset(ids): score for *ids, score in zip(pairs["id_1"], pairs["id_2"], pairs["score"])}
    assert by_ids.keys() == expected.keys() and len(by_ids) == len(pairs)
    np.testing.assert_allclose([by_ids[ids] for ids in expected], list(expected.values()), atol=1e-6)
    assert (np.diff(pairs["score"]) <= 0).all()
    # The two equal texts are first; they are in two parts, so that their vectors may differ in the last bit.
    assert pairs.iloc[0].tolist() == [pytest.approx(1, abs=1e-6), "k1", "a red car", "k6", "a red car"]

    duplicates, kept, clusters = found["duplicates"], found["deduplicated"], found["clusters"]
    assert list(duplicates) == ["id", "text", "kept_id", "kept_text", "score"]
    assert list(kept) == ["id", "text", "lang", "year", "score", "stands_for"]
    assert sorted([*duplicates["id"], *kept["id"]]) == sorted(set(KEYS) - {"k3"}) and kept["stands_for"].sum() == 6
    for row in duplicates.to_dict("records"):
        assert row["kept_id"] in set(kept["id"])
        assert row["score"] == pytest.approx(by_ids[frozenset((row["id"], row["kept_id"]))], abs=1e-6)
    assert list(clusters) == ["cluster", "rows", "score", "id", "text"] and clusters["cluster"].max() >= 1

    run = mlflow.get_run(found["run_id"])
    metrics = run.data.metrics
    assert (metrics["paraphrases/rows"], metrics["paraphrases/null_rows"]) == (6, 1)
    assert metrics["paraphrases/pairs"] == len(pairs) == len(mlflow.load_table("pairs.json", run_ids=[run.info.run_id]))
    assert metrics["paraphrases/kept_rows"] + metrics["paraphrases/duplicates"] == 6
    assert all(word in found["shown"] for word in ("1.0000", "a red car", "k6"))
    assert run.data.tags["upstream_run_id"] == chain.encode["run_id"]
    assert run.data.tags["model_id"] == chain.log_model["model_id"]
    logged = mlflow.get_logged_model(found["model_uri"].removeprefix("models:/"))
    assert logged.tags["embeds_with_model_id"] == chain.log_model["model_id"]
    assert logged.tags["encode_run_id"] == chain.encode["run_id"]
    inputs = {one.tags[0].value: one.dataset.digest for one in run.inputs.dataset_inputs}
    encode = mlflow.get_run(chain.encode["run_id"])
    assert (
        set(inputs) == {"corpus", "embeddings"}
        and inputs.items() <= {one.tags[0].value: one.dataset.digest for one in encode.inputs.dataset_inputs}.items()
    )


def test_the_served_model_answers_each_query_with_pairs_that_involve_it(chain, mine, tiny_model):
    """The published tutorial's mixes in pairs of two texts of the corpus, sorts by the wrong number, answers the first query of a
    request, and crashes where a query is in the corpus."""
    import mlflow

    found = mine(f"run_id={chain.encode['run_id']}", "threshold=0.2")
    model = mlflow.pyfunc.load_model(found["model_uri"])
    queries = ["a big tree", "a red car"]
    answer = model.predict(pd.DataFrame({"query": queries}))
    assert list(answer) == ["query", "rank", "id", "text", "score", "lang", "year", "score_", "query_truncated"]
    whole = [row for row, text in enumerate(TEXTS) if text is not None]
    scores = util.cos_sim(tiny_model.encode(queries), tiny_model.encode([TEXTS[row] for row in whole])).numpy()
    for query, expected in zip(queries, scores):
        rows = answer[answer["query"] == query]
        near = [row for row in np.argsort(-expected, kind="stable") if expected[row] >= 0.2]
        assert sorted(rows["id"]) == sorted(KEYS[whole[row]] for row in near)
        np.testing.assert_allclose(rows["score"], expected[near], atol=1e-6)
        assert rows["rank"].tolist() == list(range(1, len(near) + 1))
    # Queries that are in the corpus find themselves, as often as they are there.
    certain = model.predict(pd.DataFrame({"query": ["a red car"]}), params={"threshold": 1.0})
    assert sorted(certain["id"]) == ["k1", "k6"]

    assert model.metadata.get_input_schema().to_dict() == [{"type": "string", "name": "query", "required": True}]
    assert [column["name"] for column in model.metadata.get_output_schema().to_dict()] == list(answer)
    assert {one.name: one.default for one in model.metadata.get_params_schema()} == {
        "threshold": 0.2,
        "prompt_name": None,
    }
    for params, query, reason in (
        ({"threshold": 0.0}, "a", "threshold is 0.0; expected a cosine above 0"),
        ({"prompt_name": "nope"}, "a", "the model has no prompt 'nope'"),
        ({}, " ", "query 1 of 1 is empty"),
    ):
        with pytest.raises(mlflow.MlflowException, match=reason):
            model.predict(pd.DataFrame({"query": [query]}), params=params)


def test_new_rows_are_compared_with_an_old_output(chain, step, mine, tmp_path, tiny_model):
    new = ["a red car", "an old tree", "a red car", None, "the river"]
    corpus = write_jsonl(tmp_path / "new.jsonl", new)
    model = f"run_id={chain.log_model['run_id']}"
    code, out, err = step(
        "encode", model, f"corpus={corpus}", f"output={tmp_path}/new", "keep_text=false", "backend=torch"
    )
    assert code == 0, err
    # Ids of another type; by the run of the old output, and by the folder of the new one.
    found = mine(f"embeddings={tmp_path}/new", f"against={chain.encode['run_id']}", "threshold=0.999")
    assert {(one, other) for one, other in zip(found["pairs"]["id_1"], found["pairs"]["id_2"])} == {
        (0, "k1"),
        (0, "k6"),
        (2, "k1"),
        (2, "k6"),
        (4, "k2"),
    }
    assert list(found["pairs"]) == ["score", "id_1", "id_2", "text_2"]
    assert found["duplicates"]["id"].tolist() == [0, 2, 4] and found["duplicates"]["kept_id"].tolist() == [
        "k1",
        "k1",
        "k2",
    ]
    assert found["deduplicated"]["id"].tolist() == [1] and "clusters" not in found
    assert found["against"] and found["paraphrases/null_rows"] == 1

    def refused(*given):
        return error_of(step("paraphrases", *given))

    old = f"run_id={chain.encode['run_id']}"
    code, _, err = step("encode", model, f"corpus={corpus}", f"output={tmp_path}/cut", "embedding.truncate_dim=16")
    assert code == 0, err
    assert "was made with another model or other settings: embedding.truncate_dim is 16, expected None" in refused(
        old, f"against={tmp_path}/cut"
    )
    assert "against: there is no" in refused("against=/nowhere")
    # Both held by their runs, the old one in fewer parts.
    code, out, err = step("encode", model, f"corpus={corpus}", "backend=torch")
    assert code == 0, err
    assert len(mine(old, f"against={last_json(out)['run_id']}", "threshold=0.999")["pairs"]) == 5


def test_ids_that_are_no_texts_are_shown_in_the_tables_of_a_run(chain, step, mine, tmp_path):
    import mlflow

    rows = {"text": ["a red car", "a red car"], "id": pa.array([b"\xff\x00", b"b"], pa.binary())}
    pq.write_table(pa.table(rows), tmp_path / "corpus.parquet")
    given = (f"run_id={chain.log_model['run_id']}", f"corpus={tmp_path / 'corpus.parquet'}", "corpus.id_column=id")
    code, _, err = step("encode", *given, "backend=torch", f"output={tmp_path / 'out'}")
    assert code == 0, err
    found = mine(f"embeddings={tmp_path / 'out'}")
    assert found["pairs"]["id_1"].tolist() == [b"\xff\x00"]
    shown = mlflow.load_table("pairs.json", run_ids=[found["run_id"]])
    assert (shown["id_1"][0], shown["score"][0]) == (str(b"\xff\x00"), 1)
    for name, words in {
        "index": [f"embeddings={tmp_path / 'out'}"],
        "search": ["query=a car", "run_id=latest"],
    }.items():
        code, out, err = step(name, *words)
        assert code == 0, err
    hits = mlflow.load_table("hits.json", run_ids=[last_json(out)["run_id"]])
    assert set(hits["id"]) == {str(b"\xff\x00"), str(b"b")}


def test_texts_stay_out_and_bad_outputs_are_refused(chain, step, mine, tmp_path):
    import mlflow

    found = mine("run_id=latest", "keep_text=false", "threshold=0.5", "min_cluster_rows=3")
    assert list(found["pairs"]) == ["score", "id_1", "id_2"] and list(found["duplicates"]) == ["id", "kept_id", "score"]
    assert "text" not in found["deduplicated"] and "text" not in found["clusters"]
    assert found["clusters"].empty or found["clusters"]["rows"].min() >= 3
    folder = mlflow.artifacts.download_artifacts(found["model_uri"])
    model = mlflow.pyfunc.load_model(folder)
    assert "text" not in model.predict(pd.DataFrame({"query": ["a red car"]}))

    def refused(*given):
        return error_of(step("paraphrases", *given))

    model = f"run_id={chain.log_model['run_id']}"
    corpus = tmp_path / "corpus.jsonl"
    for dtype in ("binary", "int8"):
        output = f"output={tmp_path}/{dtype}"
        code, _, err = step("encode", model, f"corpus={corpus}", output, f"embedding.dtype={dtype}", "backend=torch")
        assert code == 0, err
    assert "are binary (signs only), and" in refused(f"embeddings={tmp_path}/binary")
    equal = mine(f"embeddings={tmp_path}/int8", "threshold=0.999")
    assert set(zip(equal["pairs"]["id_1"], equal["pairs"]["id_2"])) == {(1, 6)}
    (tmp_path / "apart.jsonl").write_text('{"text": "the cat is big"}\n{"text": "a red car"}\n')
    code, _, err = step("encode", model, f"corpus={tmp_path}/apart.jsonl", f"output={tmp_path}/apart", "backend=torch")
    assert code == 0, err
    none = mine(f"embeddings={tmp_path}/apart", "threshold=0.9999")
    assert "no pairs" in none["shown"] and none["paraphrases/pairs"] == len(none["pairs"]) == len(none["clusters"]) == 0
    assert "threshold is 0.0; expected a cosine above 0, and no more than 1" in refused("threshold=0")
    assert "threshold is 1.5; expected a cosine" in refused("threshold=1.5")
    assert "min_cluster_rows is 1; expected 2 or more" in refused("min_cluster_rows=1")
    assert "is a run of log_model" in refused(model)
    part = tmp_path / "int8" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    assert "do not match their manifest, 1 finding(s)" in refused(f"embeddings={tmp_path}/int8")
    (tmp_path / "nulls.jsonl").write_text('{"text": null}\n{"text": null}\n')
    step("encode", model, f"corpus={tmp_path}/nulls.jsonl", f"output={tmp_path}/nulls", "backend=torch")
    assert "holds no embedding: all 2 rows are null" in refused(f"embeddings={tmp_path}/nulls")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_a_real_server_answers_as_the_model_does(chain, mine):
    import mlflow

    from steps.common.validation.server import serve

    found = mine(f"run_id={chain.encode['run_id']}", "threshold=0.3")
    queries = ["a red car", "the big river"]
    expected = mlflow.pyfunc.load_model(found["model_uri"]).predict(pd.DataFrame({"query": queries}))
    folder = mlflow.artifacts.download_artifacts(found["model_uri"])
    with serve(folder, None) as server:
        assert server.wait(120) is None
        with server.client() as client:
            body = {"dataframe_records": [{"query": query} for query in queries]}
            answer = client.post("/invocations", json=body)
            assert answer.status_code == 200, answer.text
            rows = pd.DataFrame(answer.json()["predictions"])
            assert list(rows) == list(expected) and rows["id"].tolist() == expected["id"].tolist()
            np.testing.assert_allclose(rows["score"], expected["score"], atol=1e-6)
            answer = client.post("/invocations", json=body | {"params": {"threshold": 2.0}})
            assert answer.status_code == 400 and "threshold is 2.0" in answer.json()["message"]
