"""Corpus -> backend -> parts: where the reader, the encoder and the writer meet. Knows neither MLflow nor Hydra.

Three threads: one reads and tokenises the next window, this one computes, one writes the last.
"""

import contextlib
import ctypes
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pyarrow as pa

from steps.common import manifest as manifests
from steps.common import shards, verify
from steps.common.backends import Backend
from steps.common.chunks import Chunker
from steps.common.corpus import Corpus
from steps.common.embedding import STORED, check_dim, stored_width
from steps.common.encoder import Encoder, Options, prepare_all
from steps.common.errors import UserError
from steps.common.output import Output
from steps.common.progress import Behind, Progress, ahead
from steps.common.windows import Counts, Embedded, Window, count, rejects_of, to_table

logger = logging.getLogger("steps")


@dataclass
class Result(Counts):
    """What a corpus became."""

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
    parts: list[shards.Part] = field(default_factory=list)
    rejects: shards.File | None = None
    sample_texts: list[str] = field(default_factory=list)
    sample_embeddings: list[np.ndarray] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """The metrics of an encode run: rows are those of the whole output, computed rows and rates those of this run, and
        seconds cover reading, encoding and writing."""
        seconds = max(self.seconds, 1e-9)
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
            "encode/peak_rss_mb": peak_rss_mb(),
            **({} if self.padding_share is None else {"encode/padding_share": self.padding_share}),
        }

    def files(self) -> list[shards.File]:
        """Every file that the corpus became."""
        return [file for part in self.parts for file in part.files] + ([self.rejects] if self.rejects else [])

    def manifest(self) -> dict:
        """What the manifest says of the whole."""
        names = (
            "rows",
            "written_rows",
            "null_rows",
            "empty_rows",
            "long_rows",
            "truncated_rows",
            "tokens",
            "dim",
            "dtype",
        )
        return {name: getattr(self, name) for name in names} | {
            "ranges": None if self.ranges is None else self.ranges.tolist(),
            "rejects": self.rejects,
        }


