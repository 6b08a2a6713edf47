"""The run of a step: its name, and its config as params."""

import mlflow
import pytest

from steps.common.tracking import run as runs


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("encode", {"mlflow.runName": "encode minilm"}),
        ("adventurous-ape-17", {"mlflow.runName": "encode minilm"}),
        ("mine", {}),
    ],
)
def test_a_run_that_the_user_has_named_keeps_its_name(store, name, tag):
    with mlflow.start_run(run_name=name) as run:
        assert runs.StepRun(run, "encode").name_tag("minilm") == tag


def test_a_config_is_flattened_and_what_mlflow_run_has_logged_is_left_alone(store):
    config = {"given": "now", "node": {"a": 1, "b": None}} | {f"key{i}": i for i in range(100)}
    with mlflow.start_run() as run:
        mlflow.log_param("given", "'before'")
        runs.log_config(config, "given: now", run.info.run_id)
    held = mlflow.get_run(run.info.run_id).data.params
    assert held == {"given": "'before'", "node.a": "1", "node.b": "None"} | {f"key{i}": str(i) for i in range(100)}
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/config.yaml") == "given: now"


def test_a_value_that_is_too_long_for_mlflow_is_cut_and_says_so():
    assert runs.shorten("a" * 40, 40) == "a" * 40
    assert runs.shorten("a" * 41, 40) == "a" * 14 + "... (cut, see config.yaml)"


def test_a_step_that_failed_before_it_had_its_run_leaves_the_reason_in_the_one_that_waits(store, monkeypatch):
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    runs.tag_waiting_run("nobody waits")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    runs.tag_waiting_run("no such corpus")
    assert mlflow.get_run(run_id).data.tags["error"] == "no such corpus"
