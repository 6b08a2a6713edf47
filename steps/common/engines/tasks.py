"""What Spark's Python workers run. They import this module, so it imports nothing heavy: a file is read without a model."""

import functools
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

import steps
from steps.common.embeddings.plan import code_digest, versions
from steps.common.errors import UserError

# What comes back of an item, as Spark writes a schema: its number, and its answer or its error, pickled.
SCHEMA = "item long, answer binary"


@dataclass(frozen=True)
class Environment:
    """What has to be the same in every process: the code, by the digest of a plan, and the libraries."""

    code: str
    versions: dict[str, str]

    def check(self) -> None:
        """Raises UserError where this process has something else."""
        folder, host = Path(steps.__file__).parent, socket.gethostname()
        # An archive has the digest of what is in it for a name.
        if self.code not in str(folder) and code_digest(folder) != self.code:
            raise UserError(f"{host} has other code of this project at {folder}. Remove it from PYTHONPATH there.")
        here = versions()
        other = [
            f"{name} {here[name]}, expected {version}"
            for name, version in self.versions.items()
            if here[name] != version
        ]
        if other:
            raise UserError(f"{host} has other libraries: {'; '.join(other)}. Give every machine the same environment.")


@dataclass(frozen=True)
class Task:
    """A call with each of some items."""

    environment: Environment
    call: Callable[[Any], Any]
    items: list[Any]
    # Whether an error that a user can put right is an answer, or ends the task, so that Spark tries it again.
    catches: bool

    def run(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Make the calls whose numbers stand in the batches."""
        self.environment.check()
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield _answer(number, self._answer(self.items[number]))

    def _answer(self, item: Any) -> Any:
        try:
            return self.call(item)
        except UserError as error:
            if not self.catches:
                raise
            return error


def run_task(given: bytes, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A pickled Task, for mapInArrow."""
    yield from _read(given).run(batches)


@functools.lru_cache(maxsize=1)
def _read(given: bytes) -> Task:
    """The tasks of a job share one: it may be large, and what it has looked up of an old output stays known."""
    return pickle.loads(given)


# Batches of a partition -> batches.
Stream = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def run_stream(given: bytes, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A pickled Environment and Stream, and an Accumulator that counts the rows taken, or None; for mapInArrow."""
    environment, call, rows = pickle.loads(given)
    environment.check()

    def count() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if rows is not None:
                rows.add(len(batch))
            yield batch

    yield from call(count())


def _answer(number: int, value: Any) -> pa.RecordBatch:
    columns = [pa.array([number], pa.int64()), pa.array([pickle.dumps(value)], pa.binary())]
    return pa.record_batch(columns, names=["item", "answer"])
