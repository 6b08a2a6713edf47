"""Parts, manifests and whole outputs made without a model, as encode writes them."""

import numpy as np
import pyarrow as pa

from steps.common.embeddings import manifest as manifests
from steps.common.embeddings import parts as shards
from steps.common.embeddings import records
from steps.common.embeddings.manifest import Manifest, PlanRecord
from steps.common.embeddings.origin import Origin
from steps.common.embeddings.parts import ParquetPart, Part, embedding_column, embedding_schema
from steps.common.embeddings.verify import TOTALS

ORIGIN = Origin(
    model_id="m-1",
    hub_id="org/model",
    revision=None,
    registered_version="name/3",
    model_digest="ab" * 32,
    backend="torch/f32",
    prompt="query: ",
    options={"dtype": "float32", "truncate_dim": None, "normalize": False},
    git_commit="c0ffee",
)


def record_of(plan, run_id, origin=ORIGIN) -> PlanRecord:
    """What a run notes of its plan."""
    return PlanRecord(plan, [run_id], None, origin=origin)


def make_manifest(parts, **facts) -> Manifest:
    """The manifest of some parts, with vectors of two float32; `facts` say otherwise."""
    given = {
        **{"run_id": "r", "upstream_run_id": "u", "validation": None, "model": {}, "corpus": {}, "backend": {}},
        **{"options": {}, "versions": {}, "code_commit": None, "normalized": False, "plan": {"a": 1}, "runs": ["r"]},
        **{"rows": sum(part.rows for part in parts), "written_rows": sum(part.written_rows for part in parts)},
        **dict.fromkeys(TOTALS, 0),
        **{"dim": 2, "dtype": "float32", "ranges": None, "rejects": None},
    }
    return Manifest(parts=list(parts), **given | facts)


ALL = np.ones(3, bool)


def schema_of(dtype="float32", keep_text=True, nulls=False, id_type=None, dim=2, **more):
    return embedding_schema(id_type or pa.int64(), dim, dtype, keep_text=keep_text, nulls=nulls, **more)


def table_of(first, count, schema=None):
    """Row i has the text "text i" and the embedding [i, -i]."""
    schema = schema or schema_of()
    rows = np.arange(first, first + count)
    vectors = np.stack([rows, -rows], axis=1).astype(np.float32)
    columns = {
        "id": pa.array(rows, pa.int64()),
        "text": pa.array([f"text {i}" for i in rows], pa.string()),
        "embedding": embedding_column(vectors, np.ones(count, bool), schema.field("embedding").type),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def rejects_of(rows, id_type=None):
    return pa.Table.from_pylist(list(rows), shards.rejects_schema(id_type or pa.int64()))


def put_part(output, first, *tables, stem="part-00000", kind=ParquetPart, rejects=(), width=2):
    """Write a part of some tables as encode does, with its record."""
    writer = kind(output.workspace, stem, tables[0].schema, width)
    for table in tables:
        writer.write(table)
    made = writer.finish()
    facts = [shards.file_facts(path, name) for path, name in made]
    rows = sum(table.num_rows for table in tables)
    counts = {"rows": rows, "null_rows": len(rejects)}
    part = Part(facts[0].name, first, rows, writer.rows, facts[0].bytes, facts[0].sha256, {}, counts, facts[1:])
    for path, name in made:
        output.put(path, name)
    records.write_record(output, part, rejects_of(rejects))
    return part


def names_in(output):
    return [name for name in output.names() if not name.startswith(".")]


def finish(output, *parts, **facts):
    manifests.write_manifest(output, make_manifest(parts, **facts))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
