"""An output of encode -> the files of an index: one matrix of its vectors, and the rest of their rows beside it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.corpus.types import PLAIN
from steps.common.embeddings.manifest import Manifest
from steps.common.embeddings.parts import ENDINGS, Part
from steps.common.errors import UserError
from steps.common.search.index import ROWS, VECTORS, Facts, write_facts
from steps.common.search.matrix import MatrixFile
from steps.common.storage.output import Output
from steps.common.storage.place import reaching
from steps.common.vectors import unit_length, unpack_signs

# Rows that are read together.
READ = 8192


def collect(output: Output, manifest: Manifest, folder: Path, *, metric: str = "cosine", keep_text: bool) -> Facts:
    """Write the vectors of an output as float32, and its other columns, to a folder: an exact index. Rows without an embedding
    are left out.

    Args:
        metric: for cosine, each vector is made unit length.

    Raises UserError where no row has an embedding, or a vector is not finite.
    """
    folder.mkdir(exist_ok=True)
    written = 0
    with MatrixFile(folder / VECTORS, np.dtype(np.float32), manifest.dim) as vectors:
        rows: pa.RecordBatchFileWriter | None = None
        try:
            for table, stored in _read(output, manifest):
                found = _decode(stored, manifest)
                if not np.isfinite(found).all():
                    raise UserError(
                        f"output {output} holds vectors that are not finite. Run validate to see what is wrong with the model."
                    )
                table = table if keep_text or "text" not in table.column_names else table.drop_columns("text")
                rows = rows or pa.ipc.new_file(folder / ROWS, table.schema)
                rows.write_table(table)
                vectors.append(unit_length(found) if metric == "cosine" else found)
                written += len(found)
        finally:
            if rows is not None:
                rows.close()
    if not written:
        raise UserError(
            f"output {output} holds no embedding: all {manifest.written_rows:,} rows are null. Encode a corpus with texts."
        )
    facts = Facts(written, manifest.dim, metric)
    write_facts(folder, facts)
    return facts


def _read(output: Output, manifest: Manifest) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The rows of an output that have an embedding: their other columns, and their vectors as they are stored."""
    for part in manifest.parts:
        with reaching(output.place.joined(part.name)):
            is_matrix = part.name.endswith(ENDINGS["npy"])
            yield from _read_matrix(output, part, manifest) if is_matrix else _read_parquet(output, part)


def _read_parquet(output: Output, part: Part) -> Iterator[tuple[pa.Table, np.ndarray]]:
    with output.opened(part.name) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=READ):
            table = _as_table(batch)
            table = table.filter(table.column("embedding").is_valid())
            column = table.column("embedding").combine_chunks()
            if len(column):
                yield table.drop_columns("embedding"), column.flatten().to_numpy().reshape(len(column), -1)


def _as_table(batch: pa.RecordBatch) -> pa.Table:
    """Rows without metadata, and without views, of which no rows can be taken."""
    fields = [field.with_type(PLAIN.get(field.type, field.type)) for field in batch.schema]
    return pa.Table.from_batches([batch]).cast(pa.schema(fields)).replace_schema_metadata()


def _read_matrix(output: Output, part: Part, manifest: Manifest) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """As _read_parquet, of output_format=npy: there a row without an embedding is NaN, or zeros in a matrix of integers."""
    with output.opened(part.name) as stream, output.opened(part.table) as others:
        np.lib.format.read_magic(stream)
        (_, width), _, kind = np.lib.format.read_array_header_1_0(stream)
        for batch in pq.ParquetFile(others).iter_batches(batch_size=READ):
            table = _as_table(batch)
            found = np.frombuffer(stream.read(len(table) * width * kind.itemsize), kind).reshape(-1, width)
            if manifest.null_rows:
                empty = np.isnan(found).any(axis=1) if kind.kind == "f" else ~found.any(axis=1)
                table, found = table.filter(pa.array(~empty)), found[~empty]
            if len(table):
                yield table, found


def _decode(stored: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Vectors as encode stores them -> float32 [n, dim].

    Of int8 it is the middle of what each number stands for; of binary, the corner of the cube that each sign names.
    """
    if manifest.dtype == "int8":
        low, high = np.array(manifest.ranges, np.float32)
        # encode's library rounds towards zero.
        return low + (high - low) / 255 * (stored.astype(np.float32) + 128 + 0.5 * np.sign(stored))
    if manifest.dtype == "binary":
        return 2 * unpack_signs(stored, manifest.dim).astype(np.float32) - 1
    return stored.astype(np.float32)
