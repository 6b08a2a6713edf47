"""Files -> streams of Arrow batches with an id, a text and the columns that are kept. Knows neither MLflow nor Hydra.

`open_corpus` reads a corpus through once before anything is computed, so that a bad line at the end of a large
corpus is reported in seconds, not after hours.
"""

import bisect
import functools
import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from steps.common.corpus.readers import read_rows
from steps.common.corpus.readers.csv import advice
from steps.common.corpus.readers.formats import DELIMITERS, FORMATS, LINE_FORMATS, detect_format, split_name
from steps.common.corpus.readers.lines import Dialect
from steps.common.corpus.repeats import RepeatCounter
from steps.common.corpus.rows import Column, missing
from steps.common.corpus.texts import LINE, REASON, Fields, TextRows, check_fields, fill, judge
from steps.common.corpus.types import cast, common_type, id_type_of_strings, of_json, readable, to_json
from steps.common.errors import UserError
from steps.common.storage import place as files
from steps.common.storage import stream
from steps.common.storage.find import find
from steps.common.storage.place import Place, before_magic, locate, stamp

logger = logging.getLogger("steps")


# Rows read at a time when a corpus is read through.
SCAN = 8192


@dataclass(frozen=True)
class Source:
    """One file of a corpus."""

    place: Place
    bytes: int
    modified: int | None
    rows: int
    null_rows: int
    sha256: str
    # Columns that its folders name, as in lang=en/part-0.csv.
    keys: dict[str, str | None]


@dataclass(frozen=True)
class Corpus:
    """A corpus that was found readable; `batches` streams it, as often as asked."""

    sources: list[Source]
    format: str
    fields: Fields
    id_type: pa.DataType
    keep_types: dict[str, pa.DataType]
    # Texts that stand in more than one row: hash of the text in this process -> rows.
    repeats: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def null_rows(self) -> int:
        """Rows that have no text to embed."""
        return sum(source.null_rows for source in self.sources)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [("id", self.id_type), ("text", pa.string()), *self.keep_types.items()]
            + [(LINE, pa.int64()), (REASON, pa.string())]
        )

    def describe(self) -> dict:
        """What a result records of its corpus."""
        return {
            "format": self.format,
            "text_column": self.fields.text_column,
            "template": self.fields.template,
            "id_column": self.fields.id_column,
            "keep_columns": list(self.fields.keep_columns),
            "sources": [
                {"path": str(source.place), "bytes": source.bytes, "rows": source.rows, "sha256": source.sha256}
                for source in self.sources
            ],
        }

    def decisive(self) -> dict:
        """What of its files decides a result, for a plan: their names and contents, and the columns in use that their
        folders name. Types follow from these, and from the code and libraries that are in the plan as well."""
        names = [f"{i:05d} {source.place.name}" for i, source in enumerate(self.sources)]
        used = {column.name for column in self.fields.text_columns + self.fields.value_columns}
        # As JSON, which tells a null from the word.
        keys = {
            name: {key: json.dumps(value, ensure_ascii=False) for key, value in source.keys.items() if key in used}
            for name, source in zip(names, self.sources)
        }
        sources = {name: f"{one.sha256} ({one.rows} rows)" for name, one in zip(names, self.sources)}
        partitions = {name: values for name, values in keys.items() if values}
        return {"sources": sources} | ({"partitions": partitions} if partitions else {})

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

    def batches(self, size: int) -> Iterator[pa.RecordBatch]:
        """Stream the corpus in its own order, at most `size` rows at a time.

        Raises:
            UserError: a file that can no longer be read as it was when the corpus was opened.
        """
        first = 0
        for source in self.sources:
            _check_unchanged(source)
            digest, end = hashlib.sha256(), first + source.rows
            # The last rows of a file are handed on once the whole of it was found to be what it was.
            last: pa.RecordBatch | None = None
            for rows in _read(source.place, self.format, self.fields, size, source.keys, digest):
                if first + len(rows) > end:
                    raise _changed(source.place, f"it held {source.rows} rows")
                if source.place.local is not None:
                    # Before these rows are used: elsewhere it would be a request for each batch.
                    _check_unchanged(source)
                if last is not None:
                    yield last
                last = self._batch(source, rows, first)
                first += len(rows)
            if first != end:
                raise _changed(source.place, f"it held {source.rows} rows")
            if self.format in LINE_FORMATS and digest.hexdigest() != source.sha256:
                raise _changed(source.place, "its content is another")
            _check_unchanged(source)
            if last is not None:
                yield last

    def _batch(self, source: Source, rows: "TextRows", first: int) -> pa.RecordBatch:
        count = len(self.fields.value_columns) - len(self.fields.keep_columns)
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


