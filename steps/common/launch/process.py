"""Life of a step: command line -> config -> MLflow run -> exit code.

A step script calls `launch(step, main)`; its `main(cfg)` opens the run with `with run(step, cfg):`.
Under `mlflow run` that is the run MLflow has created (MLFLOW_RUN_ID), else a new one.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import hydra
from omegaconf import DictConfig

from steps.common.errors import Stopped, UserError, one_line
from steps.common.launch import arguments
from steps.common.launch.check import check
from steps.common.launch.overrides import quote
from steps.common.project import CONF
from steps.common.tracking.run import MAX_PARAM_LENGTH, set_experiment
from steps.common.tracking.server import reach_tracking_server

logger = logging.getLogger("steps")


NOT_RESUMABLE = "only an encode with an output can go on: -P output=<folder>"


@dataclass
class _Launch:
    """How this process was started: the overrides of its command line, whether they are a sweep, and by `mlflow run`."""

    typed: list[str] = field(default_factory=list)
    sweep: bool = False
    by_mlflow: bool = False


launched = _Launch()


def launch(
    step: str, main: Callable[[DictConfig], None], before: Callable[[list[str]], None] = lambda overrides: None
) -> None:
    """Run a step script: check the command line, then hand the config to `main`.

    `before` may check what the overrides name before Hydra starts.

    Exits with 1 after one line on stderr when the user can put it right, 130 after Ctrl-C, 143 after
    SIGTERM. HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    _quiet_libraries()
    _log_to_stderr()
    signal.signal(signal.SIGTERM, _stop)
    arguments.register_schemas()
    try:
        given = arguments.translate(step, sys.argv[1:])
        launched.typed, launched.sweep = given.overrides, given.multirun
        # mlflow forgets the variable once the run is taken over.
        launched.by_mlflow = bool(os.environ.get("MLFLOW_RUN_ID"))
        if not given.own_config:
            check(step, given.overrides, given.multirun, complete=given.runs_the_step)
        if given.runs_the_step:
            before(given.overrides)
        _run_hydra(step, main, given)
    except UserError as error:
        _exit_with(error)
    except KeyboardInterrupt:
        _interrupted("interrupted (Ctrl-C)", 130)
    except Stopped:
        _interrupted("stopped (SIGTERM)", 143)


def _run_hydra(step: str, main: Callable[[DictConfig], None], given: arguments.Arguments) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        # Hydra writes nothing: what it would put into outputs/ are artifacts of the run, and logging is ours.
        settings = {
            "hydra.run.dir": ".",
            "hydra.sweep.dir": scratch,
            "hydra.sweep.subdir": ".",
            "hydra.output_subdir": "null",
            "hydra/job_logging": "none",
            "hydra/hydra_logging": "none",
            "hydra.help.header": quote((sys.modules["__main__"].__doc__ or step).strip()),
            "hydra.help.footer": "''",
        }
        sys.argv[1:] = given.flags + [f"{key}={value}" for key, value in settings.items()] + given.overrides
        task = _Task(step, main, given.multirun)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=step)(task.run)()
        task.finish()


def _exit_with(error: BaseException):
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    _tag_waiting_run(one_line(error))
    sys.exit(1)


def _tag_waiting_run(reason: str) -> None:
    """Write the reason on the run that `mlflow run` made for us, where the step failed before it took it over."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        import mlflow

        with contextlib.suppress(mlflow.MlflowException, UserError):
            reach_tracking_server(mlflow.get_tracking_uri())
            mlflow.MlflowClient().set_tag(run_id, "error", reason[:MAX_PARAM_LENGTH])


def _interrupted(what: str, code: int):
    print(
        f"{what}: what was finished is kept, and the run, if it had started, is marked KILLED.",
        file=sys.stderr,
        flush=True,
    )
    sys.exit(code)


def _stop(signum, frame):
    raise Stopped


class _Task:
    """What Hydra calls: once for a plain run, once for each job of a sweep."""

    def __init__(self, step: str, main: Callable[[DictConfig], None], multirun: bool):
        self.step, self.main, self.multirun = step, main, multirun
        self.parent = contextlib.ExitStack()
        self.failures = 0

    def run(self, cfg: DictConfig) -> None:
        try:
            if self.multirun:
                self._open_parent()
            self.main(cfg)
        except (KeyboardInterrupt, Stopped):
            if self.multirun:
                self._close_parent("KILLED")
            raise
        except Exception as error:
            if not self.multirun:
                _exit_with(error)
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
            self.failures += 1

    def _open_parent(self) -> None:
        import mlflow

        if mlflow.active_run() is None:
            set_experiment()
            self.parent.enter_context(mlflow.start_run())
            mlflow.set_tag("step", f"{self.step}_sweep")

    def _close_parent(self, status: str) -> None:
        import mlflow

        self.parent.pop_all()
        mlflow.end_run(status)

    def finish(self) -> None:
        """Close the parent of a sweep, as failed if one of its jobs did."""
        if not self.failures:
            self.parent.close()
            return
        import mlflow

        error = UserError(f"{self.failures} job(s) of the sweep failed; their own messages are above.")
        mlflow.set_tag("error", one_line(error))
        self._close_parent("FAILED")
        _exit_with(error)


def _quiet_libraries() -> None:
    """Settings that libraries read when they are imported."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def active_run():
    """The active run; None where there is none, as in a step that was stopped before it imported mlflow."""
    mlflow = sys.modules.get("mlflow")
    return mlflow.active_run() if hasattr(mlflow, "active_run") else None
