"""pyspark.daemon with what a worker imports imported once: each worker is forked from it.

Spark begins a worker again after each task that failed, and one for each core: every one of them takes ten seconds for these.
"""

import importlib

from helpers.forks import PRELOADED
from pyspark import daemon

if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    daemon.manager()
