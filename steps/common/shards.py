"""Vectors -> parts + manifest, and the check of both. Knows neither MLflow nor Hydra."""

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common import files
from steps.common.errors import UserError
from steps.common.output import DONE, PLAN, WORK, Output

# Rows that are compressed and read together; a few MB of vectors.
ROW_GROUP = 8192

MANIFEST = "manifest.json"
REJECTS = "rejects.parquet"
FORMAT_VERSION = 2

# Output format -> ending of the file that holds the vectors. The rest of a row is in .ids.parquet beside a matrix.
ENDINGS = {"parquet": ".parquet", "npy": ".npy"}
IDS = ".ids.parquet"


@dataclass(frozen=True)
class File:
    """One file of an output and what it has to be."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """Consecutive rows of the corpus, finished: `name`, `bytes` and `sha256` are those of the file with the vectors."""

    name: str
    first_row: int
    # Rows of the corpus, and rows written: more, where a long text has a row for each of its chunks.
    rows: int
    written_rows: int
    bytes: int
    sha256: str
    # Where its rows stand in the corpus: file and row there, from 0, of the first and the last.
    source: dict
    # What was found in its rows: windows.Counts.
    counts: dict
    # What else belongs to it.
    beside: list[File] = field(default_factory=list)

    @property
    def files(self) -> list[File]:
        return [File(self.name, self.bytes, self.sha256), *self.beside]


def part_stem(index: int, parts: int) -> str:
    """part-00000, ...: names in the order of the rows, however many there are."""
    return f"part-{index:0{max(5, len(str(parts - 1)))}d}"


def embedding_schema(
    id_type: pa.DataType,
    width: int,
    dtype: str,
    *,
    keep_text: bool,
    nulls: bool,
    chunks: bool = False,
    kept: dict[str, pa.DataType] | None = None,
) -> pa.Schema:
    """Columns `id`, `chunk` (with chunks), `text` (with keep_text), those kept, and `embedding`, a fixed-size list.

    With `nulls` the embedding is a plain list: Arrow before version 26 writes a null fixed-size list to Parquet, but
    cannot read the file again (apache/arrow issue 35692).
    """
    fields = [pa.field("id", id_type)]
    if chunks:
        fields.append(pa.field("chunk", pa.int32()))
    if keep_text:
        fields.append(pa.field("text", pa.string()))
    fields += [pa.field(name, kind) for name, kind in (kept or {}).items()]
    value_type = pa.from_numpy_dtype(dtype)
    fields.append(pa.field("embedding", pa.list_(value_type) if nulls else pa.list_(value_type, width)))
    return pa.schema(fields)


def embedding_column(vectors: np.ndarray, valid: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Put [k, width] vectors on the k true rows of `valid`, as an array of the list type `kind`; the other rows are null."""
    values = pa.array(vectors.reshape(-1).astype(kind.value_type.to_pandas_dtype(), copy=False))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    offsets = np.concatenate([[0], np.cumsum(valid)]) * vectors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind, mask=pa.array(~valid))


class ParquetPart:
    """The files of one part while it is written, as Parquet."""

    def __init__(self, workspace: Path, stem: str, schema: pa.Schema, width: int):
        self._path = workspace / f"{stem}.parquet.tmp"
        self._name = f"{stem}.parquet"
        self.rows = 0
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        # Vectors of floats neither repeat nor compress: trying costs time and gains nothing.
        others = [name for name in schema.names if name != "embedding"]
        codecs = {name: "zstd" for name in _leaves(schema, others)}
        if len(others) < len(schema):
            codecs["embedding.list.element"] = "none"
        self._writer = pq.ParquetWriter(
            self._path,
            schema,
            compression=codecs,
            use_dictionary=False,
            write_statistics=_leaves(schema, others),
        )

    def write(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self.rows += table.num_rows
        if self._pending_rows >= ROW_GROUP:
            self._write_pending()

    def _write_pending(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending), row_group_size=2 * ROW_GROUP)
            self._pending, self._pending_rows = [], 0

    def finish(self) -> list[tuple[Path, str]]:
        """Close the files: each with the name it is to get, the one with the vectors first."""
        self._write_pending()
        self._writer.close()
        return [(self._path, self._name)]

    def drop(self) -> None:
        """Forget a part that is not whole; a disk that is full may refuse even to close it."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _leaves(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Parquet's own names of columns, where a nested column has several."""
    empty = pa.schema([schema.field(name) for name in names])
    with pa.BufferOutputStream() as sink:
        pq.ParquetWriter(sink, empty).close()
        found = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [found.column(i).path for i in range(len(found.names))]


