"""Files -> streams of Arrow batches with an id, a text and the columns that are kept. Knows neither MLflow nor Hydra.

`open_corpus` reads a corpus through once before anything is computed, so that a bad line at the end of a large
corpus is reported in seconds, not after hours.
"""

import base64
import bisect
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from steps.common import column_types, files
from steps.common.errors import UserError
from steps.common.files import Place
from steps.common.readers import (
    DELIMITERS,
    FORMATS,
    LINE_FORMATS,
    Dialect,
    advice,
    detect_format,
    read_rows,
    split_name,
)
from steps.common.rows import BEGINNING, Column, Mark, Rows, missing, null_like

logger = logging.getLogger("steps")

# A number that is written as itself: no leading zero, no plus sign, few enough digits for int64 whatever they are.
CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")

# What an output calls its own columns.
OUTPUT_COLUMNS = ("id", "text", "embedding", "chunk")

# Columns of a batch beside those of the corpus: the row's line in its file, and why it has no text.
LINE, REASON = "__line__", "__reason__"

RESERVED = (*OUTPUT_COLUMNS, LINE, REASON)

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
    # Places in it where reading can begin, in order.
    marks: tuple[Mark, ...] = field(default=(), repr=False)

    def find_mark(self, row: int) -> Mark:
        """The last place at or before a row where reading can begin."""
        index = bisect.bisect_right(self.marks, row, key=lambda mark: mark.row)
        return self.marks[index - 1] if index else BEGINNING


@dataclass(frozen=True)
class Fields:
    """Which columns of a corpus make a row, and what happens to a row without a text to embed.

    on_bad_row: keep_nulls keeps the row of a null text, with a null embedding, embeds an empty text, and refuses a row
    that cannot be read. keep_all keeps all of these rows with a null embedding. refuse_all refuses them.
    """

    text_column: str
    id_column: str | None
    template: str | None
    keep_columns: tuple[str, ...]
    on_bad_row: str
    dialect: Dialect = Dialect()

    @property
    def text_columns(self) -> list[Column]:
        if self.template is None:
            return [Column(self.text_column, "string")]
        return [Column(name, "text") for name in template_columns(self.template)]

    @property
    def value_columns(self) -> list[Column]:
        ids = [Column(self.id_column, "id")] if self.id_column is not None else []
        return ids + [Column(name) for name in self.keep_columns]


