"""Malformed corpora, one for each number: made, read, and judged in a process that may die of them.

python tests/helpers/malformed.py FIRST LAST FOLDER    prints a JSON line before and after each
"""

import io
import json
import random
import sys
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.corpora import open_corpus

from steps.common.errors import UserError

FORMATS = ("csv", "jsonl", "parquet", "arrow", "arrows", "orc")
WORDS = ["cat", "dog", 'a "quoted" word', "comma, here", "two\nlines", "", " ", "Grüße", "東京 🚀", "x" * 300]
SCHEMA = pa.schema({"id": pa.int64(), "text": pa.string(), "n": pa.float64(), "tags": pa.list_(pa.string())})
# Bytes that mean something to one of the readers.
TOKENS = [
    b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"{", b"}", b"[",
    b"null", b"1e999", b"\\ud83d", b"NaN", b"\\", b'"text":', b"PAR1", b"\xff" * 8, b"\x7f" * 4, b"\x80\x80\x80\x80\x08",
]  # fmt: skip


def make(format: str, rng: random.Random) -> bytes:
    """A sound file of some rows."""
    count = rng.randrange(1, 60)
    rows = [
        {"id": i, "text": " ".join(rng.choices(WORDS, k=rng.randrange(4))), "n": rng.random()} for i in range(count)
    ]
    if format == "csv":
        cells = ([str(row["id"]), '"' + row["text"].replace('"', '""') + '"', str(row["n"])] for row in rows)
        return ("id,text,n\n" + "".join(",".join(row) + "\n" for row in cells)).encode()
    if format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in rows).encode()
    for row in rows:
        row["tags"] = rng.choice([None, [], ["a", "b"]])
        row["text"] = rng.choice([row["text"], row["text"], None])
    table, sink = pa.Table.from_pylist(rows, SCHEMA), io.BytesIO()
    if format in ("arrow", "arrows"):
        new = pa.ipc.new_file if format == "arrow" else pa.ipc.new_stream
        options = pa.ipc.IpcWriteOptions(compression=rng.choice([None, "lz4", "zstd"]))
        table = table.set_column(0, "id", table["id"].cast(rng.choice([pa.int64(), pa.string()])).dictionary_encode())
        with new(sink, table.schema, options=options) as writer:
            writer.write_table(table, rng.choice([3, 20, 1000]))
        return sink.getvalue()
    if format == "orc":
        orc.write_table(
            table, sink, compression=rng.choice(["uncompressed", "zlib", "zstd", "snappy"]), stripe_size=1024
        )
        return sink.getvalue()
    pq.write_table(
        table,
        sink,
        row_group_size=rng.choice([3, 20, 1000]),
        compression=rng.choice(["none", "snappy", "zstd", "gzip", "lz4"]),
        use_dictionary=rng.random() < 0.5,
        data_page_version=rng.choice(["1.0", "2.0"]),
        data_page_size=rng.choice([64, 1 << 20]),
        write_page_checksum=rng.random() < 0.2,
    )
    return sink.getvalue()


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Some damage: bytes changed, lost, doubled, moved or put in, or an end that is missing."""
    for _ in range(rng.choice([1, 1, 1, 2, 4, 8])):
        content = damage(content, rng)
    return content


def damage(content: bytes, rng: random.Random) -> bytes:
    # The end of a file in columns is where its footer is.
    at = rng.randrange(len(content) + 1) if rng.random() < 0.6 else max(0, len(content) - rng.randrange(1, 400))
    length = rng.choice([1, 1, 2, 8, 64])
    head, cut, tail = content[:at], content[at : at + length], content[at + length :]
    kinds = [
        lambda: head + rng.randbytes(len(cut)) + tail,
        lambda: head + bytes(byte ^ (1 << rng.randrange(8)) for byte in cut) + tail,
        lambda: head + rng.choice(TOKENS) + cut + tail,
        lambda: head + rng.choice(TOKENS) + tail,
        lambda: head + tail,
        lambda: head + cut * rng.randrange(2, 20) + tail,
        lambda: tail + head + cut if rng.random() < 0.1 else head + tail[::-1][:length] + tail,
        lambda: head if rng.random() < 0.4 else head + cut[::-1] + tail,
    ]
    return rng.choice(kinds)()


def examine(number: int, folder: Path) -> str:
    """Read malformed corpus `number`: "rows", "refused", or what is wrong."""
    rng = random.Random(number)
    format = FORMATS[number % len(FORMATS)]
    path = folder / f"{number}.{format}"
    path.write_bytes(mutate(make(format, rng), rng))
    options = {
        "id_column": rng.choice([None, "id"]),
        "keep_columns": rng.choice([[], ["n"]] + ([["tags", "n"]] if format not in ("csv", "jsonl") else [])),
        "on_bad_row": rng.choice(["keep_nulls", "keep_all", "refuse_all"]),
        "template": rng.choice([None, None, "{text} {id}"]),
    }
    try:
        corpus = open_corpus(path, **options)
        batches = list(corpus.batches(rng.choice([1, 7, 1000])))
    except UserError as error:
        if "\n" in str(error) or not str(error).isprintable() or str(path) not in str(error):
            return f"not one clear line: {str(error)!r}"
        return "refused"
    except Exception:
        return traceback.format_exc()
    finally:
        path.unlink()
    rows, nulls = sum(batch.num_rows for batch in batches), sum(batch.column("text").null_count for batch in batches)
    reasons = sum(len(batch) - batch.column("__reason__").null_count for batch in batches)
    for batch in batches:
        batch.validate(full=True)
    found = {"rows": rows, "nulls": nulls, "reasons": reasons, "said": (corpus.rows, corpus.null_rows)}
    return "rows" if (rows, nulls) == found["said"] and reasons == nulls else f"counts that differ: {found}"


def main(first: int, last: int, folder: Path) -> None:
    for number in range(first, last):
        print(json.dumps({"begin": number}), flush=True)
        print(json.dumps({"end": number, "found": examine(number, folder)}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
