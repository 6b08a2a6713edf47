"""Calls with each of some items as tasks of Spark: DataFrames alone, so that Spark Connect runs them as well."""

import logging
import pickle
import re
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from steps.common.embeddings.plan import code_digest, versions
from steps.common.engines.conf import EngineConf
from steps.common.engines.session import connect, describe
from steps.common.engines.tasks import SCHEMA, Environment, Stream, Task, run_stream, run_task
from steps.common.engines.watch import OnTasks, TaskProgress, is_connect, watching
from steps.common.errors import UserError, clip, first_line
from steps.common.project import PROJECT
from steps.common.storage.place import Place

if TYPE_CHECKING:
    from pyspark import Accumulator
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

logger = logging.getLogger("steps")

# Seconds between two looks at how far a job is.
POLL = 2.0

# Most tasks that many small items are shared out to.
MOST_TASKS = 1000

# Files in an archive have this time, so that the same code is the same archive.
EPOCH = (1980, 1, 1, 0, 0, 0)

# The archives that were sent to the sessions of this process, and where they are as long as it lives.
_sent: set[tuple] = set()
_scratch = tempfile.TemporaryDirectory()

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Spark:
    """A session of Spark that has the code of this project."""

    def __init__(self, conf: EngineConf):
        """Raises UserError as session.connect."""
        self.conf = conf
        self.session, self._is_own = connect(conf.master)
        self._master, page = describe(self.session)
        logger.info("Spark %s on %s; its page: %s", self.session.version, self._master, page or "none")
        self._environment = Environment(code_digest(PROJECT / "steps"), versions())
        self._send(f"steps-{self._environment.code}.zip", PROJECT, (PROJECT / "steps").rglob("*.py"), pyfile=True)

    def __enter__(self) -> "Spark":
        return self

    def __exit__(self, *error: object) -> None:
        """End the session, if it was started here."""
        if self._is_own:
            self.session.stop()

    @property
    def is_here(self) -> bool:
        """Whether every worker is a process of this machine's."""
        return self._master.startswith("local") and not is_connect(self.session)

    def check_reachable(self, place: Place, key: str) -> None:
        """Raises UserError for a local path that workers elsewhere would not find."""
        if place.local is not None and not self.is_here and not self.conf.shared_files:
            raise UserError(
                f"{key}={place} is a path on this machine, and Spark's workers ({self._master}) have other disks. Give a URI such as s3://bucket/path, or, if each of them has the same files there, engine.shared_files=true."
            )

    def send_folder(self, folder: Path, name: str) -> str:
        """Let Spark unpack a folder beside each worker; returns its name there, which has to tell its contents."""
        self._send(f"{name}.zip#{name}", folder, folder.rglob("*"), archive=True)
        return name

    def _send(self, name: str, base: Path, paths: Iterable[Path], **kind: bool) -> None:
        """Let every worker have files as an archive, once a session: Spark refuses another of the same name."""
        key = (self.session.conf.get("spark.app.id", ""), getattr(self.session, "session_id", None), name)
        if key in _sent:
            return
        archive = Path(_scratch.name) / name.partition("#")[0]
        with zipfile.ZipFile(archive, "w") as stream:
            for path in sorted(path for path in paths if path.is_file()):
                stream.writestr(zipfile.ZipInfo(path.relative_to(base).as_posix(), EPOCH), path.read_bytes())
        self.session.addArtifacts(str(Path(_scratch.name) / name), **kind)
        _sent.add(key)

    def each(self, call: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """An each.Each: many items share a task."""
        task = Task(self._environment, call, list(items), catches=True)
        answers = self._run(task, min(len(items), MOST_TASKS), TaskProgress())
        for answer in answers:
            if isinstance(answer, UserError):
                raise answer
        return answers

    def each_alone(self, call: Callable[[Item], None], items: Sequence[Item], on_tasks: OnTasks) -> None:
        """Call with each item in a task of its own, which Spark tries again where it fails.

        `on_tasks` may raise. Raises UserError with what the last attempt said.
        """
        task = Task(self._environment, call, list(items), catches=False)
        self._run(task, len(items), on_tasks)

    def _run(self, task: Task, tasks: int, on_tasks: OnTasks) -> list[Any]:
        if not task.items:
            return []
        given = pickle.dumps(task)

        # Pickled as a whole, with what it takes of this module by name.
        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return run_task(given, batches)

        frame = self.session.range(0, len(task.items), 1, tasks).mapInArrow(run, SCHEMA)
        rows = self.wait_for(frame.collect, on_tasks)
        answers = {number: pickle.loads(answer) for number, answer in rows}
        return [answers[number] for number in range(len(task.items))]

    def stream(
        self, frame: "DataFrame", call: Stream, schema: "StructType", rows: "Accumulator[int] | None"
    ) -> "DataFrame":
        """What a call makes of the batches of each partition; `rows`, of row_counter, counts those that it takes."""
        given = pickle.dumps((self._environment, call, rows))

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return run_stream(given, batches)

        return frame.mapInArrow(run, schema)

    def row_counter(self) -> "Accumulator[int] | None":
        """Counts rows in workers, and tells the driver of each task that ends; None with Spark Connect, which has no such."""
        return None if is_connect(self.session) else self.session.sparkContext.accumulator(0)

    def wait_for(self, action: Callable[[], Answer], on_tasks: OnTasks) -> Answer:
        """What an action of a DataFrame gives; its job ends where the wait for it does. Raises UserError as each_alone."""
        tag = f"encode-{uuid.uuid4().hex}"

        def act() -> Answer:
            # Both are those of a thread.
            if is_connect(self.session):
                self.session.addTag(tag)
            else:
                self.session.sparkContext.setJobGroup(tag, "encode")
            return action()

        with watching(self.session, tag) as count_tasks, ThreadPoolExecutor(1) as thread:
            job = thread.submit(act)
            try:
                while not wait([job], POLL).done:
                    on_tasks(*count_tasks())
            except BaseException:
                self._end(job, tag)
                raise
            error = job.exception()
            if error is not None:
                raise explain(error) from error
            on_tasks(*count_tasks())
            return job.result()

    def _end(self, job: Future, tag: str) -> None:
        """End what is tagged so: of a session here by its group, since a thread can interrupt only the tags that it has set."""
        here = None if is_connect(self.session) else self.session.sparkContext
        # Between two jobs of a query there is none to end.
        while not job.done():
            if here is None:
                self.session.interruptTag(tag)
            else:
                here.cancelJobGroup(tag)
            wait([job], POLL)


def explain(error: BaseException) -> UserError:
    """What went wrong in a worker, of all that Spark says."""
    text = str(error)
    ours = re.findall(rf"^{re.escape(UserError.__module__)}\.UserError: (.*)$", text, re.MULTILINE)
    if ours:
        return UserError(ours[-1])
    if "exited unexpectedly" in text:
        return UserError(
            "a Python worker of Spark ended, most likely out of memory. Give it more (spark.executor.memoryOverhead, spark.executor.pyspark.memory), fewer tasks at once (spark.task.cpus), or a smaller backend.batch_tokens. Run the same command again to resume."
        )
    lost = re.findall(r"Lost task \S+ in stage \S+ \(TID \d+\) \([^)]*\): (.*)", text)
    raised = re.findall(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt)): (.*)$", text, re.MULTILINE)
    if not lost and not raised:
        return UserError(f"Spark failed: {first_line(error)}.")
    said = ": ".join(raised[-1]) if raised else lost[-1]
    return UserError(f"a task of Spark failed: {clip(said, 400)} Run the same command again.")
