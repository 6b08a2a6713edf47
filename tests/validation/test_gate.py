"""The gate of validate on broken models and on good ones, before and after they were logged."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.broken_models import BROKEN, save_broken
from helpers.models import TINY_WORDS
from helpers.project import PROJECT
from helpers.steps import last_json
from helpers.suites import read_suite
from sentence_transformers import SentenceTransformer

from steps.common.model import facts as identity
from steps.common.model.facts import facts
from steps.common.quality import scoring
from steps.common.validation import checks as quality
from steps.common.validation import gate
from steps.common.validation import weights as sanity
from steps.common.validation.behaviour import HOSTILE, check_hostile, check_output, check_white_space
from steps.common.validation.checks import Check
from steps.common.validation.identity import check_unchanged, find_known, known_models

SENTENCES = ["the cat is on the house", "a red car", "the river and the tree", "bread of the house"]


def failing(checks) -> set[str]:
    return {check.name for check in quality.failed(checks)}


def encoder(model):
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def looked_into(model, tags) -> list[Check]:
    """What the gate says of a model without MLflow and the checks that the step's own tests run."""
    checks = gate.check_identity(tags, model) + check_output(encoder(model)(SENTENCES), 0.999)
    suite = read_suite(PROJECT / "steps" / "data" / "suites" / "builtin.jsonl").sample(90)
    score = scoring.compute_score(suite, encoder(model))
    if any(check.name.startswith(gate.NAMES_CAUSE) for check in quality.failed(checks)):
        return checks
    return checks + sanity.check_trained(score, 45.0, lambda other: scoring.compute_score(suite, encoder(other)), model)


