"""pyspark.daemon as a fork of the process that helpers/forks.py has begun: it has imported what a worker imports.

Spark begins a worker for each core, again after each task that failed, and a daemon for each executor: every one of them
would take ten seconds for these.
"""

import os
import sys

from helpers import as_fork
from helpers.forks import SOCKET

if __name__ == "__main__":
    sys.exit(as_fork.run(os.environ[SOCKET], sys.executable, ["-m", "pyspark.daemon", *sys.argv[1:]]))
