"""validate beside a champion: facts that differ, whether its vectors can stay, and the map that carries them over."""

import itertools

import mlflow
import numpy as np
import pytest
import torch
from helpers.damages import exchange_words
from helpers.models import TINY_WORDS
from helpers.steps import last_json
from sentence_transformers import SentenceTransformer

from steps.common.corpus.sample import sample_topics

FAST = ("serving.enabled=false", "candidates=[]", "latency_calls=2", "bootstrap.resamples=100")


@pytest.fixture
def corpus(tmp_path):
    texts = [" ".join(words) for words in itertools.combinations(TINY_WORDS[10:], 3)]
    (tmp_path / "corpus.txt").write_text("\n".join(texts[:100]))
    return texts[:100]


def test_a_model_that_adds_a_prompt_says_so_and_needs_every_text_embedded_again(
    step, tiny_run, tiny_model_folder, tiny_suite, corpus, tmp_path
):
    code, out, err = step(
        *("log_model", "model=local", "--model.path", str(tiny_model_folder)),
        *("--model.default_prompt_name", "query", "--model.prompts.query", "the big slow house "),
    )
    assert code == 0, err
    asked = (f"--suite.path={tiny_suite}", f"champion={tiny_run['run_id']}", "register=tiny", *FAST)
    code, out, err = step(
        *("validate", *asked, "--corpus.path", str(tmp_path / "corpus.txt")),
        *("compatibility.bridge=true", "compatibility.reindex_rows=1000000"),
    )
    assert code == 0, err
    run = mlflow.get_run(last_json(out)["run_id"])
    content = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/validation.json")
    assert content["facts"] == [
        {"fact": fact, "here": here, "there": there, "against": "champion"}
        for fact, here, there in (
            ("prompts", '{"query": "the big slow house "}', '{"query": "the cat: "}'),
            ("default_prompt", "the big slow house ", "none"),
        )
    ]
    found = content["compatibility"]
    assert found["verdict"] == "reindex_required"
    assert found["rows"] == 100
    assert found["cosine_p5"] < 0.985
    assert found["reindex_rows"] == 1_000_000
    assert found["reindex_hours"] == pytest.approx(1_000_000 / found["rows_per_second"] / 3600)
    assert mlflow.MlflowClient().get_model_version("tiny", "1").tags["compatibility"] == "reindex_required"

    # The map brings old vectors nearer to new ones than they were.
    bridge = mlflow.pyfunc.load_model(run.data.tags["bridge"])
    tiny = SentenceTransformer(str(tiny_model_folder), device="cpu")
    old, new = tiny.encode(corpus), tiny.encode(corpus, prompt="the big slow house ")
    carried = bridge.predict(old)
    assert np.linalg.norm(carried, axis=1) == pytest.approx(np.linalg.norm(old, axis=1), abs=1e-5)
    assert (carried * new).sum(axis=1).mean() > (old * new).sum(axis=1).mean()
    # What was measured of the model is not the bridge's.
    logged = mlflow.get_logged_model(run.data.tags["bridge"].removeprefix("models:/"))
    assert [metric.key for metric in logged.metrics or [] if not metric.key.startswith("system/")] == []
    assert logged.tags["bridges_from_model_id"] == tiny_run["model_id"]


def test_a_champion_whose_weights_are_not_finite_fails_nobody(step, tiny_run, tiny_model_folder, tiny_suite, tmp_path):
    broken = SentenceTransformer(str(tiny_model_folder), device="cpu")
    with torch.no_grad():
        broken[0].auto_model.encoder.layer[0].output.dense.weight[0, 0] = torch.nan
    broken.save(str(tmp_path / "broken"))
    code, out, err = step("log_model", "model=local", "--model.path", str(tmp_path / "broken"))
    assert code == 0, err
    champion = last_json(out)["run_id"]
    words = (f"--run_id={tiny_run['run_id']}", f"--suite.path={tiny_suite}", f"champion={champion}", *FAST)
    code, out, err = step("validate", *words)
    assert code == 0, err
    assert "may replace the champion" in out and "better than the champion: no score to compare" in out
    assert "The champion's vectors contain NaN or infinity, so they are not compared." in err


def test_a_corpus_of_too_few_texts_is_one_line(step, tiny_run, tiny_suite, tmp_path):
    (tmp_path / "few.txt").write_text("one\ntwo\ntwo\n")
    code, _, err = step("validate", f"--suite.path={tiny_suite}", "--corpus.path", str(tmp_path / "few.txt"), *FAST)
    assert code == 1
    assert "holds 2 different texts; expected more than 10" in err.splitlines()[-1]


def test_a_model_that_differs_only_where_no_suite_looks_is_no_champion(
    step, tiny_run, tiny_model_folder, tiny_suite, tmp_path
):
    asked = (f"--suite.path={tiny_suite}", "register=tiny", *FAST)
    code, out, err = step("validate", *asked)
    assert code == 0 and last_json(out)["registered"] == "tiny/1 (champion)", err
    tiny = SentenceTransformer(str(tiny_model_folder), device="cpu")
    texts = [*sample_topics()[0], tiny_suite.read_text()]
    used = {token for text in texts for token in tiny.tokenizer(text, truncation=False)["input_ids"]}
    exchange_words(tiny, kept=used).save(str(tmp_path / "exchanged"))
    code, out, err = step("log_model", "model=local", "--model.path", str(tmp_path / "exchanged"))
    assert code == 0, err
    code, out, err = step("validate", *asked)
    assert code == 0, err
    found = last_json(out)
    assert found["registered"] == "tiny/2 (challenger)"
    assert (
        "no worse than" not in found["because"]
        or "no suite measures such texts; version 1 stays champion" in found["because"]
    )
    assert "its vectors of rare words (" in found["because"] and "are not the champion's" in found["because"]
    assert found["may replace the champion"].startswith("undecided, ")
    run = mlflow.get_run(found["run_id"])
    content = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/validation.json")
    assert content["compatibility"]["verdict"] == "reindex_required"
    assert [one["texts"] for one in content["moved"]] == ["rare words", "long texts"]
    assert mlflow.MlflowClient().get_registered_model("tiny").aliases == {"champion": 1, "challenger": 2}
