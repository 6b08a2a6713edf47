"""What the tests of encode give it, and what an output holds."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.storage import place as files
from steps.common.storage.output import Output

# What the line begins with that an encode prints when it is stopped; the rest is the command.
RESUME = "to resume (finished parts are kept): "

WORDS = [
    "the",
    "cat",
    "is",
    "on",
    "the",
    "house",
    "and",
    "a",
    "big",
    "red",
    "dog",
    "in",
    "the",
    "sky",
    "of",
    "blue",
    "stone",
]


def some_texts(count):
    return [" ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(1 + i % 9)) + f" {i}" for i in range(count)]


def write_jsonl(path, texts, **columns):
    rows = [{"text": text} | {name: values[i] for name, values in columns.items()} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_parts(folder) -> pa.Table:
    """The rows of an output, one part behind the other."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def content(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def interrupt(folder):
    """Make a whole output one that was stopped before its manifest was written."""
    from steps.common.embeddings import manifest, records

    output = Output(files.locate(folder), folder / ".encode")
    record = records.restore(output)
    (folder / "manifest.json").unlink()
    manifest.write_plan(output, record)
