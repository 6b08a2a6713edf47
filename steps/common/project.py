"""Life of a step: command line -> config -> the script's second half -> exit code.

A step script has two halves. The first imports little, checks the command line and the files it names, and ends in
`launch`; the second imports what computes, and its `main(call, opened)` does the work.
"""

import contextlib
import importlib
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf

from steps.common import arguments, inputs
from steps.common.arguments import CONF, PROJECT
from steps.common.call import Call
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


class Stopped(BaseException):
    """SIGTERM arrived. Not an Exception, so that no step takes it for a failure of its own."""


def launch(step: str, open_inputs: Callable[[Call], Any], *, manual: str | None, resumes: bool = False) -> NoReturn:
    """Run a step: check its command line, open what that names, then import the script and call its `main`.

    Args:
        open_inputs: opens what is checked before anything heavy is imported; `main` gets what it returns.
        manual: what --help shows, the script's docstring.
        resumes: whether the step has keys run_id and output with which it can be resumed.

    Exits with 1 after one line on stderr when the user can put it right, 130 after Ctrl-C, 143 after
    SIGTERM. HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    _quiet_libraries()
    _log_to_stderr()
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments.register_schemas()
    try:
        given = arguments.translate(step, sys.argv[1:])
        if not given.own_config:
            arguments.check(step, given.overrides, given.multirun, complete=given.runs_the_step)
        jobs = _Jobs(step, open_inputs, given, resumes)
        _run_hydra(jobs, given, manual or step)
    except UserError as error:
        _exit_with(error)
    except KeyboardInterrupt:
        _interrupted("interrupted (Ctrl-C)", 130)
    except Stopped:
        _interrupted("stopped (SIGTERM)", 143)
    sys.exit(0)


def _run_hydra(jobs: "_Jobs", given: arguments.Arguments, manual: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        # Hydra writes nothing: what it would put into outputs/ are artifacts of the run, and logging is ours.
        settings = {
            "hydra.run.dir": ".",
            "hydra.sweep.dir": scratch,
            "hydra.sweep.subdir": ".",
            "hydra.output_subdir": "null",
            "hydra/job_logging": "none",
            "hydra/hydra_logging": "none",
            "hydra.help.template": arguments.quote(arguments.help_template(jobs.step, manual)),
        }
        sys.argv[1:] = given.flags + [f"{key}={value}" for key, value in settings.items()] + given.overrides
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=jobs.step)(jobs.run)()
        jobs.finish()


def _exit_with(error: BaseException) -> NoReturn:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    if os.environ.get("MLFLOW_RUN_ID"):
        from steps.common import run

        run.tag_waiting_run(one_line(error))
    sys.exit(1)


def _interrupted(what: str, code: int) -> NoReturn:
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


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


class _Jobs:
    """What Hydra calls: once for a plain run, once for each job of a sweep."""

    def __init__(
        self, step: str, open_inputs: Callable[[Call], Any], given: arguments.Arguments, resumes: bool
    ) -> None:
        self.step, self._open_inputs, self._given, self._resumes = step, open_inputs, given, resumes
        # mlflow forgets the variable once the run is taken over.
        self._by_mlflow = bool(os.environ.get("MLFLOW_RUN_ID"))
        self._started, self._failed = False, 0

    def run(self, cfg: DictConfig) -> None:
        try:
            if self._given.multirun and not self._started:
                self._start_sweep()
            self._run_job(self._call(cfg))
        except (KeyboardInterrupt, Stopped):
            self._end_sweep("KILLED")
            raise
        except Exception as error:
            if not self._started:
                _exit_with(error)
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
            self._failed += 1

    def _call(self, cfg: DictConfig) -> Call:
        return Call(
            self.step,
            OmegaConf.to_object(cfg),
            dict(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)),  # type: ignore[arg-type]
            OmegaConf.to_yaml(cfg, resolve=True),
            typed=self._given.overrides,
            sweep=self._given.multirun,
            by_mlflow=self._by_mlflow,
        )

    def _run_job(self, call: Call) -> None:
        with resumable(call, None, call.conf.run_id) if self._resumes else contextlib.nullcontext():
            opened = self._open_inputs(call)
            # The script again, as a module: what follows its first half is imported now.
            importlib.import_module(f"steps.{self.step}").main(call, opened)

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

        run.start_sweep(self.step)
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
    from steps.common.run import StepRun, log_file

    server.check_reachable()
    _set_experiment()
    with server.patience(), log_file(step) as log:
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
def resumable(call: Call, run: "StepRun | None", run_id: str) -> Iterator[None]:
    """When an encode is stopped in here, print the command that resumes it; of nested ones, the innermost prints.

    Args:
        run: of this step; None where it has none yet. run_id: the parameter of that name, for the command.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        if "resumable" not in getattr(stop, "__notes__", ()):
            stop.add_note("resumable")
            output = call.conf.output
            shown = f"to go on: {resume_command(call, run, run_id, output)}" if output else NOT_RESUMABLE
            print(shown, file=sys.stderr, flush=True)
        raise


def resume_command(call: Call, run: "StepRun | None", run_id: str, output: str) -> str:
    """The command that runs a step again, as it was typed but for its run_id and output; a sweep as a whole."""
    if call.by_mlflow and (call.sweep or run is None):
        # The run that holds what the command needs is over, or not taken over yet.
        return "type the same mlflow run command again."
    if call.sweep:
        return shlex.join(["python", "-m", f"steps.{call.step}", "--multirun", *call.typed])
    kept, declared = [], {"run_id": run_id, "output": output}
    for text, override in zip(call.typed, arguments.parse(call.typed)):
        name, value = override.key_or_group, override.value()
        if name == "corpus.path" and isinstance(value, str):
            declared["corpus"] = value
        elif name not in declared:
            kept.append(text)
    return next_command(call.step, run, **declared, **({"overrides": shlex.join(kept)} if kept else {}))


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
