"""Corpus -> backend -> parts: where the reader, the encoder and the writer meet.

A part is a pure function of its rows, the job and the backend. Four threads make them: one reads and tokenises the next
window, this one computes, one writes the last, and one puts the part before into its place.
"""

import contextlib
import ctypes
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa

from steps.common.backends import Backend
from steps.common.corpus.corpus import Corpus
from steps.common.each import Each, here
from steps.common.embeddings import verify
from steps.common.embeddings.encoder import embed_window, tokenize_windows
from steps.common.embeddings.job import Job
from steps.common.embeddings.manifest import Reused, check_files, list_files
from steps.common.embeddings.parts import File, Part
from steps.common.embeddings.progress import BackgroundWriter, Progress, prefetch
from steps.common.embeddings.records import PartRecord, find_records, read_record, write_rejects
from steps.common.embeddings.windows import Counts, Embedded, Window
from steps.common.embeddings.writer import PartWriter, span
from steps.common.errors import UserError
from steps.common.storage.output import Output

logger = logging.getLogger("steps")

# Embeddings shown at the end.
SAMPLES = 3

# Records read at once.
READERS = 16

# Seconds between two times that free memory is given back: it takes 10 ms, and a GPU computes a window in 30.
GIVE_BACK_SECONDS = 1.0


@dataclass
class Result(Counts):
    """The output of a corpus, and what was counted."""

    # Of `rows`, those in parts that an earlier encode had finished.
    resumed_rows: int = 0
    # What was found in the others, which this encode has made.
    own: Counts = field(default_factory=Counts)
    written_rows: int = 0
    padding_share: float | None = None
    seconds: float = 0.0
    dim: int = 0
    dtype: str = ""
    ranges: np.ndarray | None = None
    parts: list[Part] = field(default_factory=list)
    rejects: File | None = None
    # The output that vectors were taken from, and what has changed since.
    reused: Reused | None = None
    # Some texts that this encode has computed, each with its embedding.
    samples: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """The metrics of an encode run: rows are those of the whole output, computed rows and rates those of this run, and
        seconds cover reading, encoding and writing."""
        seconds = max(self.seconds, 1e-9)
        changes = self.reused.changes if self.reused else None
        return {
            "encode/rows": self.rows,
            "encode/resumed_rows": self.resumed_rows,
            "encode/seconds": self.seconds,
            "encode/rows_per_second": self.own.rows / seconds,
            "encode/tokens_per_second": self.own.tokens / seconds,
            "encode/long_rows": self.long_rows,
            "encode/truncated_rows": self.truncated_rows,
            "encode/empty_rows": self.empty_rows,
            "encode/null_rows": self.null_rows,
            "encode/computed_rows": self.own.computed_rows,
            "encode/reused_rows": self.reused_rows,
            "encode/peak_rss_mb": peak_rss_mb(),
            **(changes.metrics() if changes else {}),
            **({} if self.padding_share is None else {"encode/padding_share": self.padding_share}),
        }

    def files(self) -> list[File]:
        """Every file of the output but the manifest."""
        return list_files(self.parts, self.rejects, self.reused)

    def manifest(self) -> dict:
        """What the manifest says of the whole."""
        names = ("rows", "written_rows", *verify.TOTALS, "dim", "dtype", "rejects", "reused")
        ranges = None if self.ranges is None else self.ranges.tolist()
        return {name: getattr(self, name) for name in names} | {"ranges": ranges}


