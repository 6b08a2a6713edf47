"""validate scores queries of the user's own by what an index finds for them."""

import json
import sys

import numpy as np
import pytest
from helpers.collected import write_rows
from helpers.encodes import write_jsonl
from helpers.steps import error_of, last_json
from helpers.suites import spec
from sentence_transformers import SentenceTransformer, util

from steps.common.errors import UserError
from steps.common.quality.indexed import Indexed, Opened
from steps.common.quality.scoring import embed, score
from steps.common.search.index import VECTORS, Facts, Index, write_facts

# Those of the corpus of conftest.py, of which one is null.
TEXTS = ["the cat is big", "a red car", "the river", "a dog on the house", "blue sky and stone", "a red car"]
KEYS = ["k0", "k1", "k2", "k4", "k5", "k6"]

RELEVANT = {"a cat": "k0", "the red car": "k1 k6", "a big tree": "k2 k5"}

QUICK = ("candidates=[]", "latency_calls=3")


@pytest.fixture
def queries(tmp_path):
    return write_queries(tmp_path / "queries.jsonl", RELEVANT)


def write_queries(path, relevant):
    path.write_text("".join(json.dumps({"query": query, "relevant": ids}) + "\n" for query, ids in relevant.items()))
    return path


def test_queries_of_ones_own_are_scored_by_what_the_index_finds(chain, step, queries, tiny_model_folder):
    import mlflow

    words = (f"suite.index={chain.index['run_id']}", f"suite.path={queries}")
    path = list(sys.path)
    code, out, err = step("validate", "suite=index", *words, "suite.min_recall=1", "suite.max_p95_ms=5000", *QUICK)
    assert code == 0, err
    # Where a process that is started later looks for this project.
    assert sys.path == path
    # By sentence-transformers' own search, and the formula of nDCG.
    tiny = SentenceTransformer(str(tiny_model_folder), device="cpu")
    asked = tiny.encode(list(RELEVANT), prompt_name="query")
    found = util.semantic_search(asked, tiny.encode(TEXTS), top_k=10)
    ndcg = []
    for hits, wanted in zip(found, RELEVANT.values()):
        gains = [1 / np.log2(place + 2) for place, hit in enumerate(hits) if KEYS[hit["corpus_id"]] in wanted]
        ndcg.append(sum(gains) / sum(1 / np.log2(place + 2) for place in range(len(wanted.split()))))
    metrics = mlflow.get_run(last_json(out)["run_id"]).data.metrics
    assert metrics["quality/queries/ndcg_at_10"] == pytest.approx(100 * np.mean(ndcg), abs=0.01)
    # There are six rows.
    assert metrics["quality/queries/recall_at_10"] == 100
    assert 0 < metrics["quality/queries/p50_ms"] <= metrics["quality/queries/p95_ms"] < 5000
    content = mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/validation.json")
    checks = {check["name"]: check["threshold"] for check in content["checks"]}
    assert checks["quality/queries/recall_at_10"] == ">= 1" and checks["quality/queries/p95_ms"] == "<= 5000"

    demands = ("suite.threshold=99.9", "suite.min_recall=100.5", "suite.max_p95_ms=0.0001")
    code, out, err = step("validate", "suite=index", *words, *demands, *QUICK)
    failed = err.splitlines()[-1]
    assert code == 1 and failed.startswith("error: validation failed, ")
    assert all(f"quality/queries/{name}" in failed for name in ("ndcg_at_10", "recall_at_10", "p95_ms"))


def test_two_models_are_compared_each_by_an_index_of_its_own(chain, step, queries, tiny_model_folder, tmp_path):
    import mlflow
    import torch

    words = ("suite=index", f"suite.path={queries}", *QUICK)
    other = SentenceTransformer(str(tiny_model_folder), device="cpu")
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    other.save(str(tmp_path / "other"))
    code, out, err = step("log_model", "model=local", f"model.path={tmp_path / 'other'}")
    assert code == 0, err
    new = last_json(out)["run_id"]
    line = error_of(step("validate", f"run_id={new}", *words, f"suite.index={chain.index['run_id']}"))
    assert "is not the model that made the vectors" in line and "weights" in line and "index again" in line

    corpus = write_jsonl(tmp_path / "corpus.jsonl", TEXTS, key=KEYS)
    for name, given in {
        "encode": [
            f"run_id={new}",
            f"corpus={corpus}",
            "corpus.id_column=key",
            "backend=torch",
        ],
        "index": ["run_id=latest"],
    }.items():
        code, out, err = step(name, *given)
        assert code == 0, err
    index = f"suite.index={last_json(out)['run_id']}"
    # The champion has no score yet, and gets none by an index of another model's vectors.
    champion = f"champion={chain.log_model['run_id']}"
    code, out, err = step("validate", f"run_id={new}", *words, index, champion)
    assert code == 0, err
    uri = f"models:/{chain.log_model['model_id']}"
    assert f"The champion {uri} has no recorded score on queries, so it is not compared. Validate it on" in err

    old = f"run_id={chain.log_model['run_id']}"
    assert step("validate", old, *words, f"suite.index={chain.index['run_id']}")[0] == 0
    code, out, err = step("validate", f"run_id={new}", *words, index, champion)
    assert code == 0, err
    content = mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/validation.json")
    (compared,) = content["comparisons"]
    assert [suite["name"] for suite in compared["suites"]] == ["queries"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["suite=index", "suite.index=nope"], "there is no run 'nope'"),
        (["suite=file", "suite.kind=index"], "suite.index is not given; a suite of kind index needs one"),
        (["suite=file", "suite.min_recall=50"], "suite.min_recall is for a suite of kind retrieval, known_item, index"),
        (["suite=file", "suite.kind=retrieval", "suite.max_p95_ms=5"], "suite.max_p95_ms is for a suite of kind index"),
        (["suite=index", "suite.min_recall=-1"], "suite.min_recall"),
    ],
)
def test_a_suite_over_an_index_that_cannot_be_scored_is_one_line(chain, step, queries, words, expected):
    given = [*words, f"suite.path={queries}", *([] if "suite=index" in words else ["suite.threshold=0"])]
    assert expected in error_of(step("validate", *given))