def open_corpus(
    path: Path | str,
    format: str = "auto",
    text_column: str = "text",
    id_column: str | None = None,
    template: str | None = None,
    keep_columns: Sequence[str] = (),
    on_bad_row: str = "auto",
    delimiter: str | None = None,
    quoting: str = "csv",
) -> Corpus:
    """Find the files of a corpus and check that every row of them can be read.

    Args:
        path: a file, a folder (its files of a known format, in name order) or a glob; a local path or a URI.
        format: auto (by the file's ending), text, csv, tsv, jsonl, parquet, arrow or orc.
        template: makes the text of several columns, "{title}. {body}"; a null value in it is written as nothing.
        keep_columns: columns that go with the text.
        delimiter: what stands between the cells of CSV and TSV, a character or "tab"; None for that of the format.
        quoting: csv (a cell may stand in quotes) or none (a quote is a character like any other).

    Raises:
        UserError: no file, an unknown or mixed format, a missing column, no row at all, a file that cannot be read, a
            row that `on_bad_row` refuses, or a column whose types share none or that Parquet cannot hold.
    """
    places = find_files(path, format)
    formats = {detect_format(place) if format == "auto" else format for place in places}
    if len(formats) > 1:
        raise UserError(
            f"{path} holds files of several formats ({', '.join(sorted(formats))}); give corpus.format=<one of them> or a glob such as '{path}/*.csv'."
        )
    kind = formats.pop()
    fields = Fields(
        text_column, id_column, template, tuple(keep_columns), on_bad_row, _dialect(kind, delimiter, quoting)
    )
    check_fields(fields, kind, places[0], partition_keys(path, places[0]))
    counter = RepeatCounter()
    scans = [_scan(place, kind, fields, partition_keys(path, place), counter) for place in places]
    if kind == "jsonl":
        _check_keys(fields, scans)
    types = [
        common_type(
            [(found, scan.source.place) for scan in scans for found in scan.types[i]],
            kind,
            column.name,
            is_id=column.kind == "id",
        )
        for i, column in enumerate(fields.value_columns)
    ]
    _check_values(kind, fields, scans, types)
    if kind == "jsonl":
        types = [to_json(found) for found in types]
    corpus = Corpus(
        [scan.source for scan in scans],
        kind,
        fields,
        types.pop(0) if id_column is not None else pa.int64(),
        dict(zip(fields.keep_columns, types)),
        counter.repeats(),
    )
    if corpus.rows == 0:
        raise UserError(f"the corpus is empty: expected at least one row, found none in {path}.")
    return corpus


def _dialect(format: str, delimiter: str | None, quoting: str) -> Dialect:
    """Raises UserError for a delimiter that is none, or a format that has none."""
    if format not in DELIMITERS and (delimiter is not None or quoting != "csv"):
        given = f"corpus.delimiter={delimiter}" if delimiter is not None else f"corpus.quoting={quoting}"
        raise UserError(f"{given} is of CSV and TSV, but the corpus is {format}. Leave it out, or give corpus.format.")
    character = "\t" if delimiter in ("tab", "\\t") else delimiter
    if character is not None and (len(character) != 1 or character in '"\r\n'):
        raise UserError(
            f"corpus.delimiter is {delimiter!r}; expected one character that is no quote and no line end, or tab."
        )
    return Dialect(character, quoting == "csv")


