"""Opening a corpus: its files are found, and read through once before anything is computed, so that a bad line at the
end of a large corpus is reported in seconds, not after hours."""

import base64
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from steps.common.corpus.conf import CorpusConf
from steps.common.corpus.corpus import NOTED, Corpus, Source, digest_of, how_read
from steps.common.corpus.readers import AUTO, detect_format, find_format, known_endings
from steps.common.corpus.readers.format import Format, Request, split_name
from steps.common.corpus.rows import Column, Kind, Mark, missing
from steps.common.corpus.texts import check_conf, check_text_key, read_texts
from steps.common.corpus.types import cast, common_type, id_type_of_strings, of_json, readable, to_json
from steps.common.each import Each, here
from steps.common.errors import UserError
from steps.common.storage.find import before_magic, find
from steps.common.storage.place import Place, locate, stamp
from steps.common.storage.stream import sha256

logger = logging.getLogger("steps")

# Rows read at a time when a corpus is read through, which is also how far apart marks are.
SCAN = 8192

# A file of a corpus, and the columns that its folders name.
File = tuple[Place, dict[str, str | None]]


def open_corpus(path: Path | str, conf: CorpusConf, noted: dict | None = None, each: Each = here) -> Corpus:
    """Find the files of a corpus and check that every row of them can be read.

    Args:
        path: a file, a folder (its files of a known format, in name order) or a glob; a local path or a URI.
        noted: what `Corpus.noted` gave before. Files of the same names and bytes, read the same way, are only hashed.
        each: reads the files through.

    Raises:
        UserError: no file, an unknown or mixed format, a missing column, no row at all, a file that cannot be read, a
            row that `conf.on_bad_row` refuses, or a column whose types share none or that Parquet cannot hold.
    """
    found = find_files(path, conf.format)
    format = _find_format(path, conf.format, found)
    keys = [partition_keys(path, place) for place in found]
    check_conf(conf, format, found[0], keys[0])
    files = list(zip(found, keys))
    recalled = _recall(noted, format, conf, files, each)
    if recalled is not None:
        return recalled
    scans = each(partial(_scan, format, conf), files)
    if format.kind is Kind.objects:
        _check_keys(conf, scans)
    types = [
        common_type([(kind, scan.source.place) for scan in scans for kind in scan.types[i]], format.kind, column)
        for i, column in enumerate(conf.value_columns)
    ]
    if format.kind is Kind.columns:
        each(partial(_check_values, format, conf, types), [scan for scan in scans if _odd_columns(conf, types, scan)])
    if format.kind is Kind.objects:
        types = [to_json(kind) for kind in types]
    corpus = make_corpus([scan.source for scan in scans], format, conf, types)
    if corpus.rows == 0:
        raise UserError(f"the corpus is empty: expected at least one row, found none in {path}.")
    return corpus


def make_corpus(sources: list[Source], format: Format, conf: CorpusConf, types: list[pa.DataType]) -> Corpus:
    """A corpus whose value columns have these types."""
    of_columns = dict(zip(conf.value_columns, types))
    id_type = next((kind for column, kind in of_columns.items() if column.kind == "id"), pa.int64())
    kept = {column.name: kind for column, kind in of_columns.items() if column.kind != "id"}
    return Corpus(sources, format, conf, id_type, kept)


def _find_format(path: Path | str, name: str, found: list[Place]) -> Format:
    formats = {
        one.name: one for one in (detect_format(place) if name == AUTO else find_format(name) for place in found)
    }
    if len(formats) > 1:
        raise UserError(
            f"{path} holds files of several formats ({', '.join(sorted(formats))}); give corpus.format=<one of them> or a glob such as '{path}/*.csv'."
        )
    return next(iter(formats.values()))


def _recall(noted: dict | None, format: Format, conf: CorpusConf, found: list[File], each: Each) -> Corpus | None:
    """The noted corpus; None where the note is damaged, or of other files or another way to read them."""
    if not isinstance(noted, dict):
        return None
    findings = {name: value for name, value in noted.items() if name != "digest"}
    if noted.get("digest") != digest_of(findings) or findings != {**findings, **how_read(format, conf)}:
        return None
    sources_then = findings["sources"]
    if [(one["name"], one["keys"]) for one in sources_then] != [(place.name, keys) for place, keys in found]:
        return None
    stamps = [stamp(place) for place, _ in found]
    if [one["bytes"] for one in sources_then] != [size for size, _ in stamps]:
        return None
    if each(sha256, [place for place, _ in found]) != [one["sha256"] for one in sources_then]:
        return None
    sources = [
        Source(
            place, modified=at, marks=tuple(Mark(*mark) for mark in one["marks"]), **{key: one[key] for key in NOTED}
        )
        for (place, _), (_, at), one in zip(found, stamps, sources_then)
    ]
    types = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(findings["types"]))).types
    numbered = len(types) > len(conf.value_columns)
    return make_corpus(sources, format, conf, types[1:] if numbered else types)


