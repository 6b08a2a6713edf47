"""The engine that is this process: what the workers of Spark do with the rows of each part, with all rows at once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from steps.common.backends import Backend
from steps.common.embeddings import encoder, pipeline
from steps.common.embeddings.encoder import LongTexts
from steps.common.embeddings.job import Job
from steps.common.embeddings.pipeline import Result
from steps.common.storage.output import Output


@dataclass(frozen=True)
class LocalEngine:
    """Whatever reads a whole corpus."""

    backend: Backend

    def find_long(self, job: Job) -> Iterable[LongTexts]:
        """What encoder.refuse_long takes."""
        return [encoder.find_long(job, self.backend, range(job.corpus.rows))]

    def sample_texts(self, job: Job) -> Iterable[str]:
        """The texts that encoder.make_ranges takes, in the order of the corpus."""
        return encoder.sample_texts(job, range(job.corpus.rows))

    def encode_corpus(
        self, job: Job, output: Output, *, before_part: Callable[[], None], on_rows: Callable[[int], None]
    ) -> Result:
        """As pipeline.encode_corpus."""
        return pipeline.encode_corpus(job, self.backend, output, before_part=before_part, on_rows=on_rows)