def find_files(path: Path | str, format: str = "auto") -> list[Place]:
    """The files that a path, folder or glob names, in name order.

    Raises:
        UserError: there is none.
    """
    root, found = locate(path), find(path)
    places = found
    is_folder = (not places or format == "auto") and root.info().type == files.fs.FileType.Directory
    if is_folder and format == "auto":
        places = [place for place in places if split_name(place.name)[0] in FORMATS]
    if len(found) > 1 or len(found) > len(places):
        skipped = [place for place in found if place not in places]
        more = f", skipped {_endings(skipped)} of unknown format" if skipped else ""
        logger.info("corpus %s: %s taken%s", root, _endings(places), more)
    if not places and is_folder:
        raise UserError(f"the folder {root} holds no corpus file: expected one that ends in {', '.join(FORMATS)}.")
    if not places:
        raise UserError(f"there is no corpus at {root}: expected a file, a folder or a glob that matches files.")
    return places


def _endings(places: list[Place]) -> str:
    """How many files there are, and with what endings: 3 files (2 .csv, 1 .csv.gz)."""
    names = [place.name.lower() for place in places]
    counts = Counter("".join(_suffixes(name)) or "without an ending" for name in names).most_common()
    shown = ", ".join(f"{count} {ending}" for ending, count in counts[:10]) + (", ..." if len(counts) > 10 else "")
    return f"{len(places)} file{'' if len(places) == 1 else 's'}" + (f" ({shown})" if shown else "")


def _suffixes(name: str) -> list[str]:
    ending, compression = split_name(name)
    if compression is not None:
        return [ending, "." + name.rpartition(".")[2]]
    return [ending] if "." in name else []


def partition_keys(path: Path | str, place: Place) -> dict[str, str | None]:
    """The columns that a file's folders name below the one that was given, as in lang=en/part-0.parquet."""
    given = locate(path).path
    if not place.path.startswith(given.rstrip("/") + "/"):
        given = before_magic(given)
    folders = place.path.removeprefix(given.rstrip("/")).split("/")[:-1]
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {
        unquote(name): None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for name, _, value in pairs
    }


def _read(
    place: Place, format: str, fields: Fields, size: int, keys: dict[str, str | None], digest=None, seen=None
) -> Iterator[TextRows]:
    columns = fields.text_columns + fields.value_columns
    inside = [column for column in columns if column.name not in keys]
    if not inside:
        raise UserError(
            f"{place}: every column that was asked for is in the names of its folders; expected a text too."
        )
    first, seen = 0, {} if seen is None else seen
    for rows in read_rows(place, format, inside, size, digest, fields.dialect, seen):
        held = iter(rows.arrays)
        arrays = [
            pa.array([keys[column.name]] * len(rows), pa.string()) if column.name in keys else next(held)
            for column in columns
        ]
        texts, values = arrays[: len(fields.text_columns)], arrays[len(fields.text_columns) :]
        text = texts[0] if fields.template is None else fill(fields.template, fields.text_columns, texts)
        made = TextRows(text, values, rows.lines, dict(rows.reasons))
        try:
            judged = judge(place, fields.on_bad_row, made, rows, first)
        except UserError:
            if seen:
                # A name that no object has so far is the cause of a text that is null.
                _check_text_key(place, fields, seen, keys)
            raise
        yield judged
        first += len(rows)


@dataclass(frozen=True)
class _Scan:
    """What was found when a file was read through."""

    source: Source
    # For each value column the types of its values, in the order in which they came.
    types: list[list[pa.DataType]]
    # Of JSON Lines: the keys of its objects.
    seen: dict[str, None]