class NpyPart:
    """The files of one part as a matrix for numpy, and a Parquet file of what else there is of its rows.

    A row without a text is NaN in a matrix of floats, zeros in one of integers.
    """

    def __init__(self, workspace: Path, stem: str, schema: pa.Schema, width: int):
        self._dtype = np.dtype(schema.field("embedding").type.value_type.to_pandas_dtype())
        self._width = width
        self._path, self._name = workspace / f"{stem}.npy.tmp", f"{stem}.npy"
        others = schema.remove(schema.get_field_index("embedding"))
        self._others = ParquetPart(workspace, f"{stem}.ids", others, width)
        self._stream = self._path.open("wb+")
        self._write_header()

    @property
    def rows(self) -> int:
        return self._others.rows

    def write(self, table: pa.Table) -> None:
        column = table.column("embedding").combine_chunks()
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        empty = np.nan if np.issubdtype(self._dtype, np.floating) else 0
        matrix = np.full((len(column), self._width), empty, self._dtype)
        matrix[valid] = column.drop_null().flatten().to_numpy().reshape(-1, self._width)
        self._stream.write(matrix.tobytes())
        self._others.write(table.drop_columns("embedding"))

    def _write_header(self) -> None:
        # numpy leaves room for the first axis to grow, so that the final header is as long as this one.
        facts = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self._stream, facts | {"shape": (self.rows, self._width)})

    def finish(self) -> list[tuple[Path, str]]:
        self._stream.seek(0)
        self._write_header()
        self._stream.close()
        return [(self._path, self._name), *self._others.finish()]

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._others.drop()


WRITERS = {"parquet": ParquetPart, "npy": NpyPart}


class VectorReader:
    """The vectors of a finished part by row, read in passing: rows are asked for in growing order.

    A row without a text is whatever stands in a matrix, or zeros.
    """

    def __init__(self, output: Output, part: Part, width: int):
        self._batches = self._stream(output, part, width)
        self._first, self._held = 0, np.empty((0, width))

    @staticmethod
    def _stream(output: Output, part: Part, width: int) -> Iterator[np.ndarray]:
        with output.fetched(part.name) as path:
            if part.name.endswith(ENDINGS["npy"]):
                yield np.load(path, mmap_mode="r")
                return
            for batch in pq.ParquetFile(path).iter_batches(batch_size=ROW_GROUP, columns=["embedding"]):
                column = batch.column("embedding")
                values = column.drop_null().flatten().to_numpy(zero_copy_only=False)
                matrix = np.zeros((len(column), width), values.dtype)
                matrix[column.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, width)
                yield matrix

    def row(self, number: int) -> np.ndarray:
        while number >= self._first + len(self._held):
            self._first += len(self._held)
            self._held = next(self._batches)
        return self._held[number - self._first]


# What is known of an output while it is being made.


def write_record(output: Output, part: Part, rejects: list[dict]) -> None:
    """Note that a part is finished: written after its files, read by whoever goes on."""
    stem = part.name.partition(".")[0]
    output.write_text(f"{DONE}/{stem}.json", json.dumps({"part": asdict(part), "rejects": rejects}))


def part_from(facts: dict) -> Part:
    return Part(**{**facts, "beside": [File(**file) for file in facts.get("beside", [])]})


def read_record(output: Output, stem: str) -> dict | None:
    """What write_record has noted of a part; None where it is not finished."""
    return output.read_json(f"{DONE}/{stem}.json")


def write_rejects(output: Output, id_type: pa.DataType, rejects: Iterable[list[dict]]) -> File | None:
    """Write `rejects.parquet`, a row for each corpus row without an embedding; None where there is none.

    Args:
        rejects: those of each part, in order.
    """
    fields = [
        ("row", pa.int64()),
        ("id", id_type),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
    ]
    schema = pa.schema(fields)
    temporary = output.workspace / f"{REJECTS}.tmp"
    try:
        writer = None
        for rows in rejects:
            if rows:
                writer = writer or pq.ParquetWriter(temporary, schema, compression="zstd")
                writer.write_table(pa.Table.from_pylist(rows, schema))
        if writer is None:
            return None
        writer.close()
        file = file_facts(temporary, REJECTS)
        output.put(temporary, REJECTS)
        return file
    finally:
        temporary.unlink(missing_ok=True)


def file_facts(path: Path, name: str) -> File:
    """Size and digest of a file of this machine, under the name it is to get."""
    return File(name, path.stat().st_size, files.sha256(files.locate(path)))


def write_manifest(output: Output, parts: Sequence[Part], facts: dict) -> str:
    """Write `manifest.json`, last of all: it says that the output is whole. Returns its text."""
    content = {"format_version": FORMAT_VERSION, **facts, "parts": [asdict(part) for part in parts]}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    output.write_text(MANIFEST, text)
    return text


def restore(output: Output) -> dict:
    """Write the records of a whole output again, so that what was damaged in it can be mended.

    Returns:
        Its plan, its runs and its ranges, as PLAN holds them of an output that is not whole.

    Raises:
        UserError: a manifest that cannot be read.
    """
    manifest = read_manifest(output)
    rejects = output.read_bytes(REJECTS) if manifest.get("rejects") else None
    rows = pq.read_table(pa.BufferReader(rejects)).to_pylist() if rejects else []
    try:
        for facts in manifest["parts"]:
            part = part_from(facts)
            own = range(part.first_row, part.first_row + part.rows)
            write_record(output, part, [row for row in rows if row["row"] in own])
        return {name: manifest[name] for name in ("plan", "runs", "ranges")}
    except (TypeError, KeyError) as error:
        raise UserError(
            f"output {output} is of another version of this project ({error}). Give another output."
        ) from None


