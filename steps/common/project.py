"""Where the project lies, and what ships with it."""

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

CONF = PROJECT / "conf"

SAMPLE_CORPUS = PROJECT / "steps" / "data" / "sample_corpus.csv"


def child_path() -> str:
    """The PATH for a child process: this environment's programs first, whether or not it was activated."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
