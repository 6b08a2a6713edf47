"""A corpus: files of texts, streamed as Arrow batches with an id, a text and the columns that go with it."""

import base64
import bisect
import contextlib
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, field

import pyarrow as pa

from steps.common.corpus.conf import CorpusConf
from steps.common.corpus.readers.format import Format, Request
from steps.common.corpus.rows import BEGINNING, Mark
from steps.common.corpus.texts import LINE, REASON, TextRows, read_texts
from steps.common.corpus.types import cast
from steps.common.errors import UserError
from steps.common.storage.place import Place, stamp

# What is noted of a file as it is, beside its name and its marks.
NOTED = ("keys", "bytes", "rows", "null_rows", "sha256")


@dataclass(frozen=True)
class Source:
    """One file of a corpus: its size, time and digest when the corpus was opened."""

    place: Place
    bytes: int
    modified: int | None
    rows: int
    null_rows: int
    sha256: str
    # Columns that its folders name, as in lang=en/part-0.csv.
    keys: dict[str, str | None]
    # Places in it where reading can begin, in order.
    marks: tuple[Mark, ...] = field(default=(), repr=False)

    def find_mark(self, row: int) -> Mark:
        """The last place at or before a row where reading can begin."""
        index = bisect.bisect_right(self.marks, row, key=lambda mark: mark.row)
        return self.marks[index - 1] if index else BEGINNING

    def check_unchanged(self) -> None:
        """Raises UserError where the file's size or modification time differs."""
        if stamp(self.place) != (self.bytes, self.modified):
            raise self.changed("its size or modification time differs")

    def changed(self, what: str) -> UserError:
        return UserError(
            f"{self.place} has changed since it was opened: {what}. Run the step again when the files no longer change."
        )


