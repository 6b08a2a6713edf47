"""Whether a logged model predicts in a fresh environment, made from nothing but its own requirements."""

import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steps.common.errors import UserError, clip
from steps.common.project import child_path
from steps.common.validation.checks import Check, check_close
from steps.common.validation.server import find_error

logger = logging.getLogger("steps")

CHECK = "environment/predicts"

# Seconds for it all: torch alone may be gigabytes to fetch.
TIMEOUT = 3600.0

# What runs in a process of its own, so that what uv and the model print can be read, and all of it be stopped.
PREDICT = """
import sys, mlflow
uri, given, made = sys.argv[1:]
mlflow.models.predict(uri, input_path=given, output_path=made, env_manager="uv")
"""


def check_uv() -> None:
    """Find out, before anything heavy, that environments can be made here.

    Raises:
        UserError: uv is not there.
    """
    if shutil.which("uv", path=child_path()) is None:
        raise UserError(
            "fresh_environment=true makes an environment with uv, and there is no uv on the PATH. Install it (pip install uv), or leave fresh_environment out."
        )


def check_fresh_environment(
    uri: str, requirements: Path, examples: Sequence[str], expected: np.ndarray, tolerance: float
) -> list[Check]:
    """Make the environment with uv, predict the examples in it, compare with what the model gives here.

    Args:
        uri: of the logged model.
        requirements: its requirements.txt, to name the package that cannot be installed.
        expected: float32 [n, dim].
        tolerance: largest difference of one number; the libraries are the same versions, not the same builds.
    """
    logger.info("making a fresh environment from the requirements of %s; this takes minutes", uri)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch) / "given.json", Path(scratch) / "made.json"
        given.write_text(json.dumps({"inputs": list(examples)}))
        code, output = _run([sys.executable, "-c", PREDICT, uri, str(given), str(made)])
        seconds = time.monotonic() - start
        if code != 0 or not made.exists():
            for line in output.splitlines()[-20:]:
                logger.info("fresh environment: %s", line)
            return [Check(CHECK, explain(output, requirements.read_text().splitlines()), f"<= {tolerance:g}", False)]
        predictions = np.array(json.loads(made.read_text())["predictions"], np.float32)
    logger.info("predicted in a fresh environment after %.0f s", seconds)
    return [check_close(CHECK, predictions, expected, tolerance)]


def _run(command: list[str]) -> tuple[int | None, str]:
    """Run a command with all it starts; returns its exit code, None after TIMEOUT, and what it printed."""
    # The environment that this process runs in is not the one to install into.
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MLFLOW_RUN_ID")}
    with tempfile.TemporaryFile("w+") as stream:
        process = subprocess.Popen(
            command,
            env=env | {"PATH": child_path(), "NO_COLOR": "1", "UV_NO_PROGRESS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        stream.seek(0)
        return code, stream.read()


def explain(output: str, requirements: Sequence[str]) -> str:
    """One line from the output of uv, or of the model itself: what went wrong, with which package, what to do.

    Args:
        output: without colours. requirements: lines of requirements.txt.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    failed = list(itertools.dropwhile(lambda line: not line.lstrip().startswith(("×", "error:")), lines))
    if failed:
        # uv's last lines, before those of mlflow that called it; it draws a tree of causes.
        own = itertools.takewhile(lambda line: not line.startswith("Traceback"), failed)
        reason = " ".join(line.strip("×╰├│─▶ ").removeprefix("error: ") for line in own)
        named = [line for line in requirements if _names(line, reason)]
        package = f"{', '.join(named)} cannot be installed" if named else "it cannot be built"
        remedy = "Log the model with requirements that exist for this machine, or tell uv where they are (UV_INDEX_URL, UV_FIND_LINKS)."
        return f"{package}: {clip(reason, 300)} {remedy}"
    missing = re.search(r"No module named '([\w.]+)'", output)
    if missing:
        return f"the requirements lack {missing.group(1).partition('.')[0]}: {missing.group(0)}. Log the model again with it among them."
    last = find_error(output) or "no output"
    return f"built, but the model does not predict in it: {last}. Log the model again with the versions it needs."


def _names(requirement: str, reason: str) -> bool:
    name = re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]
    return bool(name) and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", reason, re.IGNORECASE) is not None