# Checks.


def held(output: Output) -> str:
    """What an output is: `new`, `interrupted`, `whole`, or `foreign`, something that no encode has made.

    Raises:
        UserError: it cannot be reached.
    """
    names = [name for name in output.names() if not name.startswith(f"{WORK}/claim-") and not name.endswith(".tmp")]
    if MANIFEST in names:
        return "whole"
    if PLAN in names:
        return "interrupted"
    return "foreign" if names else "new"


def check_output(place: files.Place) -> files.Place:
    """Take a place for an output: new, empty, or what encode has written there before.

    Raises:
        UserError: a file, a folder that holds something else, or one that cannot be written.
    """
    if place.info().type == files.fs.FileType.File:
        raise UserError(f"output {place} is a file; expected a folder that is new, empty or an output of encode.")
    output = Output(place, Path(tempfile.gettempdir()))
    if held(output) == "foreign":
        names = output.names()
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise UserError(
            f"output {place} already holds {shown}; expected a folder that is new, empty or an output of encode. Give another one, or move that away."
        )
    if place.local is not None:
        try:
            place.local.mkdir(parents=True, exist_ok=True)
            # Asking for permission says nothing of a filesystem that cannot be written.
            with tempfile.TemporaryFile(dir=place.local):
                pass
        except OSError as error:
            raise UserError(f"output {place} cannot be written: {error.strerror}. Give another folder.") from None
    return place


def check_files(output: Output, files_: Iterable[File]) -> list[str]:
    """Compare files with what they have to be; returns what is wrong, a line each."""
    findings = []
    for file in files_:
        found = output.facts(file.name)
        if found is None:
            findings.append(f"{file.name} is missing")
        elif found[0] != file.bytes:
            findings.append(f"{file.name} has {found[0]} bytes, expected {file.bytes}")
        elif found[1] != file.sha256:
            findings.append(f"{file.name} has SHA-256 {found[1][:12]}..., expected {file.sha256[:12]}...")
    return findings


def read_manifest(output: Output) -> dict:
    """The manifest of an output.

    Raises:
        UserError: there is none, or it is none of this project's.
    """
    state = held(output)
    if state == "interrupted":
        raise UserError(
            f"output {output} is not whole: encode was stopped before its end. Run the same encode again to go on."
        )
    if state != "whole":
        raise UserError(f"output {output} has no {MANIFEST}; expected a folder that encode has written.")
    manifest = output.read_json(MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("parts"), list):
        raise UserError(f"{MANIFEST} of output {output} cannot be read; the output cannot be trusted.")
    return manifest


def verify(output: Output) -> tuple[dict, list[str]]:
    """Check an output against its manifest: every file, every row, nothing more. Returns manifest and findings.

    Raises:
        UserError: there is no manifest.
    """
    manifest = read_manifest(output)
    try:
        parts = [part_from(facts) for facts in manifest["parts"]]
        rejects = [File(**manifest["rejects"])] if manifest.get("rejects") else []
    except (TypeError, KeyError) as error:
        raise UserError(f"{MANIFEST} of output {output} is of another version ({error}); encode again.") from None
    expected = [file for part in parts for file in part.files] + rejects
    findings = check_files(output, expected)
    sound = {file.name for file in expected} - {finding.partition(" ")[0] for finding in findings}
    findings += [line for part in parts if part.name in sound for line in _check_rows(output, part)]
    first = 0
    for part in parts:
        if part.first_row != first:
            findings.append(f"{part.name} begins at row {part.first_row} of the corpus, expected {first}")
        first = part.first_row + part.rows
    if first != manifest.get("rows"):
        findings.append(f"the parts hold {first} rows of the corpus, the manifest says {manifest.get('rows')}")
    known = {file.name for file in expected} | {MANIFEST}
    # A part too many would be read as one of the corpus; what else lies there is no business of ours.
    strays = [name for name in output.names() if name not in known and name.startswith("part-")]
    return manifest, findings + [f"{name} is not in the manifest" for name in strays]


def _check_rows(output: Output, part: Part) -> list[str]:
    with output.fetched(part.name) as path:
        try:
            if part.name.endswith(ENDINGS["npy"]):
                rows = len(np.load(path, mmap_mode="r"))
            else:
                rows = pq.read_metadata(path).num_rows
        except (ValueError, OSError, pa.ArrowException) as error:
            return [f"{part.name} cannot be read: {files.first_line(error)}"]
    return [] if rows == part.written_rows else [f"{part.name} has {rows} rows, expected {part.written_rows}"]
