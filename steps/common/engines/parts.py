"""The parts of an output as tasks of Spark. Each makes one as the local engine does, and commits it so: file, then record."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from steps.common.backends import Backend
from steps.common.embeddings.job import Job
from steps.common.embeddings.pipeline import Result, check_part, collect_parts, find_finished, make_part
from steps.common.embeddings.progress import Progress
from steps.common.embeddings.records import find_records
from steps.common.engines.conf import ModelFrom
from steps.common.engines.spark import Spark
from steps.common.errors import UserError
from steps.common.model.recipe import Recipe
from steps.common.storage.output import Output

logger = logging.getLogger("steps")


@dataclass(frozen=True)
class PartMaker:
    """Makes a part by its number, in whatever process, and compares what is there then with its record."""

    job: Job
    output: Output
    recipe: Recipe
    before_part: Callable[[], None]

    def __call__(self, number: int) -> None:
        backend = load_backend(self.recipe)
        with self.output.attempt() as output:
            make_part(self.job, number, backend, output, before_part=self.before_part)
            findings = check_part(self.job, output, number)
        if findings is None:
            findings = [f"{self.job.stem(number)} has no record that can be read"]
        if findings:
            raise UserError(
                f"output {self.output} was changed while it was written: {findings[0]}. Run the same command again."
            )


# Most seconds between two looks at an output whose listing takes long.
LONGEST = 60.0

# The backend of this process, by its recipe.
_held: dict[str, Backend] = {}


def load_backend(recipe: Recipe) -> Backend:
    """The backend of this worker, which keeps it from task to task; another one takes its place."""
    from pyspark import SparkFiles, TaskContext

    key = repr(recipe)
    if key not in _held:
        for other in list(_held):
            _held.pop(other).close()
        task = TaskContext.get()
        # Tokens are made by as many threads as the task has cores.
        os.environ.setdefault("RAYON_NUM_THREADS", str(task.cpus() if task else 1))
        gpus = task.resources().get("gpu") if task else None
        _held[key] = recipe.load(
            threads=task.cpus() if task else 1,
            device=f"cuda:{gpus.addresses[0]}" if gpus else None,
            folder=Path(SparkFiles.get(recipe.archive)) if recipe.archive else None,
        )
    return _held[key]


def send_model(spark: Spark, recipe: Recipe) -> Recipe:
    """A recipe by which workers find the model: in its store, or sent to them now."""
    if spark.conf.model_from == ModelFrom.store:
        return recipe
    name = f"model-{recipe.model_digest[:16]}-{(recipe.digest or 'own')[:16]}"
    return replace(recipe, archive=spark.send_folder(recipe.folder, name))


class Lookout:
    """Shows how many parts there are, by their records: a part may be made twice, or by an executor that is lost then."""

    def __init__(
        self, job: Job, output: Output, missing: list[int], progress: Progress, on_rows: Callable[[int], None]
    ):
        self._job, self._output, self._progress, self._on_rows = job, output, progress, on_rows
        self._waiting, self._next = dict.fromkeys(missing), 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        recorded = find_records(self._output)
        # An object store lists a thousand a request.
        self._next = time.monotonic() + min(LONGEST, 20 * (time.monotonic() - now))
        for number in [number for number in self._waiting if self._job.stem(number) in recorded]:
            del self._waiting[number]
            self._progress.note = f"; {self._job.parts - len(self._waiting)} of {self._job.parts} parts"
            self._progress.window_done(len(self._job.rows_of(number)))
        self._on_rows(self._progress.done)


def encode_corpus(spark: Spark, maker: PartMaker, *, on_rows: Callable[[int], None]) -> Result:
    """As pipeline.encode_corpus, by the workers of Spark."""
    job, output = maker.job, maker.output
    finished = find_finished(job, output, spark.each)
    missing = [number for number in range(job.parts) if number not in finished]
    there = sum(len(job.rows_of(number)) for number in finished)
    if there:
        logger.info("%d of %d rows are there already", there, job.corpus.rows)
    start = time.perf_counter()
    if missing:
        maker = replace(maker, recipe=send_model(spark, maker.recipe))
    with Progress(job.corpus.rows, there) as progress:
        on_rows(progress.done)
        spark.each_alone(maker, missing, Lookout(job, output, missing, progress, on_rows))
    output.clear_attempts()
    result = collect_parts(job, output, finished, compared=True)
    result.seconds = time.perf_counter() - start
    return result
