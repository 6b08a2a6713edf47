"""What is told to MLflow while a step computes, and an output that a run holds."""

import queue
import time

import mlflow
import pytest
from helpers.errors import refusal
from helpers.outputs import finish, put_part, table_of
from helpers.parts import output_of
from mlflow.exceptions import MlflowException

from steps.common.embeddings.verify import read_manifest
from steps.common.tracking import live

# Seconds after which a test that waits for another thread has failed.
PATIENCE = 20


@pytest.fixture
def held(store, tmp_path) -> live.FinishedRunOutput:
    """An output of three rows that a run holds as artifacts."""
    output = output_of(tmp_path / "made")
    finish(output, put_part(output, 0, table_of(0, 3)))
    with mlflow.start_run() as run:
        for name in output.names():
            mlflow.log_artifact(str(tmp_path / "made" / name), live.EMBEDDINGS)
    return live.FinishedRunOutput(run.info.run_id, tmp_path / "scratch")


def test_an_output_that_a_run_holds_is_fetched_file_by_file_and_nothing_stays(held, tmp_path):
    part = "part-00000.parquet"
    assert {part, "manifest.json"} <= set(held.names())
    content = (tmp_path / "made" / part).read_bytes()
    assert (held.size(part), held.read_bytes(part)) == (len(content), content)
    (known,) = read_manifest(held).parts
    assert held.facts(part) == (known.bytes, known.sha256)
    with held.opened(part) as file:
        assert file.read() == content
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []


def test_a_file_that_a_run_does_not_hold_is_named_with_the_run(held):
    assert held.size("part-00001.parquet") is None
    assert refusal(held.read_bytes, "part-00001.parquet") == f"{held}/part-00001.parquet does not exist."
    assert str(held).startswith("runs:/") and str(held).endswith("/embeddings")


@pytest.fixture
def logged(monkeypatch) -> queue.Queue:
    """The metrics as they are logged, a moment after they are known."""
    metrics: queue.Queue = queue.Queue()
    monkeypatch.setattr(live, "LIVE_SECONDS", 0.01)
    monkeypatch.setattr(
        mlflow.MlflowClient, "log_metric", lambda _, run_id, name, value, step: metrics.put((name, value, step))
    )
    return metrics


def test_what_is_done_is_logged_with_its_rate(store, logged):
    with live.LiveMetrics("some-run") as metrics:
        for done in (5, 8):
            metrics.rows(done)
            while logged.get(timeout=PATIENCE) != ("encode/rows_done", done, done):
                pass
        name, rate, step = logged.get(timeout=PATIENCE)
    assert (name, step) == ("encode/rows_per_second_now", 8) and rate > 0


def test_a_server_that_is_away_is_said_once_and_so_is_its_return(store, logged, monkeypatch, log_messages):
    answers = iter([MlflowException("gone"), MlflowException("gone")])
    log_metric, asked = mlflow.MlflowClient.log_metric, queue.Queue()

    def answer(*given, **named):
        asked.put(True)
        if (error := next(answers, None)) is not None:
            raise error
        log_metric(*given, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_metric", answer)
    with live.LiveMetrics("some-run") as metrics:
        for done in (1, 2, 3):
            metrics.rows(done)
            asked.get(timeout=PATIENCE)
        end = time.monotonic() + PATIENCE
        while len(log_messages) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    assert log_messages == [
        "the tracking server does not answer, encoding continues: gone",
        "the tracking server answers again",
    ]


def test_of_the_runs_that_began_an_output_those_without_an_end_are_marked(store):
    client = mlflow.MlflowClient()
    lost, ended, own = (client.create_run("0").info.run_id for _ in range(3))
    client.set_terminated(ended, "FAILED")
    live.close_lost_runs([lost, ended, own], own)
    assert [client.get_run(run).info.status for run in (lost, ended, own)] == ["KILLED", "FAILED", "RUNNING"]
    assert client.get_run(lost).data.tags["error"] == f"ended without a final status; run {own} resumed its output"


def test_a_lost_run_that_the_server_does_not_have_is_a_line_in_the_log(store, log_messages):
    live.close_lost_runs(["f" * 32], "by")
    (line,) = log_messages
    assert line.startswith(f"run {'f' * 32}, which began this output, is not marked KILLED: ")
