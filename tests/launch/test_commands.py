"""The commands that a step prints: in the form in which the user typed the one that ran."""

import shlex

import mlflow
import pytest

from steps.common.launch import commands
from steps.common.launch.commands import as_typed, next_command
from steps.common.tracking.run import StepRun

TYPED = {"mlflow.project.entryPoint": "main", "mlflow.project.env": "uv"}

# What mlflow writes for a step that main runs in its own environment.
NESTED = {"mlflow.project.entryPoint": "encode", "mlflow.project.env": "local"}


def begun(tags: dict[str, str], below: dict[str, str] | None) -> StepRun:
    """A run with these tags, of encode; where `below` is given, nested in a run with those."""
    client = mlflow.MlflowClient()
    if below is not None:
        tags = tags | {"mlflow.parentRunId": client.create_run("0", tags=below).info.run_id}
    return StepRun(client.create_run("0", tags=tags), "encode")


@pytest.mark.parametrize(
    "tags, below, expected",
    [
        (TYPED, None, "-e verify -P output=out --env-manager uv"),
        (NESTED, TYPED | {"step": "main"}, "-e verify -P output=out --env-manager uv"),
        (NESTED, TYPED | {"step": "main", "mlflow.project.env": "conda"}, "-e verify -P output=out"),
        (NESTED, {"step": "main"}, "python -m steps.verify output=out"),
        ({}, TYPED | {"step": "encode_sweep"}, "-e verify -P output=out --env-manager uv"),
        (NESTED, {}, "-e verify -P output=out --env-manager local"),
    ],
    ids=["alone", "in main", "in main with conda", "in main by hand", "in a sweep", "in a run of another program"],
)
def test_the_next_command_has_the_form_in_which_the_user_typed_this_one(store, tags, below, expected):
    assert next_command("verify", begun(tags, below), output="out").endswith(expected)


HINT = "Run it first (mlflow run . -e log_model), or give -P run_id=<run ID>."


@pytest.mark.parametrize(
    "words, expected",
    [
        (". -e encode --env-manager uv -P run_id=latest", "mlflow run . -e log_model --env-manager uv"),
        ("--env-manager=uv -Pcorpus=a.csv .", "mlflow run . -e log_model --env-manager=uv"),
        (
            "--run-name a https://host/p.git#sub -v 1f2 --build-image --experiment-name 'my own' --entry-point encode",
            "mlflow run 'https://host/p.git#sub' -e log_model -v 1f2 --build-image --experiment-name 'my own'",
        ),
    ],
)
def test_a_hint_of_an_error_has_the_project_version_environment_and_experiment_that_were_typed(
    monkeypatch, words, expected
):
    monkeypatch.setattr(commands, "typed_words", lambda: shlex.split(words))
    assert as_typed(HINT, by_mlflow=True) == HINT.replace("mlflow run . -e log_model", expected)


def test_a_hint_stays_as_it_is_where_nobody_typed_mlflow_run(monkeypatch):
    monkeypatch.setattr(commands, "typed_words", list)
    assert as_typed(HINT, by_mlflow=True) == HINT


def test_a_hint_of_a_step_that_was_started_with_python_is_for_python():
    assert as_typed(HINT, by_mlflow=False) == "Run it first (python -m steps.log_model), or give run_id=<run ID>."
    assert as_typed("Type -P query=\"a red car\" -P 'k=v w', no-P x.", by_mlflow=False) == (
        "Type query=\"a red car\" 'k=v w', no-P x."
    )