def peak_rss_mb() -> float:
    """Most memory this process has held, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def encode_corpus(
    corpus: Corpus,
    backend: Backend,
    output: Output,
    options: Options,
    *,
    chunker: Chunker | None = None,
    ranges: np.ndarray | None = None,
    before_part: Callable[[], None] = lambda: None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Result:
    """Embed every row of a corpus, in order, into parts; those that are finished in `output` already stay as they are.

    A row without a text gets a null embedding, and a row in rejects.parquet. A text that is longer than the model reads
    is cut by the model, or by the chunker into pieces, and counted.

    Args:
        ranges: what `int8` is scaled between, [2, dim].
        before_part: called before a finished part is put in its place; may raise.
        on_rows: told now and then how many rows are done in all.

    Raises:
        UserError: `truncate_dim` is more than the model has, a corpus that has changed, or an output that cannot be written.
    """
    check_dim(options.truncate_dim, backend.dim)
    dim = options.truncate_dim or backend.dim
    width = stored_width(dim, options.dtype)
    schema = shards.embedding_schema(
        corpus.id_type,
        width,
        STORED[options.dtype],
        keep_text=options.keep_text,
        nulls=corpus.null_rows > 0,
        chunks=options.row_per_chunk,
        kept=corpus.keep_types,
    )
    result = Result(dim=dim, dtype=options.dtype, ranges=ranges)
    encoder = Encoder(backend, options, chunker, ranges, width)
    parts = -(-corpus.rows // options.rows_per_part)
    stems = [shards.part_stem(index, parts) for index in range(parts)]
    finished = find_finished(output, stems, options.rows_per_part, corpus.rows)
    there = sum(record.part.rows for record in finished.values())
    if there:
        logger.info("%d of %d rows are there already", there, corpus.rows)
    start = time.perf_counter()
    with (
        Progress(corpus.rows, there) as progress,
        PartSink(output, corpus, schema, width, options, before_part, backend.max_tokens) as sink,
        Behind() as behind,
        contextlib.closing(ahead(prepare_all(corpus, encoder, options, stems, finished))) as windows,
    ):
        for window in windows:
            if window.stem in finished:
                encoder.replay(window, output, finished[window.stem].part)
                progress.window_passed()
            else:
                embedded = encoder.embed(window, progress.advance)
                behind.do(sink.write, window, embedded)
                progress.window_done(window.batch.num_rows)
            on_rows(progress.done)
            give_back_memory()
    result.padding_share = backend.padding_share
    result.sample_texts, result.sample_embeddings = encoder.sample_texts, encoder.sample_embeddings
    collect(output, stems, set(finished), corpus, result)
    result.seconds = time.perf_counter() - start
    return result


def find_finished(output: Output, stems: list[str], rows_per_part: int, rows: int) -> dict[str, manifests.PartRecord]:
    """The records of parts that an earlier encode has finished, and that are what it says they are."""
    finished = {}
    for index, stem in enumerate(stems):
        record = manifests.read_record(output, stem)
        if record is None:
            continue
        part, first = record.part, index * rows_per_part
        findings = manifests.check_files(output, part.files) or verify.check_rows(output, part)
        held = (part.name.partition(".")[0], part.first_row, part.rows)
        if held != (stem, first, min(rows_per_part, rows - first)):
            findings.append("its record is that of other rows")
        if part.counts.keys() != asdict(Counts()).keys():
            findings.append("its record counts something else")
        if findings:
            logger.warning("%s is encoded again: %s", stem, "; ".join(findings))
        else:
            finished[stem] = record
    return finished


def collect(output: Output, stems: list[str], resumed: set[str], corpus: Corpus, result: Result) -> None:
    """Bring together what is known of every part, and check that each is what was written.

    Files are named where they are now: the corpus may have moved since a part was finished.

    Raises:
        UserError: one is not.
    """
    for stem in stems:
        part = read_noted(output, stem).part
        part = replace(part, source=_span(corpus, part.first_row, part.first_row + part.rows - 1))
        counts = Counts(**part.counts)
        result.add(counts)
        if stem in resumed:
            result.resumed_rows += part.rows
        else:
            result.own.add(counts)
        result.parts.append(part)
        result.written_rows += part.written_rows
    records = (read_noted(output, stem) for stem in stems if result.null_rows)
    rejects = (_relocated(record.read_rejects(corpus.id_type), corpus) for record in records)
    result.rejects = manifests.write_rejects(output, corpus.id_type, rejects)
    findings = manifests.check_files(output, result.files())
    if findings:
        raise UserError(
            f"output {output} was changed while it was written: {'; '.join(findings[:3])}. Run the same command again: those parts are encoded again."
        )


def read_noted(output: Output, stem: str) -> manifests.PartRecord:
    """The record of a part that is finished; raises UserError where it is lost."""
    record = manifests.read_record(output, stem)
    if record is None:
        raise UserError(f"output {output} has lost the record of {stem}. Run the same command again to go on.")
    return record


def _relocated(rejects: pa.Table, corpus: Corpus) -> pa.Table:
    """Rejected rows, with the files that they are in now."""
    files = pa.array(corpus.files_of(rejects.column("row").to_pylist()), pa.string())
    return rejects.set_column(rejects.schema.get_field_index("file"), "file", files)


class PartSink:
    """Vectors -> parts in the output, each with its record. Used by one thread at a time."""

    def __init__(
        self,
        output: Output,
        corpus: Corpus,
        schema: pa.Schema,
        width: int,
        options: Options,
        before_part: Callable[[], None],
        max_tokens: int | None,
    ):
        self._output, self._corpus, self._schema, self._width = output, corpus, schema, width
        self._options, self._before_part, self._max_tokens = options, before_part, max_tokens
        self._writer = None

    def __enter__(self) -> "PartSink":
        return self

    def __exit__(self, *error) -> None:
        if self._writer is not None:
            self._writer.drop()

    def write(self, window: Window, embedded: Embedded) -> None:
        with written(self._output):
            if self._writer is None:
                make = shards.WRITERS[self._options.format]
                self._writer = make(self._output.workspace, window.stem, self._schema, self._width)
                self._first_row, self._rejects, self._counts = window.first_row, [], Counts()
            self._writer.write(to_table(window, embedded, self._schema))
            self._counts.add(count(window, embedded, self._max_tokens, chunked=window.pieces is not None))
            self._rejects.append(rejects_of(window, self._corpus))
            if window.is_last:
                self._finish(window)

    def _finish(self, window: Window) -> None:
        made = self._writer.finish()
        files = [shards.file_facts(path, name) for path, name in made]
        last = window.first_row + window.batch.num_rows - 1
        part = shards.Part(
            files[0].name,
            self._first_row,
            self._counts.rows,
            self._writer.rows,
            files[0].bytes,
            files[0].sha256,
            _span(self._corpus, self._first_row, last),
            asdict(self._counts),
            files[1:],
        )
        self._before_part()
        for path, name in made:
            self._output.put(path, name)
        manifests.write_record(self._output, part, pa.concat_tables(self._rejects))
        self._writer = None


@contextlib.contextmanager
def written(output: Output) -> Iterator[None]:
    """Say in one line that a disk is full, or gone.

    Raises:
        UserError: what was to be written cannot be.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"output {output} cannot be written: {error.strerror or error}. The finished parts are kept; mend that, and run the same command again to go on."
        ) from error


def _span(corpus: Corpus, first: int, last: int) -> dict:
    """Where the rows of a part stand: a shards.Part's `source`."""
    return {"first": _address(corpus, first), "last": _address(corpus, last)}


def _address(corpus: Corpus, row: int) -> dict:
    source, number = corpus.where(row)
    return {"file": str(source.place), "row": number}


def give_back_memory() -> None:
    """Let the C library return what is free to the system (glibc has this call): windows leave holes in its heaps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
