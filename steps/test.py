"""test: run the project's tests inside its environment. `pytest_args` is split as a shell splits words.

mlflow run . -e test -P pytest_args="-k corpus"
python -m pytest
"""

import argparse
import shlex
import subprocess
import sys

from steps.common.arguments import PROJECT

# Most of the time goes into importing torch and mlflow in processes of their own, on one core each. Files stay
# together, so that each process pays for its imports once. `-P pytest_args="-n 0"` turns it off. A process that crashes
# ends the run: pytest-xdist 3.8.0 would start another and then wait for ever (its issue 1323).
PARALLEL = ("-n", "2", "--dist", "loadfile", "--max-worker-restart", "0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytest_args", default="")
    given = parser.parse_args()
    try:
        words = shlex.split(given.pytest_args)
    except ValueError as error:
        sys.exit(f"error: pytest_args is split as a shell splits words, and {given.pytest_args!r} cannot be: {error}.")
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", *PARALLEL, *words], cwd=PROJECT).returncode)


if __name__ == "__main__":
    main()