@dataclass(frozen=True)
class Corpus:
    """A corpus that `opening.open_corpus` has found readable. `batches` streams it, any number of times."""

    sources: list[Source]
    format: Format
    conf: CorpusConf
    # The type of the column `id`, and of each other value column.
    id_type: pa.DataType
    keep_types: dict[str, pa.DataType]

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def null_rows(self) -> int:
        """Rows that have no text to embed."""
        return sum(source.null_rows for source in self.sources)

    @property
    def schema(self) -> pa.Schema:
        """The columns of a batch: id, text, those that go with it, LINE and REASON."""
        return pa.schema(
            [("id", self.id_type), ("text", pa.string()), *self.keep_types.items()]
            + [(LINE, pa.int64()), (REASON, pa.string())]
        )

    def describe(self) -> dict:
        """What a result records of its corpus."""
        return {
            "format": self.format.name,
            "text_column": self.conf.text_column,
            "template": self.conf.template,
            "id_column": next((column.name for column in self.conf.value_columns if column.kind == "id"), None),
            "keep_columns": list(self.keep_types),
            "sources": [
                {"path": str(source.place), "bytes": source.bytes, "rows": source.rows, "sha256": source.sha256}
                for source in self.sources
            ],
        }

    def decisive(self) -> dict:
        """What of its files decides a result, for a plan: their names, contents, and the columns that folders name."""
        used = {column.name for column in self.conf.text_columns + self.conf.value_columns}
        sources, partitions = {}, {}
        for i, one in enumerate(self.sources):
            name = f"{i:05d} {one.place.name}"
            sources[name] = f"{one.sha256} ({one.rows} rows)"
            # As JSON, which tells a null from the word.
            if keys := {key: json.dumps(value, ensure_ascii=False) for key, value in one.keys.items() if key in used}:
                partitions[name] = keys
        return {"sources": sources} | ({"partitions": partitions} if partitions else {})

    def noted(self) -> dict:
        """The findings of the read-through as JSON values; `open_corpus` takes them in place of reading again."""
        types = pa.schema([("id", self.id_type), *self.keep_types.items()])
        found = {
            **how_read(self.format, self.conf),
            "types": base64.b64encode(types.serialize()).decode(),
            "sources": [
                {"name": one.place.name, **{key: getattr(one, key) for key in NOTED}}
                | {"marks": [list(astuple(mark)) for mark in one.marks]}
                for one in self.sources
            ],
        }
        return {**found, "digest": digest_of(found)}

    def where(self, row: int) -> tuple[Source, int]:
        """The file that a row of the corpus is in, and its number there, from 0."""
        index = bisect.bisect_right(self._first_rows, row) - 1
        return self.sources[index], row - self._first_rows[index]

    def files_of(self, rows: Iterable[int]) -> list[str]:
        """The path or URI of the file that each of some rows is in."""
        return [str(self.where(row)[0].place) for row in rows]

    @functools.cached_property
    def _first_rows(self) -> list[int]:
        """The number of each source's first row."""
        return [0, *itertools.accumulate(source.rows for source in self.sources[:-1])]

    def batches(self, size: int, first: int = 0, end: int | None = None) -> Iterator[pa.RecordBatch]:
        """Stream rows [first, end) in the order of the corpus, at most `size` rows at a time; `end` None is its end.

        Where a batch ends depends on the files and on `first`: join batches before what must not depend on that.

        Raises UserError for a file that has changed since the corpus was opened. Another size or modification time is
        noticed before its rows are yielded; a change of content that keeps both, only where a file of lines is read whole:
        its digest is compared before its last batch is yielded.
        """
        end = self.rows if end is None else end
        for source, row in zip(self.sources, self._first_rows):
            begin, stop = max(first - row, 0), min(end - row, source.rows)
            # A file without rows may have some by now.
            if begin < stop or begin == stop == source.rows == 0:
                yield from self._read_source(source, row, size, begin, stop)

    def _read_source(
        self, source: Source, first_row: int, size: int, begin: int, stop: int
    ) -> Iterator[pa.RecordBatch]:
        """Rows [begin, stop) of a file, whose first row is `first_row` of the corpus."""
        is_whole = begin == 0 and stop == source.rows
        digest = hashlib.sha256() if is_whole and self.format.has_lines else None
        dialect, mark = self.conf.dialect, source.find_mark(begin)
        request = Request(source.place, [], size, dialect=dialect, first=begin, mark=mark, digest=digest)
        source.check_unchanged()
        row = begin
        # The last batch is held back until the file is found unchanged.
        last: pa.RecordBatch | None = None
        with contextlib.closing(read_texts(request, self.format, self.conf, source.keys)) as stream:
            for rows in stream:
                if source.place.local is not None:
                    # Before these rows are used: elsewhere it would be a request for each batch.
                    source.check_unchanged()
                if row + len(rows) > source.rows:
                    raise source.changed(f"it held {source.rows} rows")
                if last is not None:
                    yield last
                last = self._batch(source, rows, first_row + row).slice(0, stop - row)
                row += len(rows)
                if row >= stop < source.rows:
                    break
        if row < stop:
            raise source.changed(f"it held {source.rows} rows")
        if digest is not None and digest.hexdigest() != source.sha256:
            raise source.changed("its content differs")
        source.check_unchanged()
        if last is not None:
            yield last

    def _batch(self, source: Source, rows: TextRows, first: int) -> pa.RecordBatch:
        count = len(self.conf.value_columns) - len(self.keep_types)
        ids, kept = rows.values[:count], rows.values[count:]
        numbers = pa.array(range(first, first + len(rows)), pa.int64())
        columns = [
            cast(ids[0], self.id_type, source.place) if ids else numbers,
            rows.texts,
            *(cast(values, kind, source.place) for values, kind in zip(kept, self.keep_types.values())),
            rows.lines if rows.lines is not None else pa.nulls(len(rows), pa.int64()),
            pa.array([rows.reasons.get(i) for i in range(len(rows))], pa.string())
            if rows.reasons
            else pa.nulls(len(rows), pa.string()),
        ]
        return pa.record_batch(columns, schema=self.schema)


def how_read(format: Format, conf: CorpusConf) -> dict:
    """What of a config decides what is found in files, as JSON has it."""
    return {
        "format": format.name,
        "columns": [[column.name, column.kind] for column in conf.text_columns + conf.value_columns],
        "template": conf.template,
        "on_bad_row": str(conf.on_bad_row),
        "dialect": asdict(conf.dialect),
    }


def digest_of(found: dict) -> str:
    """SHA-256 of findings, which shows whether a note of them is damaged."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