@dataclass(frozen=True)
class Corpus:
    """A corpus that was found readable; `batches` streams it, as often as asked."""

    sources: list[Source]
    format: str
    fields: Fields
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

    def batches(self, size: int, first: int = 0, end: int | None = None) -> Iterator[pa.RecordBatch]:
        """Stream rows [first, end) in the order of the corpus, at most `size` rows at a time.

        Reading begins at the last mark before `first`. Where a batch ends also depends on the files and on `first`, so
        join batches before anything that must not depend on that.

        A change of a file's size or modification time is noticed, before its rows are handed on. A change of its
        content that leaves both as they were is noticed only where a file of lines is read as a whole: its digest is
        compared before the last batch is handed on.

        Args:
            end: None for the end of the corpus.

        Raises:
            UserError: a file that can no longer be read as it was when the corpus was opened.
        """
        end = self.rows if end is None else end
        for source, row in zip(self.sources, self._first_rows):
            begin, stop = max(first - row, 0), min(end - row, source.rows)
            # A file without rows may have some by now.
            if begin < stop or begin == stop == source.rows == 0:
                yield from self._batches_of(source, row, size, begin, stop)

    def _batches_of(self, source: Source, first_row: int, size: int, begin: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Rows [begin, stop) of a file, whose first row is `first_row` of the corpus."""
        is_whole = begin == 0 and stop == source.rows
        digest = hashlib.sha256() if is_whole and self.format in LINE_FORMATS else None
        _check_unchanged(source)
        row = begin
        # The last batch is held back until the file is found unchanged.
        last: pa.RecordBatch | None = None
        stream = _read(
            source.place, self.format, self.fields, size, source.keys, digest, None, begin, source.find_mark(begin)
        )
        with contextlib.closing(stream):
            for rows in stream:
                if source.place.local is not None:
                    # Before these rows are used: elsewhere it would be a request for each batch.
                    _check_unchanged(source)
                if row + len(rows) > source.rows:
                    raise _changed(source.place, f"it held {source.rows} rows")
                if last is not None:
                    yield last
                last = self._batch(source, rows, first_row + row).slice(0, stop - row)
                row += len(rows)
                if row >= stop < source.rows:
                    break
        if row < stop:
            raise _changed(source.place, f"it held {source.rows} rows")
        if digest is not None and digest.hexdigest() != source.sha256:
            raise _changed(source.place, "its content is another")
        _check_unchanged(source)
        if last is not None:
            yield last

    def noted(self) -> dict:
        """What was found when the corpus was read through, as JSON has it: `open_corpus` takes it in place of reading."""
        types = pa.schema([("id", self.id_type), *self.keep_types.items()])
        found = {
            **_asked(self.format, self.fields),
            "types": base64.b64encode(types.serialize()).decode(),
            "sources": [
                {
                    "name": source.place.name,
                    "keys": source.keys,
                    "bytes": source.bytes,
                    "rows": source.rows,
                    "null_rows": source.null_rows,
                    "sha256": source.sha256,
                    "marks": [[mark.row, mark.position, mark.lines] for mark in source.marks],
                }
                for source in self.sources
            ],
        }
        return {**found, "digest": _digest_of(found)}

    def _batch(self, source: Source, rows: "_TextRows", first: int) -> pa.RecordBatch:
        count = len(self.fields.value_columns) - len(self.fields.keep_columns)
        ids, kept = rows.values[:count], rows.values[count:]
        numbers = pa.array(range(first, first + len(rows)), pa.int64())
        columns = [
            _cast(ids[0], self.id_type, source.place) if ids else numbers,
            rows.texts,
            *(_cast(values, kind, source.place) for values, kind in zip(kept, self.keep_types.values())),
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
    on_bad_row: str = "keep_nulls",
    delimiter: str | None = None,
    quoting: str = "csv",
    noted: dict | None = None,
) -> Corpus:
    """Find the files of a corpus and check that every row of them can be read.

    Args:
        path: a file, a folder (its files of a known format, in name order) or a glob; a local path or a URI.
        format: auto (by the file's ending), text, csv, tsv, jsonl, parquet, arrow or orc.
        template: makes the text of several columns, "{title}. {body}"; a null value in it is written as nothing.
        keep_columns: columns that go with the text.
        delimiter: what stands between the cells of CSV and TSV, a character or "tab"; None for that of the format.
        quoting: csv (a cell may stand in quotes) or none (a quote is a character like any other).
        noted: what `Corpus.noted` has given before. Where files of the same names hold the same bytes, and are read the
            same way, it is taken and the files are only hashed.

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
    _check_fields(fields, kind, places[0], partition_keys(path, places[0]))
    keys = [partition_keys(path, place) for place in places]
    recalled = _recall(noted, kind, fields, places, keys)
    if recalled is not None:
        return recalled
    scans = [_scan(place, kind, fields, held) for place, held in zip(places, keys)]
    if kind == "jsonl":
        _check_keys(fields, scans)
    types = [
        _common_type(
            [(found, scan.source.place) for scan in scans for found in scan.types[i]],
            kind,
            column.name,
            is_id=column.kind == "id",
        )
        for i, column in enumerate(fields.value_columns)
    ]
    _check_values(kind, fields, scans, types)
    if kind == "jsonl":
        types = [column_types.to_json(found) for found in types]
    corpus = Corpus(
        [scan.source for scan in scans],
        kind,
        fields,
        types.pop(0) if id_column is not None else pa.int64(),
        dict(zip(fields.keep_columns, types)),
    )
    if corpus.rows == 0:
        raise UserError(f"the corpus is empty: expected at least one row, found none in {path}.")
    return corpus


def _asked(format: str, fields: Fields) -> dict:
    """How files are read, as JSON has it."""
    return json.loads(json.dumps({"format": format, "fields": asdict(fields)}))


def _digest_of(found: dict) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _recall(
    noted: dict | None, format: str, fields: Fields, places: list[Place], keys: list[dict[str, str | None]]
) -> Corpus | None:
    """The corpus as it was noted; None where that is damaged, or of other files or another way to read them."""
    if not isinstance(noted, dict):
        return None
    found = {name: value for name, value in noted.items() if name != "digest"}
    if noted.get("digest") != _digest_of(found) or {**found, **_asked(format, fields)} != found:
        return None
    if [(one["name"], one["keys"]) for one in found["sources"]] != [
        (place.name, of) for place, of in zip(places, keys)
    ]:
        return None
    stamps = [files.stamp(place) for place in places]
    if [one["bytes"] for one in found["sources"]] != [size for size, _ in stamps]:
        return None
    if any(files.sha256(place) != one["sha256"] for place, one in zip(places, found["sources"])):
        return None
    sources = [
        Source(place, *stamp, one["rows"], one["null_rows"], one["sha256"], of, tuple(Mark(*at) for at in one["marks"]))
        for place, stamp, of, one in zip(places, stamps, keys, found["sources"])
    ]
    types = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(found["types"])))
    return Corpus(
        sources,
        format,
        fields,
        types.field(0).type,
        {name: types.field(i).type for i, name in enumerate(fields.keep_columns, start=1)},
    )


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


