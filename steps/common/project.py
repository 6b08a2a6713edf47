"""Life of a step: command line -> config -> MLflow run -> exit code.

A step script calls `launch(step, main)`; its `main(cfg)` opens the run with `with run(step, cfg):`.
Under `mlflow run` that is the run MLflow has created (MLFLOW_RUN_ID), else a new one.
"""

import contextlib
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from steps.common import arguments, inputs
from steps.common.arguments import CONF, PROJECT
from steps.common.errors import UserError
from steps.common.plan import flatten

if TYPE_CHECKING:
    from steps.common.run import StepRun

EXPERIMENT = "Introduction to Sentence Transformers"

# mlflow cuts longer values silently, and takes 100 params in a batch.
MAX_PARAM_LENGTH = 6000
MAX_PARAM_BATCH = 100

logger = logging.getLogger("steps")

NOT_RESUMABLE = "only an encode with an output can go on: -P output=<folder>"


@dataclass
class _Launch:
    """How this process was started: the overrides of its command line, whether they are a sweep, and by `mlflow run`."""

    typed: list[str] = field(default_factory=list)
    sweep: bool = False
    by_mlflow: bool = False


_launched = _Launch()


class Stopped(BaseException):
    """SIGTERM arrived. Not an Exception, so that no step takes it for a failure of its own."""


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
        _launched.typed, _launched.sweep = given.overrides, given.multirun
        # mlflow forgets the variable once the run is taken over.
        _launched.by_mlflow = bool(os.environ.get("MLFLOW_RUN_ID"))
        if not given.own_config:
            arguments.check(step, given.overrides, given.multirun, complete=given.runs_the_step)
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
            "hydra.help.template": arguments.quote(
                arguments.help_template(step, sys.modules["__main__"].__doc__ or step)
            ),
        }
        sys.argv[1:] = given.flags + [f"{key}={value}" for key, value in settings.items()] + given.overrides
        jobs = _Jobs(step, main, given.multirun)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=step)(jobs.run)()
        jobs.finish()


def _exit_with(error: BaseException):
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    if os.environ.get("MLFLOW_RUN_ID"):
        from steps.common import run

        run.tag_waiting_run(one_line(error))
    sys.exit(1)


