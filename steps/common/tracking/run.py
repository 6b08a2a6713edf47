"""The MLflow run of a step: begin it, log its config, end it."""

import contextlib
import logging
import os
import re
import signal
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelInput, Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from steps.common.embeddings.plan import flatten
from steps.common.errors import KILLED, Stopped, UserError, clip, one_line
from steps.common.tracking import server
from steps.common.tracking.system import system_metrics

logger = logging.getLogger("steps")

EXPERIMENT = "Introduction to Sentence Transformers"

# Tag that mlflow gives a run: the commit of the project.
COMMIT = "mlflow.source.git.commit"

# mlflow cuts longer values silently.
MAX_PARAM_LENGTH = 6000

# Letters of a name, of which a question may have any number.
MAX_NAME = 80

# A name that mlflow made up.
GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")


class StepRun(Run):
    """The run of a step, with the name of its experiment and its tracking server as it may be shown."""

    def __init__(self, run: Run, step: str):
        super().__init__(run.info, run.data, run.inputs, run.outputs)
        self._step = step
        name = run.info.run_name or ""
        self._may_be_named = name == step or GENERATED_NAME.fullmatch(name) is not None
        self.experiment = mlflow.get_experiment(run.info.experiment_id).name
        self.server = server.without_password(mlflow.get_tracking_uri())
        # Of the run that was typed: main runs its steps with another manager than it was run with itself.
        self.typed_tags = _typed_tags(run)

    def name_tag(self, what: str = "") -> dict[str, str]:
        """The tag that names the run by its step and what it did; none where the user has named it."""
        return {MLFLOW_RUN_NAME: f"{self._step} {what}".rstrip()} if self._may_be_named else {}

    def name(self, what: str) -> None:
        """Name the run by what it did; what tells runs of its step apart comes first, since MLflow's pages cut long names."""
        mlflow.set_tags(self.name_tag(clip(what, MAX_NAME)))

    def describe(self, what: str, note: str) -> None:
        """Name the run by what it did, and describe it, in Markdown."""
        mlflow.set_tags({MLFLOW_RUN_NOTE: note, **self.name_tag(what)})


def _typed_tags(run: Run) -> dict[str, str]:
    """The tags of the run that the user's command began: of the parent, where that is main or a sweep, else of the run itself."""
    parent_id = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    parent = mlflow.get_run(parent_id).data.tags if parent_id else {}
    # A program may run steps below a run of its own.
    return parent if "step" in parent else run.data.tags


@contextlib.contextmanager
def log_file(step: str) -> Iterator[logging.FileHandler]:
    """The log of a step, in a file that is kept until the run has it."""
    with tempfile.TemporaryDirectory() as folder:
        log = logging.FileHandler(Path(folder) / f"{step}.log", encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(log)
        try:
            yield log
        finally:
            logger.removeHandler(log)
            log.close()


def start_sweep(step: str) -> None:
    """Start the run that holds the runs of a sweep's jobs; raises UserError for a server that cannot be reached."""
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


def _set_experiment() -> None:
    """Choose the experiment of a run that we create; one that `mlflow run` created has its own already."""
    chosen = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    if not any(os.environ.get(name) for name in chosen):
        mlflow.set_experiment(EXPERIMENT)


@contextlib.contextmanager
def run(step: str, config: dict[str, Any], as_yaml: str, *, measured: bool = False) -> Iterator[StepRun]:
    """Start or take over the step's MLflow run; log its config now, and its log when it ends.

    Args:
        measured: log how busy the machine is meanwhile.

    The run ends FINISHED, or with the reason in the tag `error` FAILED or KILLED. (After Ctrl-C the launcher of
    mlflow 3.17.2 writes FAILED over KILLED; the tag stays.) Raises UserError where the server cannot be reached.
    """
    server.check_reachable()
    _set_experiment()
    with server.patience(), log_file(step) as log, contextlib.ExitStack() as measuring:
        nested, own_monitor = mlflow.active_run() is not None, False if measured else None
        active = mlflow.start_run(run_name=step, nested=nested, log_system_metrics=own_monitor)
        status, why = "FINISHED", None
        stopped: BaseException | None = None
        try:
            step_run = StepRun(active, step)
            mlflow.set_tags({"step": step, **step_run.name_tag()})
            log_config(config, as_yaml, active.info.run_id)
            where = f"{active.info.experiment_id} on {server.without_password(mlflow.get_tracking_uri())}"
            logger.info("%s: run %s of experiment %s", step, active.info.run_id, where)
            if measured:
                measuring.enter_context(system_metrics(active.info.run_id))
            yield step_run
        except (KeyboardInterrupt, Stopped) as stop:
            # After Ctrl-C `mlflow run` sends SIGTERM as well; what follows is to be finished.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            server.give_up()
            status, stopped = "KILLED", stop
            why = "stopped (SIGTERM)" if isinstance(stop, Stopped) else "interrupted (Ctrl-C)"
            raise
        except BaseException as error:
            if server.is_away(error):
                server.give_up()
            status, why = "FAILED", one_line(error)
            if not isinstance(error, UserError):
                _write_line(log, traceback.format_exc())
            _write_line(log, f"error: {why}")
            raise
        finally:
            if _end_run(status, why, log) and stopped is not None:
                stopped.add_note(KILLED)


def _write_line(handler: logging.Handler, text: str) -> None:
    """Write to the run's log only; stderr gets the line once, when the step exits."""
    handler.emit(logging.makeLogRecord({"levelname": "ERROR", "msg": text}))


def _end_run(status: str, why: str | None, log: logging.FileHandler) -> bool:
    """Log the reason and the log, and end the run; where a failed step cannot do that, it is a warning, not an error.

    Returns whether the run is ended.
    """
    with server.optional("the run does not have its log"):
        mlflow.log_artifact(log.baseFilename)
    if why is None:
        mlflow.end_run(status)
        return True
    ended = False
    with server.optional(f"the run is not marked {status}"):
        mlflow.set_tag("error", why[:MAX_PARAM_LENGTH])
        mlflow.end_run(status)
        ended = True
    return ended


def log_config(config: dict[str, Any], as_yaml: str, run_id: str) -> None:
    """Log a config as `config.yaml`, the truth, and flattened as params, for comparing runs.

    `mlflow run` has logged the parameters it was given, quoted for the shell, and a param cannot be changed: keys that
    the run has already are left alone.
    """
    mlflow.log_text(as_yaml, "config.yaml")
    client = mlflow.MlflowClient()
    held = client.get_run(run_id).data.params
    params = [Param(key, shorten(str(value))) for key, value in flatten(config).items() if key not in held]
    client.log_batch(run_id, params=params)


def shorten(text: str, limit: int = MAX_PARAM_LENGTH) -> str:
    """A param's value cut to the length that mlflow takes, with a note that it was cut."""
    mark = "... (cut, see config.yaml)"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def tag_upstream(upstream_run_id: str, model_id: str) -> None:
    """Tag the active run with the run and the model it uses, and link the model to it as an input."""
    mlflow.set_tags({"upstream_run_id": upstream_run_id, "model_id": model_id})
    run_id = mlflow.active_run().info.run_id
    mlflow.MlflowClient().log_inputs(run_id, models=[LoggedModelInput(model_id)])
