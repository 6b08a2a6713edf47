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

import hydra
from omegaconf import DictConfig, OmegaConf

from steps.common import arguments, inputs
from steps.common.arguments import CONF, PROJECT
from steps.common.backends import Settings
from steps.common.errors import UserError
from steps.common.plan import flatten

EXPERIMENT = "Introduction to Sentence Transformers"

# mlflow cuts longer values without a word, and takes 100 params in a batch.
MAX_PARAM_LENGTH = 6000
MAX_PARAM_BATCH = 100

# Seconds to wait for the first answer of a tracking server.
SERVER_TIMEOUT = 10.0

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
            "hydra.help.header": arguments.quote((sys.modules["__main__"].__doc__ or step).strip()),
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
            _reach_tracking_server(mlflow.get_tracking_uri())
            mlflow.MlflowClient().set_tag(run_id, "error", reason[:MAX_PARAM_LENGTH])


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
            _set_experiment()
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


def _set_experiment() -> None:
    """Choose the experiment of a run that we create; one that `mlflow run` created has its own already."""
    import mlflow

    chosen = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    if not any(os.environ.get(name) for name in chosen):
        mlflow.set_experiment(EXPERIMENT)


@contextlib.contextmanager
def run(step: str, cfg: DictConfig) -> Iterator:
    """Start or resume the step's MLflow run; log its resolved config, and its log when it ends.

    The run ends FINISHED, or with the reason in the tag `error` FAILED or KILLED. (After Ctrl-C the launcher of
    mlflow 3.17.2 writes FAILED over KILLED; the tag stays.)
    """
    import mlflow

    _reach_tracking_server(mlflow.get_tracking_uri())
    _set_experiment()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = logging.FileHandler(folder / f"{step}.log", encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(log)
        # The name holds for a run we create; one that `mlflow run` created has its name already.
        active = mlflow.start_run(run_name=step, nested=mlflow.active_run() is not None)
        status = "FINISHED"
        try:
            mlflow.set_tag("step", step)
            log_config(cfg, active.info.run_id)
            logger.info(
                "%s: run %s of experiment %s on %s",
                step,
                active.info.run_id,
                active.info.experiment_id,
                _without_password(mlflow.get_tracking_uri()),
            )
            yield active
        except (KeyboardInterrupt, Stopped) as stop:
            # After Ctrl-C `mlflow run` sends SIGTERM as well; what follows is to be finished.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            status = "KILLED"
            # Nobody who has stopped a step waits ten minutes for a server that is away.
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
            with contextlib.suppress(mlflow.MlflowException):
                mlflow.set_tag("error", "stopped (SIGTERM)" if isinstance(stop, Stopped) else "interrupted (Ctrl-C)")
            raise
        except BaseException as error:
            status = "FAILED"
            if not isinstance(error, UserError):
                _write_line(log, traceback.format_exc())
            _write_line(log, f"error: {one_line(error)}")
            with contextlib.suppress(mlflow.MlflowException):
                mlflow.set_tag("error", one_line(error)[:MAX_PARAM_LENGTH])
            raise
        finally:
            logger.removeHandler(log)
            log.close()
            with contextlib.suppress(mlflow.MlflowException):
                mlflow.log_artifact(str(folder / f"{step}.log"))
            _end_run(status)


def _end_run(status: str) -> None:
    """End the run; where it has failed already and cannot be ended, its own reason is what the user has to hear of."""
    import mlflow

    try:
        mlflow.end_run(status)
    except mlflow.MlflowException:
        if status == "FINISHED":
            raise
        logger.warning("the tracking server does not answer, so the run is not marked %s", status)


def _reach_tracking_server(uri: str) -> None:
    """Fail at once where mlflow's client would retry for minutes. Any answer will do."""
    if uri.startswith(("http://", "https://")):
        import httpx

        try:
            httpx.get(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT)
        except httpx.HTTPError as error:
            raise UserError(
                f"the tracking server at {_without_password(uri)} cannot be reached ({error or type(error).__name__}). Start it, or set MLFLOW_TRACKING_URI to one that runs."
            ) from None


def _write_line(handler: logging.Handler, text: str) -> None:
    """Write to the run's log only; stderr gets the line once, when the step exits."""
    handler.emit(logging.LogRecord("steps", logging.ERROR, __file__, 0, text, None, None))


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)


