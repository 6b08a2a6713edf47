"""Life of a step: command line -> config -> the script's second half -> exit code.

A step script has two halves. The first imports little, checks the command line and the files it names, and ends in
`launch`; the second imports what computes, and its `main(call, opened)` does the work.
"""

import contextlib
import importlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any, NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf

from steps.common.errors import KILLED, Stopped, UserError, first_line, one_line
from steps.common.launch import arguments
from steps.common.launch.call import Call
from steps.common.launch.check import check
from steps.common.launch.commands import as_typed, resumable
from steps.common.launch.overrides import quote
from steps.common.project import CONF

logger = logging.getLogger("steps")

# The variable that asks for tracebacks, of Hydra and of the steps.
FULL_ERROR = "HYDRA_FULL_ERROR"


def launch(step: str, open_inputs: Callable[[Call], Any], *, manual: str | None, resumes: bool = False) -> NoReturn:
    """Run a step: check its command line, open what that names, then import the script and call its `main`.

    Args:
        open_inputs: opens what is checked before anything heavy is imported; `main` gets what it returns.
        manual: what --help shows, the script's docstring.
        resumes: whether the step has keys run_id and output with which it can be resumed.

    Exits with 1 after one line on stderr when the user can put it right, 130 after Ctrl-C, 143 after SIGTERM.
    HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    _quiet_libraries()
    _log_to_stderr()
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments.register_schemas()
    # mlflow forgets the variable once the run is taken over.
    by_mlflow = bool(os.environ.get("MLFLOW_RUN_ID"))
    try:
        given = arguments.translate(step, sys.argv[1:])
        jobs, configs = _Jobs(step, open_inputs, given, resumes=resumes, by_mlflow=by_mlflow), []
        if not given.own_config:
            configs = check(step, given.overrides, given.multirun, complete=given.runs_the_step)
        if given.needs_hydra:
            _run_hydra(jobs, given, manual or step)
        else:
            # Hydra would compose this config twice more.
            jobs.run(configs[0])
    except UserError as error:
        _exit_with(error, by_mlflow)
    except KeyboardInterrupt as stop:
        _interrupted("interrupted (Ctrl-C)", 130, stop, by_mlflow)
    except Stopped as stop:
        _interrupted("stopped (SIGTERM)", 143, stop, by_mlflow)
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
            "hydra.help.template": quote(arguments.help_template(jobs.step, manual)),
        }
        sys.argv[1:] = given.flags + [f"{key}={value}" for key, value in settings.items()] + given.overrides
        with _one_line_from_hydra() as as_before:

            def run(cfg: DictConfig) -> None:
                as_before()
                jobs.run(cfg)

            hydra.main(version_base="1.3", config_path=str(CONF), config_name=jobs.step)(run)()
        jobs.finish()


@contextlib.contextmanager
def _one_line_from_hydra() -> Iterator[Callable[[], None]]:
    """Raise what Hydra would print in several lines as a UserError; gives what ends that, which each job calls first."""
    before = os.environ.get(FULL_ERROR)
    # Hydra prints an error and exits, unless this is set.
    os.environ[FULL_ERROR] = "1"

    def as_before() -> None:
        os.environ.pop(FULL_ERROR, None)
        if before is not None:
            os.environ[FULL_ERROR] = before

    try:
        yield as_before
    except UserError:
        raise
    except Exception as error:
        if before == "1":
            raise
        raise UserError(f"Hydra cannot do this: {first_line(error)}. Check what was typed for Hydra.") from error
    finally:
        as_before()


def _exit_with(error: BaseException, by_mlflow: bool) -> NoReturn:
    if os.environ.get(FULL_ERROR) == "1":
        raise error
    _print_error(error, by_mlflow)
    if os.environ.get("MLFLOW_RUN_ID"):
        _tracking().tag_waiting_run(one_line(error))
    sys.exit(1)


def _print_error(error: BaseException, by_mlflow: bool) -> None:
    line = one_line(error)
    print(f"error: {as_typed(line, by_mlflow) if isinstance(error, UserError) else line}", file=sys.stderr, flush=True)


def _interrupted(what: str, code: int, stop: BaseException, by_mlflow: bool) -> NoReturn:
    marked = ""
    if KILLED in getattr(stop, "__notes__", ()):
        # After Ctrl-C `mlflow run` writes FAILED over it.
        marked = "; the tag error of the run says so" if by_mlflow else "; the run is marked KILLED"
    print(f"{what}{marked}.", file=sys.stderr, flush=True)
    sys.exit(code)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


class _Jobs:
    """What is called with a config: once for a plain run, by Hydra once for each job of a sweep."""

    def __init__(
        self,
        step: str,
        open_inputs: Callable[[Call], Any],
        given: arguments.Arguments,
        *,
        resumes: bool,
        by_mlflow: bool,
    ) -> None:
        self.step, self._open_inputs, self._given, self._resumes = step, open_inputs, given, resumes
        self._by_mlflow = by_mlflow
        self._started, self._failed = False, 0

    def run(self, cfg: DictConfig) -> None:
        try:
            if self._given.multirun and not self._started:
                _tracking().start_sweep(self.step)
                self._started = True
            self._run_job(self._call(cfg))
        except (KeyboardInterrupt, Stopped):
            self._end_sweep("KILLED")
            raise
        except Exception as error:
            if not self._started:
                _exit_with(error, self._by_mlflow)
            _print_error(error, self._by_mlflow)
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
            try:
                opened = self._open_inputs(call)
                # The script again, as a module: what follows its first half is imported now.
                importlib.import_module(f"steps.{self.step}").main(call, opened)
            except SystemExit as exit:
                # pyspark does this, with exit code 0, where a package of it is missing: it would pass for success.
                raise UserError(
                    f"A library called exit({exit.code}) before the step was done. Set HYDRA_FULL_ERROR=1 to see where."
                ) from exit

    def finish(self) -> None:
        """End the run of a sweep, as failed if one of its jobs did."""
        if not self._failed:
            self._end_sweep("FINISHED")
            return
        error = UserError(f"{self._failed} job(s) of the sweep failed; their own messages are above.")
        self._end_sweep("FAILED", one_line(error))
        raise error

    def _end_sweep(self, status: str, reason: str | None = None) -> None:
        if self._started:
            _tracking().end_sweep(status, reason)


def _tracking() -> ModuleType:
    """The runs of MLflow, which takes seconds to import: only once the command line is checked."""
    from steps.common.tracking import run

    return run


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
