"""How the tests begin and in which order they run; their fixtures are in fixtures/, by subject."""

import gc
import importlib
import os
from pathlib import Path

import pytest
from helpers.forks import PRELOADED
from helpers.project import LEAKED

pytest_plugins = ["fixtures.isolation", "fixtures.stores", "fixtures.models", "fixtures.suites", "fixtures.processes"]


def pytest_configure() -> None:
    """Forget the run of `mlflow run -e test`, before any fixture: those of a module come before those of a test."""
    for name in LEAKED:
        os.environ.pop(name, None)
    # In a new environment each file is compiled when it is first imported: two processes begin at either end.
    if "PYTEST_XDIST_WORKER" in os.environ:
        for name in PRELOADED if os.environ["PYTEST_XDIST_WORKER"] == "gw0" else reversed(PRELOADED):
            importlib.import_module(name)


def pytest_collection_finish() -> None:
    """What has been imported stays; the collector need not look through it again and again."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every worker begin with its share of the slow tests: what is left to share at the end is short.

    pytest-xdist gives each worker a run of the list, one behind the other, and lets it take from the end of another's.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    slow: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            slow.setdefault(item.path, []).append(item)
    quick = [item for item in items if not item.get_closest_marker("slow")]
    size = len(items) / workers
    ordered: list[pytest.Item] = []
    for number in range(workers):
        # Those of a file stay together: they share what takes long to make, a session of Spark or a model in int8.
        for one in list(slow.values())[number::workers]:
            ordered += one
        count = len(quick) if number == workers - 1 else max(0, round(size * (number + 1)) - len(ordered))
        ordered += quick[:count]
        del quick[:count]
    items[:] = ordered
