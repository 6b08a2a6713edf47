"""What is noted of each finished part while an output is made, and the rows that have no embedding."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.embeddings.declared import read_declared
from steps.common.embeddings.manifest import REJECTS, Manifest, PlanRecord, digest_of, find_manifest
from steps.common.embeddings.parts import File, Part, file_facts, rejects_schema
from steps.common.errors import UserError
from steps.common.storage.output import DONE, Output


@dataclass(frozen=True)
class PartRecord:
    """What is noted of a finished part."""

    part: Part
    # Its rows without an embedding, as an Arrow stream in base 64: an id may be of any type, and JSON has few of them.
    rejects: str | None
    digest: str = ""

    def read_rejects(self, id_type: pa.DataType) -> pa.Table:
        """The rows of the part without an embedding, by parts.rejects_schema."""
        schema = rejects_schema(id_type)
        if self.rejects is None:
            return schema.empty_table()
        with pa.ipc.open_stream(base64.b64decode(self.rejects)) as reader:
            table = reader.read_all()
        # What comes from rejects.parquet (restore) is as Parquet holds it, which has no seconds.
        return pa.table(
            [column if column.type == field.type else column.cast(field.type) for column, field in zip(table, schema)],
            schema=schema,
        ).combine_chunks()


def write_record(output: Output, part: Part, rejects: pa.Table) -> None:
    """Note that a part is finished, after its files; `rejects` are its rows without an embedding, by rejects_schema."""
    stem = part.name.partition(".")[0]
    content = asdict(PartRecord(part, _pack(rejects) if rejects.num_rows else None))
    output.write_text(f"{DONE}/{stem}.json", json.dumps(content | {"digest": digest_of(content)}, allow_nan=False))


def _pack(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode("ascii")


def find_records(output: Output) -> set[str]:
    """The names of the parts, without endings, that have a record."""
    return {name.removesuffix(".json") for name in output.names(DONE) if name.endswith(".json")}


def read_record(output: Output, stem: str) -> PartRecord | None:
    """What write_record has noted of a part; None where it is not finished, or the record was changed."""
    content = output.read_json(f"{DONE}/{stem}.json")
    with contextlib.suppress(ValueError, RecursionError):
        record = read_declared(PartRecord, content)
        return record if record.digest == digest_of(content) else None
    return None


def write_rejects(output: Output, id_type: pa.DataType, rejects: Iterable[pa.Table]) -> File | None:
    """Write `rejects.parquet` from those of each part, in order; None where every row has an embedding."""
    temporary = output.workspace / f"{REJECTS}.tmp"
    try:
        writer = None
        for table in rejects:
            if table.num_rows:
                writer = writer or pq.ParquetWriter(temporary, rejects_schema(id_type), compression="zstd")
                writer.write_table(table)
        if writer is None:
            return None
        writer.close()
        file = file_facts(temporary, REJECTS)
        output.put(temporary, REJECTS)
        return file
    finally:
        temporary.unlink(missing_ok=True)


def restore(output: Output) -> PlanRecord | None:
    """Write the records of a whole output again, so that damage in it can be repaired; returns its plan.

    Where the rejects are damaged or gone, the parts that may have some get no record, and are made again. None where
    neither the manifest nor its copy can be read; raises UserError for a manifest of an unknown version.
    """
    manifest = find_manifest(output)
    if manifest is None:
        return None
    rows = find_rejects(output, manifest)
    for part in manifest.parts:
        rejects = _between(rows, part.first_row, part.first_row + part.rows)
        # A row that was rejected is null.
        if rejects.num_rows == part.counts.get("null_rows", 0):
            write_record(output, part, rejects)
    return manifest.plan_record


def find_rejects(output: Output, manifest: Manifest) -> pa.Table | None:
    """The rejected rows of a whole output; None where their file does not match the manifest."""
    if manifest.rejects is None:
        return rejects_schema(pa.null()).empty_table()
    try:
        content = output.read_bytes(REJECTS)
    except UserError:
        return None
    if hashlib.sha256(content).hexdigest() != manifest.rejects.sha256:
        return None
    with contextlib.suppress(pa.ArrowException):
        return pq.read_table(pa.BufferReader(content))
    return None


def _between(rejects: pa.Table | None, first: int, end: int) -> pa.Table:
    """Those of rejected rows, which are in order, that are in a range of the corpus; no rows of None."""
    if rejects is None:
        return rejects_schema(pa.null()).empty_table()
    start, stop = np.searchsorted(rejects.column("row").to_numpy(), [first, end])
    return rejects.slice(start, stop - start)
