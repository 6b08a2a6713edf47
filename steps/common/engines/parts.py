"""The parts of an output as tasks of Spark. Each makes one as the local engine does, and commits it so: file, then record."""

import gc
import itertools
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from steps.common.backends import Backend
from steps.common.embeddings.encoder import LongTexts, find_long, sample_texts
from steps.common.embeddings.job import Job
from steps.common.embeddings.pipeline import Result, check_part, collect_parts, find_work, make_part
from steps.common.embeddings.progress import Progress
from steps.common.embeddings.records import find_records
from steps.common.engines.conf import ModelFrom
from steps.common.engines.spark import Spark
from steps.common.errors import UserError
from steps.common.model.recipe import Recipe
from steps.common.storage.output import Output


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
        # Spark has its workers collect garbage after every task, which takes a third of a second with what a model imports. That
        # stays; what the model before was made of goes.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
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

    def __call__(self, *tasks: int) -> None:
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


@dataclass(frozen=True)
class SparkEngine:
    """As local.LocalEngine, by the workers of Spark."""

    spark: Spark
    recipe: Recipe

    def find_long(self, job: Job) -> Iterable[LongTexts]:
        return self.spark.each(partial(_find_long, job, send_model(self.spark, self.recipe)), _rows_of_parts(job))

    def sample_texts(self, job: Job) -> Iterable[str]:
        return itertools.chain.from_iterable(self.spark.each(partial(_sample_texts, job), _rows_of_parts(job)))

    def encode_corpus(
        self, job: Job, output: Output, *, before_part: Callable[[], None], on_rows: Callable[[int], None]
    ) -> Result:
        spark = self.spark
        finished, missing, there = find_work(job, output, spark.each)
        start = time.perf_counter()
        recipe = send_model(spark, self.recipe) if missing else self.recipe
        with Progress(job.corpus.rows, there) as progress:
            on_rows(progress.done)
            lookout = Lookout(job, output, missing, progress, on_rows)
            spark.each_alone(PartMaker(job, output, recipe, before_part), missing, lookout)
        output.clear_attempts()
        result = collect_parts(job, output, finished, compared=True)
        result.seconds = time.perf_counter() - start
        return result


def _rows_of_parts(job: Job) -> list[range]:
    return [job.rows_of(number) for number in range(job.parts)]


def _find_long(job: Job, recipe: Recipe, rows: range) -> LongTexts:
    return find_long(job, load_backend(recipe), rows)


def _sample_texts(job: Job, rows: range) -> list[str]:
    return list(sample_texts(job, rows))
