"""Vectors -> Parquet parts + manifest. Knows neither MLflow nor Hydra."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.errors import UserError

# Rows that are compressed and read together; a few MB of vectors.
ROW_GROUP = 8192

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Part:
    """One finished file: its name, the corpus rows it holds and its digest."""

    name: str
    first_row: int
    rows: int
    bytes: int
    sha256: str


def embedding_schema(id_type: pa.DataType, dim: int, dtype: str, *, keep_text: bool, nulls: bool) -> pa.Schema:
    """Columns `id`, `text` (with keep_text) and `embedding`, a fixed-size list of `dtype`.

    With `nulls` the embedding is a plain list: Arrow before version 26 writes a null fixed-size list to Parquet, but
    cannot read the file again (apache/arrow issue 35692).
    """
    fields = [pa.field("id", id_type)]
    if keep_text:
        fields.append(pa.field("text", pa.string()))
    value_type = pa.from_numpy_dtype(dtype)
    fields.append(pa.field("embedding", pa.list_(value_type) if nulls else pa.list_(value_type, dim)))
    return pa.schema(fields)


def embedding_column(vectors: np.ndarray, valid: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Put [k, dim] vectors on the k true rows of `valid`, as an array of the list type `kind`; the other rows are null."""
    values = pa.array(vectors.reshape(-1).astype(kind.value_type.to_pandas_dtype(), copy=False))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    offsets = np.concatenate([[0], np.cumsum(valid)]) * vectors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind, mask=pa.array(~valid))


def prepare_output(folder: Path) -> None:
    """Create an output folder, or take an empty one.

    Raises:
        UserError: it holds something already, is a file, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file; expected a folder that is new or empty.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"output {folder} cannot be written: {error.strerror}. Give another folder.") from None
    if held:
        shown = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
        raise UserError(
            f"output {folder} already holds {shown}; expected a new or empty folder. Give another one, or move that away."
        )
    if not os.access(folder, os.W_OK):
        raise UserError(f"output {folder} cannot be written: permission denied. Give another folder.")


class PartWriter:
    """Writes `part-00000.parquet`, ... of `rows_per_part` rows each.

    A part is written under a temporary name, synced, and renamed when it is whole; `on_part` hears of it then.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, rows_per_part: int, on_part: Callable[[Path], None] | None = None
    ):
        self.parts: list[Part] = []
        self._folder, self._schema, self._rows_per_part, self._on_part = folder, schema, rows_per_part, on_part
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._finish_part()
        finally:
            self._drop_part()

    def _drop_part(self) -> None:
        """Forget a part that is not whole; a disk that is full may refuse even to close it."""
        if self._writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
            self._writer = None
        # Whatever went wrong before is what the user has to hear of.
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    @property
    def _name(self) -> str:
        return f"part-{len(self.parts):05d}.parquet"

    @property
    def _temporary(self) -> Path:
        return self._folder / f".{self._name}.tmp"

    def write(self, table: pa.Table) -> None:
        """Append rows, over as many parts as they need."""
        while table.num_rows:
            if self._writer is None:
                self._open_part()
            head = table.slice(0, self._rows_per_part - self._rows)
            self._pending.append(head)
            self._rows += head.num_rows
            table = table.slice(head.num_rows)
            if sum(pending.num_rows for pending in self._pending) >= ROW_GROUP:
                self._write_pending()
            if self._rows == self._rows_per_part:
                self._finish_part()

    def _write_pending(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending), row_group_size=2 * ROW_GROUP)
            self._pending = []

    def _open_part(self) -> None:
        # Vectors of floats neither repeat nor compress: trying costs time and gains nothing.
        text = [name for name in self._schema.names if name != "embedding"]
        codecs = {name: "zstd" for name in text} | {"embedding.list.element": "none"}
        self._writer = pq.ParquetWriter(
            self._temporary, self._schema, compression=codecs, use_dictionary=False, write_statistics=text
        )

    def _finish_part(self) -> None:
        if self._writer is None:
            return
        self._write_pending()
        self._writer.close()
        self._writer = None
        path = self._folder / self._name
        with self._temporary.open("rb+") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        self._temporary.rename(path)
        first_row = sum(part.rows for part in self.parts)
        self.parts.append(Part(path.name, first_row, self._rows, path.stat().st_size, digest))
        self._rows = 0
        if self._on_part is not None:
            self._on_part(path)


def write_manifest(folder: Path, parts: list[Part], facts: dict) -> Path:
    """Write `manifest.json`, last of all: it says that the output is whole."""
    path = folder / MANIFEST
    temporary = folder / f".{MANIFEST}.tmp"
    content = {"format_version": FORMAT_VERSION, **facts, "parts": [asdict(part) for part in parts]}
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)
    return path
