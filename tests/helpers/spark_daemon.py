"""pyspark.daemon with what a worker imports imported already: each worker is forked from it.

Spark begins a worker again after each task that failed, one for each core, and a daemon for each executor: every one of
them would take ten seconds for these. The daemon is a fork of the process that helpers/forks.py has begun, where the
environment names its socket.
"""

import importlib
import os
import sys

from helpers import as_fork
from helpers.forks import PRELOADED, SOCKET

if __name__ == "__main__":
    if SOCKET in os.environ:
        sys.exit(as_fork.run(os.environ[SOCKET], sys.executable, ["-m", "pyspark.daemon", *sys.argv[1:]]))
    for name in PRELOADED:
        importlib.import_module(name)
    from pyspark import daemon

    daemon.manager()