def _scan(place: Place, format: str, fields: Fields, keys: dict[str, str | None], counter: RepeatCounter) -> _Scan:
    """Read a file through: its rows, nulls and digest, and the types of each of its values.

    `counter` is shown its texts.
    """
    size, modified = stamp(place)
    types: list[dict[pa.DataType, None]] = [{} for _ in fields.value_columns]
    rows = nulls = 0
    digest, seen = hashlib.sha256(), {}
    for chunk in _read(place, format, fields, SCAN, keys, digest, seen):
        rows += len(chunk)
        nulls += chunk.texts.null_count
        counter.add(chunk.texts.to_pylist())
        for i, (found, values) in enumerate(zip(types, chunk.values)):
            is_id = i == 0 and fields.id_column is not None
            found[id_type_of_strings(values) if is_id and format in DELIMITERS else _type_of(values, format)] = None
    sha256 = digest.hexdigest() if format in LINE_FORMATS else stream.sha256(place)
    return _Scan(Source(place, size, modified, rows, nulls, sha256, keys), [list(found) for found in types], seen)


def _type_of(values: pa.Array, format: str) -> pa.DataType:
    return of_json(values) if format == "jsonl" else readable(values)


def _check_keys(fields: Fields, scans: list[_Scan]) -> None:
    """Any object of JSON Lines may leave a key out: its value is null there.

    Raises:
        UserError: a file no object of which has the text, or a key that no object of the corpus has.
    """
    scans = [scan for scan in scans if scan.seen]
    for scan in scans:
        _check_text_key(scan.source.place, fields, scan.seen, scan.source.keys)
    for name in dict.fromkeys(column.name for column in fields.text_columns + fields.value_columns):
        if scans and not any(name in scan.seen or name in scan.source.keys for scan in scans):
            raise missing(scans[0].source.place, list(scans[0].seen), name)


def _check_text_key(place: Place, fields: Fields, seen: dict[str, None], keys: dict[str, str | None]) -> None:
    """Raises UserError for JSON Lines none of whose objects has a text."""
    names = [column.name for column in fields.text_columns]
    if not any(name in seen or name in keys for name in names):
        raise missing(place, list(seen), names[0])


def _check_values(format: str, fields: Fields, scans: list[_Scan], types: list[pa.DataType]) -> None:
    """Read the columns again whose type differs from that of the corpus: a date may be too far away for nanoseconds, or
    for the milliseconds that Parquet makes of seconds.

    Raises:
        UserError: a value that the type of the whole corpus cannot hold.
    """
    if format in LINE_FORMATS:
        return
    for scan in scans:
        for column, found, kind in zip(fields.value_columns, scan.types, types):
            if column.name in scan.source.keys or all(pa.types.is_null(one) or one == kind for one in found):
                continue
            for rows in read_rows(scan.source.place, format, [column], SCAN):
                cast(rows.arrays[0], kind, scan.source.place)


def _check_unchanged(source: Source) -> None:
    if stamp(source.place) != (source.bytes, source.modified):
        raise _changed(source.place, "its size or its time of change is another")


def _changed(place: Place, what: str) -> UserError:
    return UserError(
        f"{place} has changed since it was opened: {what}. Run the step again on files that stay as they are."
    )


def read_columns(place: Place, format: str, columns: list[str], size: int) -> Iterator[list[pa.Array]]:
    """Stream columns of a file, at most `size` rows at a time; the first column holds strings.

    Raises:
        UserError: what cannot be read, with file and line.
    """
    first = 0
    asked = [Column(name, "value" if i else "string") for i, name in enumerate(columns)]
    for rows in read_rows(place, format, asked, size):
        for row, reason in sorted(rows.reasons.items()):
            where = f"line {rows.lines[row].as_py()}" if rows.lines is not None else f"row {first + row + 1}"
            raise UserError(f"{place} {where}: {reason}. {advice(place, reason)}".strip())
        first += len(rows)
        yield rows.arrays
