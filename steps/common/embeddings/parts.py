"""Vectors -> the files of a part."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.embeddings.digests import DIGEST_SCHEMA, DIGESTS, digest_texts
from steps.common.storage.place import locate
from steps.common.storage.stream import sha256

# Rows that are compressed and read together; a few MB of vectors.
ROW_GROUP = 8192

# Output format -> ending of the file that holds the vectors. The rest of a row is in .ids.parquet beside a matrix.
ENDINGS = {"parquet": ".parquet", "npy": ".npy"}


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
    source: dict[str, Any]
    # What was found in its rows: windows.Counts.
    counts: dict[str, int]
    # What else belongs to it.
    beside: list[File] = field(default_factory=list)

    @property
    def files(self) -> list[File]:
        return [File(self.name, self.bytes, self.sha256), *self.beside]

    @property
    def table(self) -> str:
        """Name of the file with every column but, beside a matrix, the embeddings."""
        return (
            self.name.removesuffix(ENDINGS["npy"]) + ".ids.parquet" if self.name.endswith(ENDINGS["npy"]) else self.name
        )

    @property
    def digests(self) -> File | None:
        """The file with the digests of its texts; before format 5 there was none."""
        return next((file for file in self.beside if file.name.startswith(f"{DIGESTS}/")), None)


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


def rejects_schema(id_type: pa.DataType) -> pa.Schema:
    """Columns of `rejects.parquet`: a row of the corpus that has no embedding, and why."""
    return pa.schema(
        [("row", pa.int64()), ("id", id_type), ("file", pa.string()), ("line", pa.int64()), ("reason", pa.string())]
    )


def embedding_column(vectors: np.ndarray, valid: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Put [k, width] vectors on the k true rows of `valid`, as an array of the list type `kind`; the other rows are null."""
    values = pa.array(vectors.reshape(-1).astype(kind.value_type.to_pandas_dtype(), copy=False))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    offsets = np.concatenate([[0], np.cumsum(valid)]) * vectors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind, mask=pa.array(~valid))


def embedding_matrix(column: pa.Array, width: int, dtype: np.dtype, empty: float = 0) -> np.ndarray:
    """The vectors of a column: [rows, width], filled with `empty` where null."""
    matrix = np.full((len(column), width), empty, dtype)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    matrix[valid] = column.drop_null().flatten().to_numpy().reshape(-1, width)
    return matrix


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


class DigestFile:
    """The digests of a part's texts, while they are written."""

    def __init__(self, workspace: Path, stem: str):
        self._file = ParquetPart(workspace, f"{stem}.{DIGESTS}", DIGEST_SCHEMA, 0)
        self._name = f"{DIGESTS}/{stem}.parquet"

    def write(self, texts: pa.Array, lengths: np.ndarray) -> None:
        """Add rows with their texts; `lengths` are the tokens of those that are not null."""
        tokens = np.zeros(len(texts), np.int32)
        valid = texts.is_valid().to_numpy(zero_copy_only=False)
        tokens[valid] = lengths
        self._file.write(pa.table([digest_texts(texts), pa.array(tokens, mask=~valid)], schema=DIGEST_SCHEMA))

    def finish(self) -> list[tuple[Path, str]]:
        return [(path, self._name) for path, _ in self._file.finish()]

    def drop(self) -> None:
        self._file.drop()


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
        empty = np.nan if np.issubdtype(self._dtype, np.floating) else 0
        self._stream.write(embedding_matrix(column, self._width, self._dtype, empty).tobytes())
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


# Output format -> what writes a part in it.
WRITERS: dict[str, type[ParquetPart] | type[NpyPart]] = {"parquet": ParquetPart, "npy": NpyPart}


def file_facts(path: Path, name: str) -> File:
    """Size and digest of a file of this machine, under the name it is to get."""
    return File(name, path.stat().st_size, sha256(locate(path)))
