"""The parts of an output as tasks of Spark. Each makes one as the local engine does, and commits it so: file, then record."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steps.common.backends import Backend
from steps.common.embeddings.job import Job
from steps.common.embeddings.manifest import find_records
from steps.common.embeddings.pipeline import Result, check_part, collect_parts, find_finished, make_part
from steps.common.embeddings.progress import Progress
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
    # Name of the archive in which Spark has sent the model; None where it comes from its store.
    archive: str | None

    def __call__(self, number: int) -> None:
        backend = load_backend(self.recipe, self.archive)
        with self.output.attempt() as output:
            make_part(self.job, number, backend, output, before_part=self.before_part)
            findings = check_part(self.job, output, number)
        if findings != []:
            raise UserError(
                f"output {self.output} was changed while it was written: {findings}. Run the same command again."
            )


# The backend of this process, by its recipe.
_held: dict[str, Backend] = {}


def load_backend(recipe: Recipe, archive: str | None) -> Backend:
    """The backend of this worker, which keeps it from task to task; another one takes its place."""
    from pyspark import SparkFiles, TaskContext

    key = repr(recipe)
    if key not in _held:
        for other in list(_held):
            _held.pop(other).close()
        task = TaskContext.get()
        gpus = task.resources().get("gpu") if task else None
        _held[key] = recipe.load(
            threads=task.cpus() if task else 1,
            device=f"cuda:{gpus.addresses[0]}" if gpus else None,
            folder=Path(SparkFiles.get(archive)) if archive else None,
        )
    return _held[key]


def encode_corpus(
    spark: Spark,
    job: Job,
    output: Output,
    *,
    recipe: Recipe,
    model: Path,
    before_part: Callable[[], None],
    on_rows: Callable[[int], None],
) -> Result:
    """As pipeline.encode_corpus, by the workers of Spark; `model` is the folder of the model here."""
    finished = find_finished(job, output, spark.each)
    missing = [number for number in range(job.parts) if number not in finished]
    there = sum(len(job.rows_of(number)) for number in finished)
    if there:
        logger.info("%d of %d rows are there already", there, job.corpus.rows)
    archive = None
    if missing and spark.conf.model_from == "driver":
        archive = spark.send_folder(model, f"model-{recipe.model_digest[:16]}-{(recipe.digest or 'own')[:16]}")
    start = time.perf_counter()
    with Progress(job.corpus.rows, there) as progress:
        on_rows(progress.done)
        waiting = dict.fromkeys(missing)

        def look() -> None:
            recorded = find_records(output)
            for number in [number for number in waiting if job.stem(number) in recorded]:
                del waiting[number]
                progress.window_done(len(job.rows_of(number)))
            on_rows(progress.done)

        spark.each_alone(PartMaker(job, output, recipe, before_part, archive), missing, look)
    result = collect_parts(job, output, finished, compared=True)
    result.seconds = time.perf_counter() - start
    return result
