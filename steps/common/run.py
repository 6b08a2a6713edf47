# move: common/tracking/run.py
"""The MLflow run of a step: started or taken over, and ended with its status, its reason and its log."""

import contextlib
import os

import mlflow
from mlflow.entities import Run

from steps.common import server
from steps.common.project import MAX_PARAM_LENGTH, _set_experiment


class StepRun(Run):
    """The run of a step, with the name of its experiment and its tracking server as it may be shown."""

    def __init__(self, run: Run):
        super().__init__(run.info, run.data, run.inputs, run.outputs)
        self.experiment = mlflow.get_experiment(run.info.experiment_id).name
        self.server = server.without_password(mlflow.get_tracking_uri())


def start_sweep(step: str) -> None:
    """Start the run that holds the runs of a sweep's jobs.

    Raises:
        UserError: the tracking server cannot be reached.
    """
    server.check_reachable()
    _set_experiment()
    mlflow.start_run()
    mlflow.set_tag("step", f"{step}_sweep")


def end_sweep(status: str, reason: str | None = None) -> None:
    """End the run of a sweep; `reason` becomes its tag `error`."""
    if status == "KILLED":
        server.give_up()
    with server.optional(f"the run of the sweep is not marked {status}"):
        if reason is not None:
            mlflow.set_tag("error", reason)
        mlflow.end_run(status)


def tag_waiting_run(reason: str) -> None:
    """Tag the run that `mlflow run` made for this step with why the step failed before it took it over."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        server.give_up()
        with contextlib.suppress(mlflow.MlflowException):
            mlflow.MlflowClient().set_tag(run_id, "error", reason[:MAX_PARAM_LENGTH])
