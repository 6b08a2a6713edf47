"""Figures that are measured in a process of their own, since memory is that of the process."""

import json
import subprocess
import sys
from pathlib import Path


def show(module: str, name: str, given: Path, *, width: int) -> None:
    """Print what `python -m MODULE --one NAME GIVEN` measures: its last line is JSON."""
    command = [sys.executable, "-m", module, "--one", name, str(given)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:{width}}", "  ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)