def _interrupted(what: str, code: int):
    print(
        f"{what}: what was finished is kept, and the run, if it had started, is marked KILLED.",
        file=sys.stderr,
        flush=True,
    )
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """The message of an error, on one line; an error nobody foresaw also gets its type and where to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text} (set HYDRA_FULL_ERROR=1 for the traceback)"


def _stop(signum, frame):
    raise Stopped


class _Jobs:
    """What Hydra calls: once for a plain run, once for each job of a sweep."""

    def __init__(self, step: str, main: Callable[[DictConfig], None], sweep: bool):
        self._step, self._main, self._sweep = step, main, sweep
        self._started, self._failed = False, 0

    def run(self, cfg: DictConfig) -> None:
        try:
            if self._sweep and not self._started:
                self._start_sweep()
            self._main(cfg)
        except (KeyboardInterrupt, Stopped):
            self._end_sweep("KILLED")
            raise
        except Exception as error:
            if not self._started:
                _exit_with(error)
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
            self._failed += 1

    def finish(self) -> None:
        """End the run of a sweep, as failed if one of its jobs did."""
        if not self._failed:
            self._end_sweep("FINISHED")
            return
        error = UserError(f"{self._failed} job(s) of the sweep failed; their own messages are above.")
        self._end_sweep("FAILED", one_line(error))
        raise error

    def _start_sweep(self) -> None:
        from steps.common import run

        run.start_sweep(self._step)
        self._started = True

    def _end_sweep(self, status: str, reason: str | None = None) -> None:
        if self._started:
            from steps.common import run

            run.end_sweep(status, reason)


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


def _set_experiment() -> None:
    """Choose the experiment of a run that we create; one that `mlflow run` created has its own already."""
    import mlflow

    chosen = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    if not any(os.environ.get(name) for name in chosen):
        mlflow.set_experiment(EXPERIMENT)


@contextlib.contextmanager
def run(step: str, config: dict[str, Any], as_yaml: str) -> Iterator["StepRun"]:
    """Start or take over the step's MLflow run; log its config (of `resolve`) now, and its log when it ends.

    The run ends FINISHED, or with the reason in the tag `error` FAILED or KILLED. (After Ctrl-C the launcher of
    mlflow 3.17.2 writes FAILED over KILLED; the tag stays.)

    Raises:
        UserError: the tracking server cannot be reached.
    """
    import mlflow

    from steps.common import server
    from steps.common.run import StepRun

    server.check_reachable()
    _set_experiment()
    with server.patience(), _log_file(step) as log:
        # The name holds for a run we create; one that `mlflow run` created has its name already.
        active = mlflow.start_run(run_name=step, nested=mlflow.active_run() is not None)
        status, why = "FINISHED", None
        try:
            mlflow.set_tag("step", step)
            log_config(config, as_yaml, active.info.run_id)
            where = f"{active.info.experiment_id} on {server.without_password(mlflow.get_tracking_uri())}"
            logger.info("%s: run %s of experiment %s", step, active.info.run_id, where)
            yield StepRun(active)
        except (KeyboardInterrupt, Stopped) as stop:
            # After Ctrl-C `mlflow run` sends SIGTERM as well; what follows is to be finished.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            server.give_up()
            status = "KILLED"
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
            _end_run(status, why, log)


@contextlib.contextmanager
def _log_file(step: str) -> Iterator[logging.FileHandler]:
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


def _write_line(handler: logging.Handler, text: str) -> None:
    """Write to the run's log only; stderr gets the line once, when the step exits."""
    handler.emit(logging.LogRecord("steps", logging.ERROR, __file__, 0, text, None, None))


def _end_run(status: str, why: str | None, log: logging.FileHandler) -> None:
    """Log the reason and the log, and end the run; of a step that failed, the user has to hear of its own failure only."""
    import mlflow

    from steps.common import server

    with server.optional("the run does not have its log"):
        mlflow.log_artifact(log.baseFilename)
    if why is None:
        mlflow.end_run(status)
        return
    with server.optional(f"the run is not marked {status}"):
        mlflow.set_tag("error", why[:MAX_PARAM_LENGTH])
        mlflow.end_run(status)


def resolve(cfg: DictConfig) -> tuple[dict[str, Any], str]:
    """A config with its interpolations resolved, as plain values and as YAML."""
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True), OmegaConf.to_yaml(cfg, resolve=True)


def log_config(config: dict[str, Any], as_yaml: str, run_id: str) -> None:
    """Log a config as `config.yaml`, the truth, and flattened as params, for comparing runs.

    `mlflow run` has logged the parameters it was given, quoted for the shell, and a param cannot be changed: keys that
    the run has already are left alone.
    """
    import mlflow
    from mlflow.entities import Param

    mlflow.log_text(as_yaml, "config.yaml")
    client = mlflow.MlflowClient()
    held = client.get_run(run_id).data.params
    params = [Param(key, shorten(str(value))) for key, value in flatten(config).items() if key not in held]
    for start in range(0, len(params), MAX_PARAM_BATCH):
        client.log_batch(run_id, params=params[start : start + MAX_PARAM_BATCH])


def shorten(text: str, limit: int = MAX_PARAM_LENGTH) -> str:
    """A param's value cut to the length that mlflow takes, with a note that it was cut."""
    mark = "... (cut, see config.yaml)"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def tag_upstream(upstream_run_id: str, model_id: str) -> None:
    """Tag the active run with the run and the model it uses, and link the model to it as an input."""
    import mlflow
    from mlflow.entities import LoggedModelInput

    mlflow.set_tags({"upstream_run_id": upstream_run_id, "model_id": model_id})
    run_id = mlflow.active_run().info.run_id
    mlflow.MlflowClient().log_inputs(run_id, models=[LoggedModelInput(model_id)])


