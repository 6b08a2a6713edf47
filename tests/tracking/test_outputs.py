"""The outputs of encode, as their runs tell of them."""

import mlflow
import pytest
from helpers.errors import refusal
from helpers.outputs import ORIGIN

from steps.common.tracking import outputs


@pytest.fixture
def encoded(store):
    """A run of encode with the model m-1 that tells where its output is, ended as given; returns its ID."""

    def make(where: str, status: str, *, rows: int | None = None) -> str:
        with mlflow.start_run() as run:
            mlflow.set_tags({"step": "encode", "model_id": ORIGIN.model_id})
            outputs.tag_origin(ORIGIN, where)
            if rows is not None:
                mlflow.log_metric("encode/rows", rows)
        mlflow.MlflowClient().set_terminated(run.info.run_id, status)
        return run.info.run_id

    return make


def test_outputs_of_a_model_are_found_with_their_state_the_newest_first(encoded):
    stopped, ended = encoded("/there", "KILLED"), encoded("/there", "FINISHED", rows=5)
    failed, running = encoded("/elsewhere", "FAILED"), encoded("/running", "RUNNING")
    with mlflow.start_run():
        mlflow.set_tags({"step": "encode", "model_id": "m-2"})
    found = outputs.find_outputs("m-1")
    assert [(one.run_id, one.state, one.place, one.rows) for one in found] == [
        (running, "being written", "/running", None),
        (failed, "not whole", "/elsewhere", None),
        (ended, "whole", "/there", 5),
        (stopped, "whole, by another run", "/there", None),
    ]
    assert {(one.backend, one.registered_version) for one in found} == {(ORIGIN.backend, ORIGIN.registered_version)}


def test_only_a_finished_run_of_encode_holds_embeddings(encoded):
    assert outputs.find_place(mlflow.get_run(encoded("/there", "FINISHED"))) == "/there"
    run_id = encoded("/there", "FAILED")
    message = refusal(outputs.find_place, mlflow.get_run(run_id))
    assert message.startswith(f"run {run_id} holds no embeddings (it is a run of encode, FAILED)")


def test_an_artifact_that_is_not_there_is_one_line(store, tmp_path):
    where = f"runs:/{mlflow.MlflowClient().create_run('0').info.run_id}/embeddings"
    assert f"output {where} cannot be read from its run: " in refusal(outputs.open_output, where, tmp_path)
