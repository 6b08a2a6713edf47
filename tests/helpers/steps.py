"""Steps in this process."""

import contextlib
import io
import json
import signal
import sys

import pytest

# A server of its own, and backends that are converted, cost validate ten seconds each, and latencies one; the tests about
# them ask for them.
LEFT_OUT = {"serving.": "serving.enabled=false", "candidates": "candidates=[]", "latency_calls": "latency_calls=2"}


def run_step(name: str, *argv: str) -> int:
    """Run a step in this process, as `python -m steps.<step> ...` would; returns its exit code.

    The heavy imports are paid once for the whole test session this way.
    """
    import logging
    import runpy

    from steps.common.launch import process as project

    handlers, on_term = list(project.logger.handlers), signal.getsignal(signal.SIGTERM)
    level = logging.getLogger().level
    if name == "validate":
        argv = (*argv, *(word for key, word in LEFT_OUT.items() if not any(key in given for given in argv)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"steps.{name}", *argv])
        try:
            runpy.run_module(f"steps.{name}", run_name="__main__")
        except SystemExit as exit:
            return exit.code or 0
        finally:
            signal.signal(signal.SIGTERM, on_term)
            project.logger.handlers[:] = handlers
            project.logger.propagate = True
            logging.getLogger().setLevel(level)
    return 0


def summary_of(name: str, *argv: str) -> dict:
    """Run a step in this process that must succeed; what its last line says. For fixtures, whose output nobody captures."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert run_step(name, *argv) == 0, shown.getvalue()
    return last_json(shown.getvalue())


def error_of(result: tuple[int, str, str]) -> str:
    """The one line of a step that failed, from its exit code, stdout and stderr."""
    code, _, err = result
    errors = [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(errors) == 1 and "Traceback" not in err, err
    return errors[0]


def last_json(stdout: str) -> dict:
    """The JSON line a step ends with."""
    return json.loads([line for line in stdout.splitlines() if line.startswith('{"step"')][-1])