def test_an_id_that_the_index_does_not_hold_is_named(chain, step, tmp_path):
    path = write_queries(tmp_path / "queries.jsonl", RELEVANT | {"a stone": "k5 k3"})
    line = error_of(step("validate", "suite=index", f"suite.path={path}"))
    assert "'a stone' is answered by 'k3', and there is no such id in models:/" in line


def test_another_step_refuses_a_suite_over_an_index(chain, step, queries):
    line = error_of(step("benchmark", "suite=index", f"suite.path={queries}", "corpus=sample"))
    assert "Suite queries (kind index) scores only the model of its index. Use it with validate" in line


# Chunks


def build(folder, vectors, **columns) -> Opened:
    """An index of some vectors, beside the columns of their rows."""
    folder.mkdir()
    np.save(folder / VECTORS, vectors)
    write_rows(folder, **columns)
    write_facts(folder, Facts(rows=len(vectors), dim=vectors.shape[1], metric="cosine"))
    return Opened(Index(folder), None, False)


def test_of_a_text_in_chunks_the_best_chunk_counts(tmp_path):
    # Twelve texts of nine chunks each, around an axis of their own; chunk by chunk farther away from it.
    draw, axes = np.random.default_rng(0), np.eye(12, dtype=np.float32)
    vectors = np.concatenate([axes[i] + 0.03 * j * draw.normal(size=(1, 12)) for i in range(12) for j in range(9)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ids, chunks = np.repeat(np.arange(12), 9), np.tile(np.arange(9), 12)
    opened = build(tmp_path / "index", vectors, id=ids, chunk=chunks, text=[f"text {i}" for i in ids])
    path = write_queries(tmp_path / "queries.jsonl", {str(i): f"{i} {(i + 1) % 12}" for i in range(12)})
    given = spec(kind="index", path=str(path), index="latest", name=None)
    suite = Indexed.read(given, path).on(opened, "an index")
    asked = {str(i): axes[i] + 0.5 * axes[(i + 1) % 12] for i in range(12)}
    found = score(suite, embed(suite, lambda role: lambda texts: np.array([asked[text] for text in texts])))
    # The best chunk of each text, then the ten best texts.
    for query, cosines in zip(
        asked.values(), suite.compute_cosines(embed(suite, lambda _: lambda t: np.array([asked[x] for x in t])))
    ):
        best = np.array([(vectors[ids == i] @ query).max() for i in range(12)]) / np.linalg.norm(query)
        np.testing.assert_allclose(cosines[0], np.sort(best)[::-1][:10], atol=1e-5)
        np.testing.assert_array_equal(ids[cosines[1].astype(int)], np.argsort(-best)[:10])
    assert found.value == pytest.approx(100) and found.metrics["recall_at_10"] == 100
    assert not found.misses


def test_a_query_that_finds_the_wrong_row_is_shown_with_it(tmp_path):
    opened = build(tmp_path / "index", np.eye(3, dtype=np.float32), id=[7, 8, 9], text=["seven", "eight", "nine"])
    path = write_queries(tmp_path / "queries.jsonl", {"a": "7", "b": "9"})
    suite = Indexed.read(spec(kind="index", path=str(path), index="latest", name=None), path).on(opened, "an index")
    asked = {"a": [1.0, 0.1, 0.0], "b": [0.0, 1.0, 0.5]}
    found = score(suite, embed(suite, lambda role: lambda texts: np.array([asked[text] for text in texts], np.float32)))
    assert [(miss.query, miss.wanted, miss.found) for miss in found.misses] == [("b", "nine", "eight")]
    assert found.value == pytest.approx(100 * (1 + 1 / np.log2(3)) / 2)
    with pytest.raises(UserError, match="'b' is answered by '9', and there is no such id in an index"):
        Indexed.read(spec(kind="index", path=str(path), index="latest", name=None), path).on(
            build(tmp_path / "two", np.eye(2, dtype=np.float32), id=[7, 8]), "an index"
        )
