"""The commands that a step prints: in the form in which the user typed the one that ran."""

import mlflow
import pytest

from steps.common.launch.commands import next_command
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