@pytest.mark.slow
def test_the_gate_has_nothing_against_the_model_of_the_tutorial(minilm):
    checks = looked_into(minilm, {"hub_id": "sentence-transformers/all-MiniLM-L6-v2"})
    assert failing(checks) == set()
    assert {"known/pooling", "known/normalizes", "known/tokenizer_sha256", "known/parameters_sha256"} <= {
        check.name for check in checks
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_model_that_was_broken_before_it_was_logged_fails_by_its_cause(minilm, tmp_path, name):
    """Under no name that is known, as a folder of one's own would be logged."""
    broken = SentenceTransformer(str(save_broken(name, minilm, tmp_path / "broken")), device="cpu")
    found = failing(looked_into(broken, {"hub_id": "local"}))
    assert BROKEN[name][1] in found
    others = {cause for other, (_, cause, _) in BROKEN.items() if other != name}
    assert not found & others


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_that_was_broken_after_it_was_logged_fails_by_its_cause(
    step, tiny_run, tiny_model_folder, tiny_suite, tmp_path, name
):
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{tiny_run['model_id']}"))
    (logged,) = [path.parent for path in folder.rglob("modules.json")]
    shutil.rmtree(logged)
    save_broken(name, SentenceTransformer(str(tiny_model_folder), device="cpu"), logged)
    code, out, err = step("validate", f"suite.path={tiny_suite}", "candidates=[]", "latency_calls=2")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: validation failed, ")
    content = mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/validation.json")
    assert BROKEN[name][2] in {check["name"] for check in content["checks"] if not check["passed"]}
    assert mlflow.get_logged_model(tiny_run["model_id"]).tags["validation"] == "failed"
    # What is not finite must not end up in JSON.
    json.dumps(content, allow_nan=False)


def test_a_tokenizer_with_more_tokens_than_vectors_is_said_when_the_model_is_logged(step, tiny_model_folder, tmp_path):
    model = SentenceTransformer(str(tiny_model_folder), device="cpu")
    model.tokenizer.add_tokens(["sentence"])
    model.save(str(tmp_path / "model"), create_model_card=False)
    words = ['examples=["one sentence"]', f"model.path={tmp_path / 'model'}"]
    code, _, err = step("log_model", "model=local", *words)
    assert code == 1
    line = err.splitlines()[-1]
    assert line.startswith("error: the model loads, but cannot embed the examples of the config (IndexError: ")
    assert "tokenizer/vocabulary: " in line and "word vectors." in line


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_a_model_that_is_stored_in_half_precision_is_logged_in_float32_and_passes(
    step, tiny_model_folder, tiny_suite, tmp_path, stored
):
    import mlflow
    import torch

    model = SentenceTransformer(str(tiny_model_folder), device="cpu").to(getattr(torch, stored))
    model.save(str(tmp_path / "model"), create_model_card=False)
    code, out, err = step("log_model", "model=local", f"model.path={tmp_path / 'model'}")
    assert code == 0, err
    assert f"is stored in {stored}: logged in float32" in err
    native = mlflow.sentence_transformers.load_model(last_json(out)["model_uri"])
    assert {values.dtype for values in native.parameters()} == {torch.float32}
    rounded = {name: values.float() for name, values in model.state_dict().items()}
    assert all(torch.equal(values.cpu(), rounded[name]) for name, values in native.state_dict().items())
    code, _, err = step("validate", f"suite.path={tiny_suite}", "candidates=[]", "latency_calls=2")
    assert code == 0, err


def test_facts_that_the_user_declares_are_required(step, tiny_model_folder, tiny_suite):
    code, _, err = step(
        "log_model", "model=local", f"model.path={tiny_model_folder}", "+model.expected_facts.pooling=cls"
    )
    assert code == 0, err
    code, _, err = step("validate", f"suite.path={tiny_suite}", "candidates=[]", "latency_calls=2")
    assert code == 1
    assert (
        "known/pooling is mean (expected = cls, as local; if mean is meant, log the model again with model.expected_facts.pooling=mean)"
        in err
    )


def test_a_model_that_cannot_predict_fails_its_checks_and_does_not_stop_the_gate():
    def broken():
        raise IndexError("index out of range in self")

    (check,) = quality.guarded("predict", broken)
    assert (check.name, check.passed) == ("predict/runs", False)
    assert check.value == "IndexError: index out of range in self"


def test_suites_that_cannot_be_scored_are_one_failed_check_beside_all_others(step, tiny_run, tiny_suite, monkeypatch):
    import mlflow

    def fail(*given):
        raise RuntimeError("no scores")

    monkeypatch.setattr(gate, "score_all", fail)
    given = [f"suite.path={tiny_suite}", "candidates=[]", "latency_calls=2", "serving.enabled=false"]
    code, out, _ = step("validate", *given)
    assert code == 1
    checks = mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/validation.json")["checks"]
    (failed,) = [check for check in checks if not check["passed"]]
    assert (failed["name"], failed["value"]) == ("quality/runs", "RuntimeError: no scores")
    assert {"serving/inputs", "predict/shape"} <= {check["name"] for check in checks}


def test_with_hydra_full_error_the_gate_shows_where_it_failed(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ZeroDivisionError):
        quality.guarded("predict", lambda: 1 / 0)


# parts


def test_the_same_model_saved_again_has_the_same_facts(own_tiny_model, tmp_path):
    own_tiny_model.save(str(tmp_path / "again"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert facts(again) == facts(own_tiny_model)
    assert all(facts(own_tiny_model).values())


def test_another_number_in_one_weight_is_another_digest(own_tiny_model):
    import torch

    before = identity.parameters_digest(own_tiny_model)
    with torch.no_grad():
        next(own_tiny_model.parameters())[3, 3] += 1e-3
    assert identity.parameters_digest(own_tiny_model) != before


def test_layers_that_changed_places_are_another_digest(own_tiny_model):
    before = identity.parameters_digest(own_tiny_model)
    layers = own_tiny_model[0].auto_model.encoder.layer
    layers[0], layers[1] = layers[1], layers[0]
    assert identity.parameters_digest(own_tiny_model) != before


def test_a_tag_that_an_older_version_did_not_write_is_not_missed():
    assert check_unchanged({"pooling": "mean"}, {"pooling": "mean", "vocabulary": "9"}) == [
        Check("unchanged/pooling", "mean", "= mean", True)
    ]


def test_known_models_are_found_by_their_weights_before_their_name():
    (name, weights, known), *_ = [entry for entry in known_models() if "MiniLM" in entry[0]]
    assert find_known({"hub_id": "mine"}, {}) == ("mine", {})
    assert find_known({"hub_id": "mine", "weights_sha256": weights}, {}) == (name, known)
    assert find_known({"hub_id": "mine"}, {"parameters_sha256": known["parameters_sha256"]}) == (name, known)
    declared = {"hub_id": name, "expected_facts": '{"pooling": "cls"}'}
    assert find_known(declared, {})[1]["pooling"] == "cls"


def test_a_tokenizer_with_more_tokens_than_vectors_does_not_fit(own_tiny_model):
    assert failing(sanity.check_weights(own_tiny_model)) == set()
    own_tiny_model.tokenizer.add_tokens(["entirely", "new"])
    assert failing(sanity.check_weights(own_tiny_model)) == {"tokenizer/vocabulary"}


def test_random_word_vectors_say_nothing_of_a_tokenizer(own_tiny_model):
    assert sanity.check_word_vectors(own_tiny_model) == []


def test_a_shuffled_model_has_the_same_values_in_another_order(own_tiny_model):
    before = copy.deepcopy(own_tiny_model.state_dict())
    twin = sanity.shuffled(own_tiny_model)
    for name, values in own_tiny_model.state_dict().items():
        assert (values == before[name]).all()
        np.testing.assert_array_equal(np.sort(values.flatten()), np.sort(twin.state_dict()[name].flatten()))
    assert identity.parameters_digest(twin) != identity.parameters_digest(own_tiny_model)


def test_what_misses_a_threshold_is_trained_if_it_is_far_from_the_shuffled_one(own_tiny_model):
    def verdict(score, shuffled):
        return [check.passed for check in sanity.check_trained(score, 45.0, lambda other: shuffled, own_tiny_model)]

    assert verdict(46, 20) == []
    assert verdict(float("nan"), 20) == []
    assert verdict(44, 20) == [True]
    assert verdict(25, 20) == [False]
    assert verdict(20, float("nan")) == [False]


def test_hostile_texts_are_survived_or_named():
    def encode(texts):
        if any("\x00" in text for text in texts):
            raise ValueError("null byte")
        return np.array([[1.0, np.nan] if text == "" else [1.0, len(texts)] for text in texts], np.float32)

    checks = {check.name: check for check in check_hostile(encode, "a", 1e-5)}
    assert set(checks) == {f"robust/{name}" for name in HOSTILE}
    assert checks["robust/control_characters"].value == "ValueError: null byte"
    assert checks["robust/empty"].value == "no finite vector"
    assert checks["robust/emoji"].value == 1.0 and not checks["robust/emoji"].passed
    assert failing(check_hostile(lambda texts: np.ones((len(texts), 2), np.float32), "a", 1e-5)) == set()


def test_white_space_that_changes_a_vector_fails_where_the_tokens_are_the_same(own_tiny_model):
    (good,) = check_white_space(encoder(own_tiny_model), own_tiny_model, SENTENCES, 1e-5)
    assert good.passed and good.threshold == "<= 1e-05"
    (bad,) = check_white_space(
        lambda texts: encoder(own_tiny_model)(texts) * np.array([[len(text)] for text in texts]),
        own_tiny_model,
        SENTENCES,
        1e-5,
    )
    assert not bad.passed


def test_only_one_answer_to_everything_is_constant():
    assert failing(check_output(np.ones((3, 2)), 0.999)) == {"embeddings/constant"}
    assert failing(check_output(np.array([[1.0, 0], [1, 0], [0, 1]]), 0.999)) == set()
    assert check_output(np.full((3, 2), np.nan), 0.999) == []


# suites and the champion


def put_pairs(path, *rows):
    path.write_text("".join(json.dumps(dict(zip(("sentence1", "sentence2", "score"), row))) + "\n" for row in rows))
    return path


def test_several_suites_are_scored_in_one_run(step, tiny_run, tiny_suite, tmp_path):
    import mlflow

    paraphrases = put_pairs(tmp_path / "same.jsonl", ("the cat", "the cat", 1), ("a red car", "big river stone", 0))
    code, out, err = step(
        "validate",
        "--suite",
        "[stsb, paraphrase, retrieval]",
        f"suites.stsb.path={tiny_suite}",
        f"suites.paraphrase.path={paraphrases}",
        "suites.paraphrase.score=score",
        "suites.retrieval.threshold=0",
        "candidates=[]",
        "latency_calls=2",
    )
    assert code == 0, err
    run = mlflow.get_run(last_json(out)["run_id"])
    logged = {metric.key: metric for metric in mlflow.get_logged_model(tiny_run["model_id"]).metrics}
    for name in (
        "quality/stsb/spearman",
        "quality/stsb/spearman_low",
        "quality/paraphrase/average_precision",
        "quality/retrieval/ndcg_at_10",
        "quality/retrieval/mrr_at_10",
        "quality/retrieval/recall_at_10",
    ):
        assert run.data.metrics[name] == logged[name].value
        assert logged[name].dataset_name == name.split("/")[1]
    assert run.data.metrics["quality/paraphrase/average_precision"] == 100
    content = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/validation.json")
    assert [suite["name"] for suite in content["suites"]] == ["paraphrase", "retrieval", "stsb"]
    assert run.data.params["suites.stsb.path"] == str(tiny_suite)
    figures = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "figures")}
    assert {
        f"figures/{name}.svg"
        for name in ("suites", "agreement-stsb", "agreement-retrieval", "sentences", "corpus", "backends", "latency")
    } <= figures


def test_a_worse_model_regresses_beside_the_champion(step, tiny_run, tiny_model_folder, tmp_path):
    """Pairs that the champion gets right by construction: each grade is its own cosine."""
    import mlflow

    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(TINY_WORDS[:23], 4)) for _ in range(80)]
    champion = SentenceTransformer(str(tiny_model_folder), device="cpu")
    vectors = champion.encode(texts)
    rows = [(texts[i], texts[i + 1], float(vectors[i] @ vectors[i + 1])) for i in range(0, 80, 2)]
    path = put_pairs(tmp_path / "own.jsonl", *rows)
    other = save_broken("random weights", champion, tmp_path / "other")
    assert step("log_model", "model=local", f"model.path={other}")[0] == 0
    words = [f"suite.path={path}", "suite.threshold=-100", "candidates=[]", "latency_calls=2"]
    words += [f"champion={tiny_run['run_id']}"]
    code, out, err = step("validate", *words, "comparison.max_loss=200")
    assert code == 0, err
    assert "no, worse than the champion: " in out
    content = mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/validation.json")
    assert content["regressed"] == ["own"]
    assert content["suites"][0]["champion"]["reading"] == "worse"
    assert "own" in out and "(worse)" in out
    code, _, err = step("validate", *words, "suite.max_loss_to_champion=0.5")
    assert code == 1
    # By the demand of the suite, and by comparison.max_loss over all suites.
    assert "quality/own/beside_champion" in err and "comparison/champion is -" in err


def test_one_setting_for_several_suites_says_which_to_type(step):
    code, _, err = step("validate", "suite=[builtin,retrieval]", "suite.threshold=3")
    assert code == 1
    assert "suites.builtin.threshold=<value>" in err
