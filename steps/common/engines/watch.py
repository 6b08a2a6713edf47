"""How far a job of Spark is, by its tasks: the one count that a session and Spark Connect both give on the way."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from steps.common.embeddings import progress

if TYPE_CHECKING:
    from pyspark import Accumulator, StatusTracker
    from pyspark.sql import SparkSession

logger = logging.getLogger("steps")

# Called now and then with how many tasks have ended, and of how many, in the stages that have begun.
OnTasks = Callable[[int, int], None]


def is_connect(session: "SparkSession") -> bool:
    """Whether a session is one of Spark Connect, which knows no jobs, stages or accumulators."""
    return "connect" in type(session).__module__


@contextlib.contextmanager
def watching(session: "SparkSession", group: str) -> Iterator[Callable[[], tuple[int, int]]]:
    """Tells, when asked, how far the jobs of a group are; with Spark Connect, how far the newest job of the session is."""
    if not is_connect(session):
        yield partial(_count, session.sparkContext.statusTracker(), group)
        return
    counted = [(0, 0)]

    def take(stages: Iterable[Any] | None, **other: object) -> None:
        begun = [stage for stage in stages or () if stage.num_tasks]
        if begun:
            counted[0] = sum(one.num_completed_tasks for one in begun), sum(one.num_tasks for one in begun)

    session.registerProgressHandler(take)
    try:
        yield lambda: counted[0]
    finally:
        session.removeProgressHandler(take)


def _count(tracker: "StatusTracker", group: str) -> tuple[int, int]:
    jobs = [job for job in map(tracker.getJobInfo, tracker.getJobIdsForGroup(group)) if job is not None]
    stages = [tracker.getStageInfo(number) for number in {number for job in jobs for number in job.stageIds}]
    # Of a stage that is skipped no task begins.
    begun = [one for one in stages if one is not None and one.numActiveTasks + one.numCompletedTasks]
    return sum(one.numCompletedTasks for one in begun), sum(one.numTasks for one in begun)


class TaskProgress:
    """Says every few seconds how many tasks have ended, and with how many rows (an OnTasks).

    Rows are known where Spark counts for its driver, of tasks that have ended: with Spark Connect only tasks are.
    """

    def __init__(
        self, rows: "Accumulator[int] | None" = None, tell: Callable[[dict[str, int]], None] = lambda done: None
    ):
        """`tell`: told the counts, by the names of what is counted."""
        self._rows, self._tell = rows, tell
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        rows = {} if self._rows is None else {"rows": self._rows.value}
        self._tell({**rows, "tasks": done})
        now = time.monotonic()
        if total and now - self._last >= progress.PROGRESS_SECONDS:
            self._last = now
            counted = [f", {count} rows in them, {count / (now - self._start):.0f} rows/s" for count in rows.values()]
            logger.info("%d of %d tasks of Spark are done%s", done, total, "".join(counted))