def _check_fields(fields: Fields, format: str, place: Place, keys: dict[str, str | None]) -> None:
    if format == "text":
        kept = [name for name in fields.keep_columns if name not in keys]
        for key, given in (("id_column", fields.id_column), ("template", fields.template), ("keep_columns", kept)):
            if given:
                raise UserError(
                    f"a text file has no columns, so corpus.{key}={given} cannot be read from {place}; leave it out to number the lines."
                )
    taken = [name for name in fields.keep_columns if name in RESERVED]
    if taken:
        raise UserError(
            f"corpus.keep_columns names {taken[0]!r}, which is a name of the project's own ({', '.join(RESERVED)}). Rename the column, or leave it out."
        )
    if len(set(fields.keep_columns)) < len(fields.keep_columns):
        raise UserError(f"corpus.keep_columns names a column twice: {', '.join(fields.keep_columns)}.")
    if fields.template is not None:
        template_columns(fields.template)


def template_columns(template: str) -> list[str]:
    """The columns that a template names, each once.

    Raises:
        UserError: a template that names none, or holds more than names in braces.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"corpus.template={template!r} cannot be read: {error}. Write column names in braces, as in '{{title}}. {{body}}', and {{{{ for a brace itself."
        ) from None
    names = [name for _, name, _, _ in parts if name is not None]
    odd = [name for _, name, spec, conversion in parts if name is not None and (not name or spec or conversion)]
    if odd or not names:
        raise UserError(
            f"corpus.template={template!r} {'names no column' if not names else 'holds more than column names in its braces'}; expected something like '{{title}}. {{body}}'."
        )
    return list(dict.fromkeys(names))


def find_files(path: Path | str, format: str = "auto") -> list[Place]:
    """The files that a path, folder or glob names, in name order.

    Raises:
        UserError: there is none.
    """
    root, found = files.locate(path), files.find(path)
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
    given = files.locate(path).path
    if not place.path.startswith(given.rstrip("/") + "/"):
        given = files.before_magic(given)
    folders = place.path.removeprefix(given.rstrip("/")).split("/")[:-1]
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {
        unquote(name): None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for name, _, value in pairs
    }


@dataclass(frozen=True)
class _TextRows:
    """Rows of a file whose text is made, and judged."""

    texts: pa.Array
    values: list[pa.Array]
    lines: pa.Array | None
    reasons: dict[int, str]
    next: Mark | None

    def __len__(self) -> int:
        return len(self.texts)


def _read(
    place: Place,
    format: str,
    fields: Fields,
    size: int,
    keys: dict[str, str | None],
    digest=None,
    seen=None,
    first: int = 0,
    mark: Mark = BEGINNING,
) -> Iterator[_TextRows]:
    columns = fields.text_columns + fields.value_columns
    inside = [column for column in columns if column.name not in keys]
    if not inside:
        raise UserError(
            f"{place}: every column that was asked for is in the names of its folders; expected a text too."
        )
    seen = {} if seen is None else seen
    for rows in read_rows(place, format, inside, size, digest, fields.dialect, seen, first, mark):
        held = iter(rows.arrays)
        arrays = [
            pa.array([keys[column.name]] * len(rows), pa.string()) if column.name in keys else next(held)
            for column in columns
        ]
        texts, values = arrays[: len(fields.text_columns)], arrays[len(fields.text_columns) :]
        text = texts[0] if fields.template is None else _fill(fields.template, fields.text_columns, texts)
        made = _TextRows(text, values, rows.lines, dict(rows.reasons), rows.next)
        try:
            judged = _judge(place, fields.on_bad_row, made, rows, first)
        except UserError:
            if seen:
                # A name that no object has so far is the cause of a text that is null.
                _check_text_key(place, fields, seen, keys)
            raise
        yield judged
        first += len(rows)


def _fill(template: str, columns: list[Column], arrays: list[pa.Array]) -> pa.Array:
    """A text for each row: null where all its columns are null."""
    names = [column.name for column in columns]
    parts = [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]
    texts = []
    for values in zip(*(array.to_pylist() for array in arrays)):
        row = dict(zip(names, values))
        filled = "".join(literal + (row[name] or "" if name is not None else "") for literal, name in parts)
        texts.append(filled if any(value is not None for value in values) else None)
    return pa.array(texts, pa.string())


def _judge(place: Place, on_bad_row: str, made: _TextRows, rows: Rows, first: int) -> _TextRows:
    """Give every row without a text to embed its reason, and take its text away.

    Raises:
        UserError: a row that `on_bad_row` refuses.
    """
    reasons = made.reasons
    broken = sorted(reasons)
    if made.texts.null_count:
        for row in pc.indices_nonzero(pc.is_null(made.texts)).to_pylist():
            reasons.setdefault(row, "null")
    if on_bad_row != "keep_nulls":
        # Lengths before and after, so that the texts themselves are not gone through one by one.
        blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(made.texts)), 0)
        for row in pc.indices_nonzero(pc.fill_null(blank, False)).to_pylist():
            reasons.setdefault(row, "only white space" if made.texts[row].as_py() else "empty")
        for row in pc.indices_nonzero(pc.fill_null(pc.match_substring(made.texts, "\0"), False)).to_pylist():
            reasons.setdefault(row, "with a NUL character, as broken text has")
    refused = {"keep_nulls": broken, "keep_all": [], "refuse_all": sorted(reasons)}[on_bad_row]
    if refused:
        raise _refusal(place, refused[0], reasons[refused[0]], rows, first)
    return replace(made, texts=null_like(made.texts, reasons)) if reasons else made


def _refusal(place: Place, row: int, reason: str, rows: Rows, first: int) -> UserError:
    where = f"line {rows.lines[row].as_py()}" if rows.lines is not None else f"row {first + row + 1}"
    what = f"the text is {reason}" if reason.startswith(("null", "empty", "only ", "with a NUL")) else reason
    remedy = " ".join(
        filter(None, [advice(place, reason), "corpus.on_bad_row=keep_all keeps such rows, with a null embedding."])
    )
    return UserError(f"{place} {where}: {what}. {remedy}")


@dataclass(frozen=True)
class _Scan:
    """What was found when a file was read through."""

    source: Source
    # For each value column the types of its values, in the order in which they came.
    types: list[list[pa.DataType]]
    # Of JSON Lines: the keys of its objects.
    seen: dict[str, None]


def _scan(place: Place, format: str, fields: Fields, keys: dict[str, str | None]) -> _Scan:
    """Read a file through: its rows, nulls, marks and digest, and the types of each of its values."""
    size, modified = files.stamp(place)
    types: list[dict[pa.DataType, None]] = [{} for _ in fields.value_columns]
    rows = nulls = 0
    digest, seen, marks = hashlib.sha256(), {}, []
    for chunk in _read(place, format, fields, SCAN, keys, digest, seen):
        rows += len(chunk)
        nulls += chunk.texts.null_count
        if chunk.next is not None:
            marks.append(chunk.next)
        for i, (found, values) in enumerate(zip(types, chunk.values)):
            is_id = i == 0 and fields.id_column is not None
            found[_id_type_of_strings(values) if is_id and format in DELIMITERS else _type_of(values, format)] = None
    sha256 = digest.hexdigest() if format in LINE_FORMATS else files.sha256(place)
    source = Source(place, size, modified, rows, nulls, sha256, keys, tuple(marks))
    return _Scan(source, [list(found) for found in types], seen)


def _type_of(values: pa.Array, format: str) -> pa.DataType:
    return column_types.of_json(values) if format == "jsonl" else column_types.readable(values)


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


def _id_type_of_strings(values: pa.Array) -> pa.DataType:
    """int64 when every id is a number written as itself, so that '007' stays '007'."""
    known = values.drop_null().to_pylist()
    return pa.int64() if all(CANONICAL_INTEGER.fullmatch(value) for value in known) else pa.string()


def _common_type(found: list[tuple[pa.DataType, Place]], format: str, name: str, *, is_id: bool) -> pa.DataType:
    """The one type that holds all values of a column exactly. Ids of CSV files that are not all numbers are strings.

    Args:
        found: types of its values, each with a file that has such.

    Raises:
        UserError: values that share none, or one that Parquet cannot hold.
    """
    known: dict[pa.DataType, Place] = {}
    for kind, place in found:
        if not pa.types.is_null(kind):
            known.setdefault(kind, place)
    key = "corpus.id_column" if is_id else "corpus.keep_columns"
    if len(known) > 1 and format in DELIMITERS:
        return pa.string()
    # All pairs, so that the order of the files decides nothing.
    for (a, first), (b, second) in itertools.combinations(known.items(), 2):
        if column_types.merge(a, b) is None or (is_id and column_types.family(a) != column_types.family(b)):
            one, other = (column_types.to_json(kind) if format == "jsonl" else kind for kind in (a, b))
            one, other = files.shortened(str(one)), files.shortened(str(other))
            where = f"{one} in {first} and {other} in {second}" if first != second else f"{one} and {other} in {first}"
            raise UserError(
                f"column {name!r} is {where}: several types, of which none keeps every {'id as it is' if is_id else 'value exactly'}. Write them all as one, or as strings, or leave it out of {key}."
            )
    # Nulls of files that know no type too: what they stand beside has to hold them.
    common = functools.reduce(column_types.merge, dict.fromkeys(kind for kind, _ in found) or [pa.null()])
    if pa.types.is_null(common):
        return pa.string()
    if _is_empty_struct(common):
        raise UserError(
            f"column {name!r} of {found[0][1]} holds nothing but empty objects, which no Parquet file can. Leave it out of {key}."
        )
    for kind in dict.fromkeys([*known, common]):
        reason = None if _is_empty_struct(kind) else column_types.why_not_parquet(kind)
        if reason is not None:
            raise UserError(
                f"column {name!r} is {files.shortened(str(kind))} in {known.get(kind, found[0][1])}, which Parquet cannot hold ({reason}). Write it as another type, or leave it out of {key}."
            )
    return column_types.stored(common)


def _is_empty_struct(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return not kind.num_fields or any(_is_empty_struct(field.type) for field in kind)
    return pa.types.is_nested(kind) and any(_is_empty_struct(kind.field(i).type) for i in range(kind.num_fields))


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
                _cast(rows.arrays[0], kind, scan.source.place)


def _cast(values: pa.Array, kind: pa.DataType, place: Place) -> pa.Array:
    if values.type == kind:
        return values
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"a value of {place} is not of the type {kind} that the column has in the whole corpus: {files.first_line(error)}. Write the files with one type."
        ) from None


def _check_unchanged(source: Source) -> None:
    if files.stamp(source.place) != (source.bytes, source.modified):
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