def log_config(cfg: DictConfig, run_id: str) -> None:
    """Log the resolved config as `config.yaml`, the truth, and flattened as params, for comparing runs.

    `mlflow run` has logged the parameters it was given, in the shell's quotes; a param cannot be changed,
    so a key the run holds already is left alone.
    """
    import mlflow
    from mlflow.entities import Param

    mlflow.log_text(OmegaConf.to_yaml(cfg, resolve=True), "config.yaml")
    client = mlflow.MlflowClient()
    held = client.get_run(run_id).data.params
    flat = flatten(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    params = [Param(key, shorten(str(value))) for key, value in flat.items() if key not in held]
    for start in range(0, len(params), MAX_PARAM_BATCH):
        client.log_batch(run_id, params=params[start : start + MAX_PARAM_BATCH])


def shorten(text: str, limit: int = MAX_PARAM_LENGTH) -> str:
    """Cut a param that mlflow would cut without a word, and say so in it."""
    mark = "... (cut, see config.yaml)"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def tag_upstream(upstream_run_id: str, model_id: str) -> None:
    """Tag the active run with what it builds on, and link the model to it as an input."""
    import mlflow
    from mlflow.entities import LoggedModelInput

    mlflow.set_tags({"upstream_run_id": upstream_run_id, "model_id": model_id})
    run_id = mlflow.active_run().info.run_id
    mlflow.MlflowClient().log_inputs(run_id, models=[LoggedModelInput(model_id)])


def next_command(step: str, **parameters: str) -> str:
    """The line that goes on from here, typed the way this step was: same project, version, environment, experiment."""
    active = _active_run()
    tags = active.data.tags if active else {}
    if "mlflow.project.entryPoint" not in tags:
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
    import mlflow

    experiment = mlflow.get_experiment(active.info.experiment_id)
    if experiment.experiment_id != "0":
        words += ["--experiment-name", experiment.name]
    return shlex.join(words)


@contextlib.contextmanager
def resumable(run_id: str, output: str | None) -> Iterator[None]:
    """When the step is stopped in here, say how it goes on; where one of these is in another, the inner one does."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        if not hasattr(stop, "go_on"):
            stop.go_on = resume_command("encode", run_id=run_id, output=output) if output else None
            shown = f"to go on: {stop.go_on}" if output else NOT_RESUMABLE
            print(shown, file=sys.stderr, flush=True)
        raise


def resume_command(step: str, **fixed: str) -> str:
    """The line that runs this step again, as it was typed but for `fixed`; a sweep as a whole."""
    if _launched.by_mlflow and (_launched.sweep or _active_run() is None):
        # What it takes to write the line is in a run that is over, or not taken over yet.
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
    return next_command(step, **declared, **({"overrides": shlex.join(kept)} if kept else {}))


def _active_run():
    """The active run; None where there is none, as in a step that was stopped before it imported mlflow."""
    mlflow = sys.modules.get("mlflow")
    return mlflow.active_run() if hasattr(mlflow, "active_run") else None


def _as_typed(value: str) -> str:
    """A string as an override; one that looks like a number is read as the string it is (arguments.translate)."""
    return value if re.fullmatch(r"[\w./:-]+", value) else arguments.quote(value)


def ui_command() -> str:
    """The line that shows the runs in a browser."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        return f"open {_without_password(uri)} in a browser"
    return f"mlflow ui --backend-store-uri {uri}"


def _project_uri(tags: dict[str, str]) -> str:
    """`.` from the project's own folder, the git URL where mlflow made a temporary clone of it, else the folder."""
    if inputs.typed_in() == PROJECT:
        return "."
    return tags.get("mlflow.source.git.repoURL", str(PROJECT)) if inputs.is_temporary_clone() else str(PROJECT)


def backend_settings(backend: DictConfig) -> Settings:
    """The node `backend` of a config as plain values."""
    return Settings(**OmegaConf.to_container(backend, enum_to_str=True))


def open_corpus(corpus: DictConfig):
    """The corpus.Corpus that the node `corpus` of encode's config names."""
    return inputs.open_corpus(
        corpus.path,
        corpus.format.name,
        corpus.text_column,
        corpus.id_column,
        corpus.template,
        list(corpus.keep_columns),
        corpus.on_bad_row.name if corpus.on_bad_row is not None else "null",
        corpus.delimiter,
        corpus.quoting.name,
    )


def suite_specs(cfg: DictConfig) -> list:
    """The suites of a config as plain values (spec.SuiteSpec): those of `suites`, or where there are none `suite`."""
    from steps.common.spec import SuiteSpec

    nodes = list(cfg.suites.values()) if "suites" in cfg and cfg.suites else [cfg.suite]
    return [SuiteSpec(**OmegaConf.to_container(node, enum_to_str=True)) for node in nodes]