def next_command(step: str, run: "StepRun | None", **parameters: str) -> str:
    """The command for the next step, in the form in which this one was typed: same project, version, environment and experiment.

    Args:
        run: of this step; None where it has none yet.
    """
    tags = run.data.tags if run else {}
    if run is None or "mlflow.project.entryPoint" not in tags:
        rest = shlex.split(parameters.pop("overrides", ""))
        keys = arguments.ALIASES.get(step, {})
        words = [f"{keys.get(name, name)}={_as_typed(value)}" for name, value in parameters.items()]
        return shlex.join(["python", "-m", f"steps.{step}", *words, *rest])
    words = ["mlflow", "run", _project_uri(tags), "-e", step]
    if inputs.is_temporary_clone():
        words += ["-v", tags["mlflow.source.git.commit"]]
    for key, value in parameters.items():
        words += ["-P", f"{key}={value}"]
    manager = tags.get("mlflow.project.env", "local")
    if manager != "conda":
        words += ["--env-manager", manager]
    if run.info.experiment_id != "0":
        words += ["--experiment-name", run.experiment]
    return shlex.join(words)


@contextlib.contextmanager
def resumable(run: "StepRun | None", run_id: str, output: str | None) -> Iterator[None]:
    """When an encode is stopped in here, print the command that resumes it; of nested ones, the innermost prints.

    Args:
        run: of this step; None where it has none yet. run_id: the parameter of that name, for the command.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        if not hasattr(stop, "go_on"):
            stop.go_on = resume_command("encode", run, run_id=run_id, output=output) if output else None
            shown = f"to go on: {stop.go_on}" if output else NOT_RESUMABLE
            print(shown, file=sys.stderr, flush=True)
        raise


def resume_command(step: str, run: "StepRun | None", **fixed: str) -> str:
    """The command that runs this step again, as it was typed but for `fixed`; a sweep as a whole."""
    if _launched.by_mlflow and (_launched.sweep or run is None):
        # The run that holds what the command needs is over, or not taken over yet.
        return "type the same mlflow run command again."
    if _launched.sweep:
        return shlex.join(["python", "-m", f"steps.{step}", "--multirun", *_launched.typed])
    kept, declared = [], dict(fixed)
    for text, override in zip(_launched.typed, arguments.parse(_launched.typed)):
        name = override.key_or_group
        if name == "corpus.path" and isinstance(override.value(), str):
            declared["corpus"] = override.value()
        elif name not in fixed:
            kept.append(text)
    return next_command(step, run, **declared, **({"overrides": shlex.join(kept)} if kept else {}))


def _as_typed(value: str) -> str:
    """A string as an override; one that looks like a number is read as the string it is (arguments.translate)."""
    return value if re.fullmatch(r"[\w./:-]+", value) else arguments.quote(value)


def ui_command(run: "StepRun") -> str:
    """The command that shows the runs in a browser."""
    if run.server.startswith(("http://", "https://")):
        return f"open {run.server} in a browser"
    return f"mlflow ui --backend-store-uri {run.server}"


def _project_uri(tags: dict[str, str]) -> str:
    """`.` from the project's own folder, the git URL where mlflow made a temporary clone of it, else the folder."""
    if inputs.typed_in() == PROJECT:
        return "."
    return tags.get("mlflow.source.git.repoURL", str(PROJECT)) if inputs.is_temporary_clone() else str(PROJECT)


def open_corpus(corpus: DictConfig, noted: dict | None = None):
    """The corpus.Corpus that the node `corpus` of encode's config names; `noted` is what Corpus.noted has given before."""
    return inputs.open_corpus(
        corpus.path,
        corpus.format.name,
        corpus.text_column,
        corpus.id_column,
        corpus.template,
        list(corpus.keep_columns),
        corpus.on_bad_row.name,
        corpus.delimiter,
        corpus.quoting.name,
        noted,
    )