def peak_rss_mb() -> float:
    """Most memory this process has held, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def encode_corpus(
    job: Job,
    backend: Backend,
    output: Output,
    *,
    before_part: Callable[[], None] = lambda: None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Result:
    """Embed every row of a corpus, in order, into parts; those that are finished in `output` already stay as they are.

    A row without a text gets a null embedding, and a row in rejects.parquet. A text that is longer than the model reads
    is cut by the model, or by the chunker into pieces, and counted. Raises UserError as make_part.

    Args:
        before_part: called before a finished part is put in its place; may raise.
        on_rows: told now and then how many rows are done in all.
    """
    finished, missing, there = find_work(job, output)
    start = time.perf_counter()
    writer = PartWriter(job, output, backend.max_tokens, before_part)
    with Progress(job.corpus.rows, there) as progress:
        on_rows(progress.done)
        samples = _make_parts(job, missing, backend, writer=writer, progress=progress, on_rows=on_rows)
    result = collect_parts(job, output, finished)
    result.samples, result.padding_share = samples, backend.padding_share
    result.seconds = time.perf_counter() - start
    return result


def make_part(
    job: Job, part: int, backend: Backend, output: Output, *, before_part: Callable[[], None] = lambda: None
) -> Part:
    """Make one part and its record, by its number from 0: in any order, in any process, with the same bytes.

    `before_part` is called before the finished part is put in its place, and may raise. Raises UserError for a corpus
    that has changed, or an output that cannot be written.
    """
    writer = PartWriter(job, output, backend.max_tokens, before_part)
    with Progress(len(job.rows_of(part))) as progress:
        _make_parts(job, [part], backend, writer=writer, progress=progress)
    return writer.made[0]


def _make_parts(
    job: Job,
    parts: Sequence[int],
    backend: Backend,
    *,
    writer: PartWriter,
    progress: Progress,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> list[tuple[str, np.ndarray]]:
    """Make parts, in growing order; the next window is read, across parts, while this one is computed. Returns samples."""
    samples: list[tuple[str, np.ndarray]] = []
    given_back = time.monotonic()
    with (
        writer,
        BackgroundWriter() as background,
        contextlib.closing(prefetch(tokenize_windows(job, backend, parts))) as windows,
    ):
        for ready in windows:
            window = ready.window
            embedded = embed_window(job, backend, ready, progress.advance)
            background.do(writer.write, window, embedded)
            samples += _first_rows(window, embedded, SAMPLES - len(samples))
            progress.window_done(window.batch.num_rows)
            on_rows(progress.done)
            if time.monotonic() - given_back > GIVE_BACK_SECONDS:
                give_back_memory()
                given_back = time.monotonic()
    return samples


def _first_rows(window: Window, embedded: Embedded, count: int) -> list[tuple[str, np.ndarray]]:
    """Texts of a window, or pieces of them, each with its embedding."""
    texts = window.texts
    if embedded.pieces is not None:
        texts = [piece for pieces in embedded.pieces[:count] for piece in pieces]
    return [(text, vector.copy()) for text, vector in zip(texts[:count], embedded.vectors)]


def find_work(job: Job, output: Output, each: Each = here) -> tuple[set[int], list[int], int]:
    """The parts that are there, those that are missing, and how many rows are there; the last is logged. `each` as find_finished."""
    finished = find_finished(job, output, each)
    there = sum(len(job.rows_of(part)) for part in finished)
    if there:
        logger.info("%d of %d rows are there already", there, job.corpus.rows)
    return finished, [part for part in range(job.parts) if part not in finished], there


def find_finished(job: Job, output: Output, each: Each = here) -> set[int]:
    """The parts that an earlier encode has finished, and whose files are what their records say; `each` compares them."""
    recorded = find_records(output)
    numbers = [number for number in range(job.parts) if job.stem(number) in recorded]
    finished = set()
    for number, findings in zip(numbers, each(partial(check_part, job, output), numbers)):
        if findings:
            logger.warning("%s is encoded again: %s", job.stem(number), "; ".join(findings))
        elif findings is not None:
            finished.add(number)
    return finished


def check_part(job: Job, output: Output, number: int) -> list[str] | None:
    """Compare a part with its record, and that with the job: what is wrong, a line each; None without a record."""
    stem, rows = job.stem(number), job.rows_of(number)
    record = read_record(output, stem)
    if record is None:
        return None
    part = record.part
    findings = check_files(output, part.files) or verify.check_rows(output, part)
    findings += verify.check_origin(output, part, job.origin)
    if (part.name.partition(".")[0], part.first_row, part.rows) != (stem, rows.start, len(rows)):
        findings.append("its record is for other rows")
    # Before format 5 no row was reused.
    if part.counts.keys() | {"reused_rows"} != asdict(Counts()).keys():
        findings.append("its record has other counters")
    return findings


def collect_parts(job: Job, output: Output, resumed: set[int], *, compared: bool = False) -> Result:
    """Bring together what is known of every part; raises UserError where a new one is not what was written.

    Files are named where they are now: the corpus may have moved since a part was finished. `resumed`: the parts that
    an earlier encode has finished. `compared`: whether every file was compared with its record already.
    """
    corpus = job.corpus
    result = Result(dim=job.dim, dtype=job.options.dtype, ranges=job.ranges)
    read: set[File] = set()
    for number, part in enumerate(_read_parts(job, output)):
        part = replace(part, source=span(corpus, part.first_row, part.first_row + part.rows - 1))
        counts = Counts(**part.counts)
        result.add(counts)
        if number in resumed or compared:
            read.update(part.files)
        if number in resumed:
            result.resumed_rows += part.rows
        else:
            result.own.add(counts)
        result.parts.append(part)
        result.written_rows += part.written_rows
    with_rejects = (part for part in result.parts if part.counts["null_rows"])
    records = (find_record(output, part.name.partition(".")[0]) for part in with_rejects)
    rejects = (_relocated(record.read_rejects(corpus.id_type), corpus) for record in records)
    result.rejects = write_rejects(output, corpus.id_type, rejects)
    # find_finished has read the resumed parts; their sizes cost nothing.
    sizes = output.sizes() if read else {}
    findings = [f"{file.name} has another size" for file in read if sizes.get(file.name) != file.bytes]
    findings += check_files(output, [file for file in result.files() if file not in read])
    if findings:
        raise UserError(
            f"output {output} was changed while it was written: {'; '.join(findings[:3])}. Run the same command again: those parts are encoded again."
        )
    return result


def _read_parts(job: Job, output: Output) -> list[Part]:
    """Every part, as its record says. Several at once: in an object store each is a request."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda number: find_record(output, job.stem(number)).part, range(job.parts)))


def find_record(output: Output, stem: str) -> PartRecord:
    """The record of a part that is finished. Raises UserError where it is lost."""
    record = read_record(output, stem)
    if record is None:
        raise UserError(f"output {output} has lost the record of {stem}. Run the same command again to resume.")
    return record


def _relocated(rejects: pa.Table, corpus: Corpus) -> pa.Table:
    """Rejected rows, with the files that they are in now."""
    files = pa.array(corpus.files_of(rejects.column("row").to_pylist()), pa.string())
    return rejects.set_column(rejects.schema.get_field_index("file"), "file", files)


def give_back_memory() -> None:
    """Let the C library return what is free to the system (glibc has this call): windows leave holes in its heaps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
