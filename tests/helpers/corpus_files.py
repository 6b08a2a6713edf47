"""Corpora as files: in every format, compressed in every way."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather, orc

TEXTS = [
    "A plain sentence.",
    "",
    "Grüße aus Köln, 東京 и Москва 🚀",
    'She said "no", twice.',
    "tab\there",
    "  spaces kept  ",
]


def put(path, content: str | bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def put_jsonl(path, *records):
    return put(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def put_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def quoted(cell: str, delimiter: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in f'"{delimiter}\r\n') else cell


def write_as(format: str, path, texts):
    """Texts in a column beside their numbers in another, `n`, which a text file has not."""
    if format == "text":
        return put(path, "".join(f"{text}\n" for text in texts))
    if format in ("csv", "tsv"):
        delimiter = {"csv": ",", "tsv": "\t"}[format]
        return put(
            path,
            f"n{delimiter}text\n"
            + "".join(f"{i}{delimiter}{quoted(text, delimiter)}\n" for i, text in enumerate(texts)),
        )
    if format == "jsonl":
        return put_jsonl(path, *({"n": i, "text": text} for i, text in enumerate(texts)))
    return put_parquet(path, n=list(range(len(texts))), text=texts)


def write_csv(path, table, delimiter):
    rows = [table.column_names, *zip(*(map(str, column.to_pylist()) for column in table.columns))]
    put(path, "".join(delimiter.join('"' + c.replace('"', '""') + '"' for c in row) + "\n" for row in rows))


def write_stream(path, table):
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, 3)


# How a table is written, by the ending of a file; in pieces of three rows, where a format has any.
WRITERS = {
    "csv": lambda path, table: write_csv(path, table, ","),
    "tsv": lambda path, table: write_csv(path, table, "\t"),
    "jsonl": lambda path, table: put(path, "".join(json.dumps(row) + "\n" for row in table.to_pylist())),
    "parquet": lambda path, table: pq.write_table(table, path, row_group_size=3),
    "arrow": lambda path, table: feather.write_feather(table, str(path), compression="zstd", chunksize=3),
    "arrows": write_stream,
    "orc": lambda path, table: orc.write_table(table, str(path)),
}

# By the ending of a file.
COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def of_format(ending: str, texts: list[str]) -> str:
    """What a file of lines holds of these texts, none of which needs quotes."""
    if ending == "jsonl":
        return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    head = {"txt": "", "csv": "id,text\n", "tsv": "id\ttext\n"}[ending]
    cell = {"txt": "", "csv": "1,", "tsv": "1\t"}[ending]
    return head + "".join(f"{cell}{text}\n" for text in texts)