def find_files(path: Path | str, format: str = AUTO) -> list[Place]:
    """The files that a path, folder or glob names, in name order; of a folder those of a known format.

    Raises UserError where there is none.
    """
    root, found = locate(path), find(path)
    taken = found
    is_folder = (not found or format == AUTO) and root.info().type == fs.FileType.Directory
    if is_folder and format == AUTO:
        taken = [place for place in found if split_name(place.name)[0] in known_endings()]
    if len(found) > 1 or len(found) > len(taken):
        skipped = [place for place in found if place not in taken]
        more = f", skipped {_count_endings(skipped)} of unknown format" if skipped else ""
        logger.info("corpus %s: %s taken%s", root, _count_endings(taken), more)
    if not taken and is_folder:
        raise UserError(
            f"the folder {root} holds no corpus file: expected one that ends in {', '.join(known_endings())}."
        )
    if not taken:
        raise UserError(f"there is no corpus at {root}: expected a file, a folder or a glob that matches files.")
    for place in taken:
        shown = place.path.encode("utf-8", "backslashreplace").decode()
        if shown != place.path:
            # Neither Arrow nor the record of a run takes such a name.
            raise UserError(f"the name of {shown} is not UTF-8. Rename it, or name the other files by a glob.")
    return taken


def _count_endings(places: list[Place]) -> str:
    """How many files there are, and with what endings: 3 files (2 .csv, 1 .csv.gz)."""

    def ending(name: str) -> str:
        first, compression = split_name(name)
        last = f".{name.rpartition('.')[2]}"
        return first + (last if compression else "") if "." in name else "without an ending"

    counts = Counter(ending(place.name.lower()) for place in places).most_common()
    shown = ", ".join(f"{count} {ending}" for ending, count in counts[:10]) + (", ..." if len(counts) > 10 else "")
    return f"{len(places)} file{'' if len(places) == 1 else 's'}" + (f" ({shown})" if shown else "")


def partition_keys(path: Path | str, place: Place) -> dict[str, str | None]:
    """The columns that a file's folders name below the one that was given, as in lang=en/part-0.parquet."""
    given = locate(path).path
    if not place.path.startswith(given.rstrip("/") + "/"):
        given = before_magic(given)
    folders = place.path.removeprefix(given.rstrip("/")).split("/")[:-1]
    keys: dict[str, str | None] = {}
    for folder in folders:
        name, equals, value = folder.partition("=")
        if equals:
            keys[_decoded(place, name)] = None if value == "__HIVE_DEFAULT_PARTITION__" else _decoded(place, value)
    return keys


def _decoded(place: Place, quoted: str) -> str:
    """What a folder says in percent signs; raises UserError where it is no text, since all such would look the same."""
    try:
        return unquote(quoted, errors="strict")
    except UnicodeDecodeError:
        raise UserError(
            f"{place}: {quoted!r} in the name of its folder is not UTF-8, so it names no column or value. Rename the folder."
        ) from None


@dataclass(frozen=True)
class _Scan:
    """Findings of one file's read-through."""

    source: Source
    # For each value column the types of its values, in the order in which they came.
    types: list[list[pa.DataType]]
    # Of JSON Lines: the keys of its objects.
    seen: dict[str, None]


def _scan(format: Format, conf: CorpusConf, file: File) -> _Scan:
    """Read a file through: its rows, nulls, marks and digest, and the types of each of its values."""
    place, keys = file
    size, modified = stamp(place)
    types: list[dict[pa.DataType, None]] = [{} for _ in conf.value_columns]
    rows = nulls = 0
    digest = hashlib.sha256()
    seen: dict[str, None] = {}
    marks: list[Mark] = []
    request = Request(place, [], SCAN, conf.dialect, digest=digest, keys=seen)
    for chunk in read_texts(request, format, conf, keys):
        rows += len(chunk)
        nulls += chunk.texts.null_count
        if chunk.next is not None:
            marks.append(chunk.next)
        for found, column, values in zip(types, conf.value_columns, chunk.values):
            found[_type_of(values, format.kind, is_id=column.kind == "id")] = None
    hashed = digest.hexdigest() if format.has_lines else sha256(place)
    source = Source(place, size, modified, rows=rows, null_rows=nulls, sha256=hashed, keys=keys, marks=tuple(marks))
    return _Scan(source, [list(found) for found in types], seen)


def _type_of(values: pa.Array, kind: Kind, *, is_id: bool) -> pa.DataType:
    if kind is Kind.cells and is_id:
        return id_type_of_strings(values)
    return of_json(values) if kind is Kind.objects else readable(values)


def _check_keys(conf: CorpusConf, scans: list[_Scan]) -> None:
    """Raises UserError for a file of JSON Lines in which no object has the text, or a key that no object of any has.

    A single object may leave a key out: its value is null there.
    """
    scans = [scan for scan in scans if scan.seen]
    for scan in scans:
        check_text_key(scan.source.place, conf, scan.seen, scan.source.keys)
    for column in conf.text_columns + conf.value_columns:
        if scans and not any(column.name in scan.seen or column.name in scan.source.keys for scan in scans):
            raise missing(scans[0].source.place, list(scans[0].seen), column)


def _odd_columns(conf: CorpusConf, types: list[pa.DataType], scan: _Scan) -> list[tuple[Column, pa.DataType]]:
    """The columns of a file whose values are not all of their type in the whole corpus, with that."""
    return [
        (column, kind)
        for column, found, kind in zip(conf.value_columns, scan.types, types)
        if column.name not in scan.source.keys and not all(pa.types.is_null(one) or one == kind for one in found)
    ]


def _check_values(format: Format, conf: CorpusConf, types: list[pa.DataType], scan: _Scan) -> None:
    """Raises UserError for a value of a file that its column's type in the whole corpus cannot hold.

    Reads columns of another type again: a date may be too far away for nanoseconds, or for Parquet's milliseconds.
    """
    for column, kind in _odd_columns(conf, types, scan):
        for rows in format.read(Request(scan.source.place, [column], SCAN)):
            cast(rows.arrays[0], kind, scan.source.place)
