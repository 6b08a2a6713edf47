"""Embedded windows -> finished parts, each with its record."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from steps.common.corpus.corpus import Corpus
from steps.common.embeddings.job import Job
from steps.common.embeddings.parts import WRITERS, DigestFile, NpyPart, ParquetPart, Part, file_facts
from steps.common.embeddings.progress import BackgroundWriter
from steps.common.embeddings.records import write_record
from steps.common.embeddings.windows import Counts, Embedded, Window, count_window, find_rejects, to_table
from steps.common.storage.output import Output


class PartWriter:
    """Embedded windows -> parts in the output, each with its record. Used by one thread at a time; a part that is whole is
    put in its place by another, beside the writing of the next."""

    def __init__(self, job: Job, output: Output, max_tokens: int | None, before_part: Callable[[], None]):
        """`max_tokens`: longest text that the model reads."""
        self._job, self._output, self._max_tokens, self._before_part = job, output, max_tokens, before_part
        self._open: _OpenPart | None = None
        self._finisher = BackgroundWriter()
        self.made: list[Part] = []

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self._finisher.__exit__(kind, *error)
        finally:
            if self._open is not None:
                self._open.drop()

    def write(self, window: Window, embedded: Embedded) -> None:
        """Write the next window; the last one of a part lets the part be put in its place."""
        job = self._job
        self._finisher.check()
        with self._output.explain_errors():
            if self._open is None:
                self._open = _OpenPart.begin(job, self._output.workspace, window.part)
            part = self._open
            table, texts = to_table(window, embedded, job.schema)
            part.rows.write(table)
            part.digests.write(texts, embedded.lengths)
            part.counts.add(count_window(window, embedded, self._max_tokens, chunked=job.chunker is not None))
            part.rejects.append(find_rejects(window, job.corpus))
        if window.is_last:
            self._finisher.do(self._finish, part)
            self._open = None

    def _finish(self, open_part: "_OpenPart") -> None:
        with self._output.explain_errors(), contextlib.ExitStack() as stack:
            stack.callback(open_part.drop)
            made = [*open_part.rows.finish(), *open_part.digests.finish()]
            files = [file_facts(path, name) for path, name in made]
            rows = self._job.rows_of(open_part.number)
            part = Part(
                name=files[0].name,
                first_row=rows.start,
                rows=open_part.counts.rows,
                written_rows=open_part.rows.rows,
                bytes=files[0].bytes,
                sha256=files[0].sha256,
                source=span(self._job.corpus, rows.start, rows.stop - 1),
                counts=asdict(open_part.counts),
                beside=files[1:],
            )
            self._before_part()
            for path, name in made:
                self._output.put(path, name)
            write_record(self._output, part, pa.concat_tables(open_part.rejects))
            self.made.append(part)
            stack.pop_all()


@dataclass(frozen=True)
class _OpenPart:
    """A part that is being written."""

    number: int
    rows: ParquetPart | NpyPart
    digests: DigestFile
    counts: Counts = field(default_factory=Counts)
    rejects: list[pa.Table] = field(default_factory=list)

    @classmethod
    def begin(cls, job: Job, workspace: Path, number: int) -> "_OpenPart":
        stem = job.stem(number)
        make = WRITERS[job.options.format]
        return cls(number, make(workspace, stem, job.schema, job.width), DigestFile(workspace, stem))

    def drop(self) -> None:
        """Forget a part that is not whole."""
        self.rows.drop()
        self.digests.drop()


def span(corpus: Corpus, first: int, last: int) -> dict:
    """Where the rows of a part stand: a parts.Part's `source`."""
    return {"first": _address(corpus, first), "last": _address(corpus, last)}


def _address(corpus: Corpus, row: int) -> dict:
    source, number = corpus.where(row)
    return {"file": str(source.place), "row": number}
