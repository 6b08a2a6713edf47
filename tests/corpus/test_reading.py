"""What may be wrong with a corpus, and what it may be made of: each row keeps its place, its reason and its line."""

import bz2
import csv
import gzip
import json
import lzma
import os

import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather, orc

from steps.common.corpus.conf import template_columns
from steps.common.corpus.opening import find_files
from steps.common.corpus.texts import LINE, REASON
from steps.common.errors import UserError

STEADY = settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck))


def put(path, content: str | bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def table_of(path, size=1000, **options):
    corpus = open_corpus(path, **options)
    table = pa.Table.from_batches(corpus.batches(size), corpus.schema)
    assert (table.num_rows, table["text"].null_count) == (corpus.rows, corpus.null_rows)
    return table


def texts_of(path, **options):
    return table_of(path, **options)["text"].to_pylist()


def faults(path, **options) -> list[tuple]:
    """Text, line and reason of every row; where bad rows may be kept, they are."""
    table = table_of(path, on_bad_row="keep_all", **options)
    return list(zip(table["text"].to_pylist(), table[LINE].to_pylist(), table[REASON].to_pylist()))


def refusal(path, **options) -> str:
    with pytest.raises(UserError) as caught:
        table_of(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def invalid_strings(*values: bytes) -> pa.Array:
    return pa.array(values, pa.binary()).view(pa.string())


# any corpus, in any format


def write_csv(path, table, delimiter):
    rows = [table.column_names, *zip(*(map(str, column.to_pylist()) for column in table.columns))]
    put(path, "".join(delimiter.join('"' + c.replace('"', '""') + '"' for c in row) + "\n" for row in rows))


def write_stream(path, table):
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, 3)


WRITERS = {
    "csv": lambda path, table: write_csv(path, table, ","),
    "tsv": lambda path, table: write_csv(path, table, "\t"),
    "jsonl": lambda path, table: put(path, "".join(json.dumps(row) + "\n" for row in table.to_pylist())),
    "parquet": lambda path, table: pq.write_table(table, path, row_group_size=3),
    "arrow": lambda path, table: feather.write_feather(table, str(path), compression="zstd", chunksize=3),
    "arrows": write_stream,
    "orc": lambda path, table: orc.write_table(table, str(path)),
}
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
TEXT_OF_LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


@pytest.mark.parametrize("ending", list(WRITERS))
@STEADY
@given(data=st.data())
def test_ids_order_count_and_texts_survive(tmp_path, ending, data):
    # A cell of TSV holds no line end.
    texts = data.draw(st.lists(TEXT_OF_LINES if ending == "tsv" else ANY_TEXT, min_size=1, max_size=12))
    ids = data.draw(st.lists(st.integers(-(10**17), 10**17), min_size=len(texts), max_size=len(texts)))
    path = tmp_path / f"c.{ending}"
    WRITERS[ending](path, pa.table({"id": pa.array(ids, pa.int64()), "text": pa.array(texts, pa.string())}))
    table = table_of(path, data.draw(st.integers(1, 13)), id_column="id")
    assert table["text"].to_pylist() == texts
    assert table["id"].to_pylist() == ids


@STEADY
@given(
    texts=st.lists(TEXT_OF_LINES, min_size=1, max_size=12), ending=st.sampled_from(["", ".gz", ".bz2", ".xz", ".zst"])
)
def test_lines_survive_every_compression(tmp_path, texts, ending):
    content = "".join(f"{text}\n" for text in texts).encode()
    path = put(tmp_path / f"c.txt{ending}", content if not ending else COMPRESS[ending](content))
    assert texts_of(path) == texts


# compression

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
LINES = "".join(f"line {i} {i * 7919 % 1013}\n" for i in range(300)).encode()


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_several_streams_in_a_file_are_one_file(tmp_path, ending):
    squeeze = COMPRESS[ending]
    path = put(tmp_path / f"c.txt{ending}", squeeze(LINES[:1001]) + squeeze(LINES[1001:2000]) + squeeze(LINES[2000:]))
    assert texts_of(path) == LINES.decode().splitlines()


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_a_compressed_file_that_breaks_off_anywhere_is_refused(tmp_path, ending):
    content = COMPRESS[ending](LINES)
    for cut in range(0, len(content), 23):
        message = refusal(put(tmp_path / f"c.txt{ending}", content[:cut]))
        assert f"c.txt{ending} is damaged" in message


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_damage_behind_the_first_stream_is_not_taken_for_the_end(tmp_path, ending):
    content = COMPRESS[ending](LINES)
    assert "is damaged" in refusal(put(tmp_path / f"c.txt{ending}", content + b"garbage"))
    assert "is damaged" in refusal(put(tmp_path / f"c.txt{ending}", content + b"\x55" + content[1:]))


def test_a_compressed_file_without_its_ending_is_recognised(tmp_path):
    assert "Give it a name that says so: c.txt.gz" in refusal(put(tmp_path / "c.txt", gzip.compress(b"a\n")))


def test_an_arrow_stream_cut_short_or_doubled_is_refused(tmp_path):
    write_stream(tmp_path / "c.arrows", pa.table({"text": [f"text {i}" for i in range(9)]}))
    content = (tmp_path / "c.arrows").read_bytes()
    assert "breaks off before its end" in refusal(put(tmp_path / "c.arrows", content[:-8]))
    assert "more than one Arrow stream" in refusal(put(tmp_path / "c.arrows", content * 2))


# bad rows


def test_every_fault_of_json_lines_keeps_its_row_its_line_and_its_reason(tmp_path):
    lines = [
        b'{"text": "fine"}',
        b'{"text": null}',
        b"",
        b'{"text": ""}',
        b'{"text": " \\t"}',
        b'{"text": 3}',
        b'{"text": "caf\xe9"}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "half \\ud83d"}',
        b'{"text": "cut',
        b"[1]",
        b'{"text": "last"}',
    ]
    found = faults(put(tmp_path / "c.jsonl", b"\n".join(lines)))
    assert [(text, line) for text, line, _ in found] == [
        (text, line)
        for text, line in zip(["fine"] + [None] * 9 + ["last"], [n for n in range(1, len(lines) + 1) if n != 3])
    ]
    parts = [
        "",
        "null",
        "empty",
        "only white space",
        "found int '3'",
        "0xe9",
        "NUL",
        "surrogate",
        "one JSON object",
        "list",
        "",
    ]
    for part, (_, _, reason) in zip(parts, found):
        assert (reason is None) if part == "" else (part in reason)


def test_every_fault_of_csv_keeps_its_row_its_line_and_its_reason(tmp_path):
    content = b'id,text\n1,fine\n2\n3,"two\nlines"\n4,"a"b\n5,caf\xe9\n6,\n7,\xff,8\n8,a\0b\n9,\xe9\n10,last\n'
    found = faults(put(tmp_path / "c.csv", content), id_column="id")
    assert [(text, line) for text, line, _ in found] == [
        ("fine", 2), (None, 3), ("two\nlines", 4), (None, 6), (None, 7), (None, 8), (None, 9), (None, 10), (None, 11),
        ("last", 12),
    ]  # fmt: skip
    reasons = [reason for _, _, reason in found]
    assert reasons[0] is reasons[2] is reasons[9] is None
    for part, reason in zip(
        ("found 1", "not valid CSV", "0xe9", "empty", "found 3", "NUL", "line 11"), reasons[1:2] + reasons[3:9]
    ):
        assert part in reason
    assert table_of(tmp_path / "c.csv", on_bad_row="keep_all", id_column="id")["id"].to_pylist() == [
        1, None, 3, None, 5, 6, None, 8, 9, 10,
    ]  # fmt: skip


def test_a_bad_byte_in_a_column_nobody_asked_for_is_no_fault(tmp_path):
    path = put(tmp_path / "c.csv", b"note,text\ncaf\xe9,a\nfine,b\n")
    assert texts_of(path) == ["a", "b"]


def test_a_quote_that_swallows_rows_stops_the_run_whatever_is_asked(tmp_path):
    path = put(tmp_path / "c.csv", 'id,text\n1,"a\n2,b\n3,"c"\n')
    assert "line 2" in refusal(path, on_bad_row="keep_all")


@pytest.mark.parametrize("ending", ["parquet", "arrow", "arrows"])
def test_strings_that_are_not_utf8_keep_their_rows(tmp_path, ending):
    bad = invalid_strings(b"fine", b"caf\xe9", b"\xed\xa0\x80", b"", b"last")
    WRITERS[ending](tmp_path / f"c.{ending}", pa.table({"text": bad}))
    found = faults(tmp_path / f"c.{ending}")
    assert [text for text, _, _ in found] == ["fine", None, None, None, "last"]
    assert [reason and reason[:40] for _, _, reason in found][1:4] == [
        "expected UTF-8 in 'text', found byte 0xe", "expected UTF-8 in 'text', found byte 0xe", "empty",
    ]  # fmt: skip
    assert "row 2: expected UTF-8" in refusal(tmp_path / f"c.{ending}")


@pytest.mark.parametrize(
    ("text", "reason"), [("null", "null"), ('""', "empty"), ('" "', "only white space"), ('"a\\u0000"', "NUL")]
)
def test_auto_embeds_an_empty_text_and_error_refuses_it(tmp_path, text, reason):
    path = put(tmp_path / "c.jsonl", f'{{"text": "a"}}\n{{"text": {text}}}\n')
    assert texts_of(path) == ["a", json.loads(text)]
    message = refusal(path, on_bad_row="refuse_all")
    assert f"{path} line 2" in message and reason in message and "corpus.on_bad_row=keep_all" in message


def test_a_json_array_is_told_from_json_lines(tmp_path):
    assert "jq -c '.[]'" in refusal(put(tmp_path / "c.json", '[{"text": "a"}]'))


# folders that name columns


def test_folders_name_columns_for_ids_templates_and_kept_ones(tmp_path):
    put(tmp_path / "lang=en" / "k=1" / "c.csv", "text\na\n")
    put(tmp_path / "lang=__HIVE_DEFAULT_PARTITION__" / "k=x%2Fy" / "c.csv", "text\nb\n")
    table = table_of(tmp_path, id_column="k", keep_columns=["lang"], template="{lang}: {text}")
    assert table.select(["id", "text", "lang"]).to_pylist() == [
        {"id": "x/y", "text": ": b", "lang": None},
        {"id": "1", "text": "en: a", "lang": "en"},
    ]
    assert table_of(f"{tmp_path}/lang=e*/*/*.csv", keep_columns=["lang"])["lang"].to_pylist() == ["en"]


def test_folders_name_columns_of_text_files_too(tmp_path):
    put(tmp_path / "lang=en" / "c.txt", "a\n")
    assert table_of(tmp_path, keep_columns=["lang"])["lang"].to_pylist() == ["en"]
    assert "corpus.keep_columns=other" in refusal(tmp_path, keep_columns=["lang", "other"])


def test_a_folder_that_starts_with_an_underscore_may_name_a_column(tmp_path):
    put(tmp_path / "_k=1" / "c.txt", "a\n")
    assert table_of(tmp_path, keep_columns=["_k"])["_k"].to_pylist() == ["1"]


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    put(tmp_path / "corpus" / "c.txt", "a\n")
    put(tmp_path / "elsewhere" / "d.txt", "b\n")
    (tmp_path / "corpus" / "back").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "more").symlink_to(tmp_path / "elsewhere")
    assert texts_of(tmp_path / "corpus") == ["a", "b"]
    assert texts_of(f"{tmp_path}/corpus/**/*.txt") == ["a", "b"]


# templates and kept columns


def test_a_template_writes_null_as_nothing_and_braces_as_themselves(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"a": "x", "b": 1.5}\n{"a": null, "b": true}\n{"a": null, "b": null}\n')
    assert texts_of(path, template="{{{a}}} {b}") == ["{x} 1.5", "{} true", None]


@pytest.mark.parametrize("template", ["", "no column", "{", "{}", "{a!r}", "{a:>3}", "a}"])
def test_a_template_that_cannot_be_filled_is_refused(template):
    with pytest.raises(UserError, match="corpus.template="):
        template_columns(template)


@pytest.mark.parametrize("name", ["id", "text", "embedding", "chunk", LINE, REASON])
def test_names_of_the_output_cannot_be_kept(tmp_path, name):
    assert repr(name) in refusal(
        put(tmp_path / "c.csv", f"body,{name}\na,b\n"), text_column="body", keep_columns=[name]
    )


def test_kept_columns_of_every_type_come_back_as_they_were(tmp_path):
    table = pa.table(
        {
            "text": ["a", "b"],
            "tags": [["x", None], None],
            "meta": [{"n": 1, "l": [1.5]}, None],
            "when": pa.array([1, None], pa.timestamp("us", "UTC")),
            "raw": [b"\xff", None],
            "price": pa.array([1, None], pa.int64()).cast(pa.decimal128(21, 2)),
            "kind": pa.array(["k", None]).dictionary_encode(),
            "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    kept = table_of(tmp_path / "c.parquet", 1, keep_columns=table.column_names[1:])
    assert kept.select(table.column_names).to_pylist() == table.to_pylist()


def test_kept_columns_share_a_type_over_files(tmp_path):
    put(tmp_path / "a.jsonl", '{"text": "a", "n": 1, "tags": ["x"], "m": {"p": 1}}\n')
    put(tmp_path / "b.jsonl", '{"text": "b", "n": 1.5, "tags": [], "m": {"q": "z"}}\n')
    table = table_of(tmp_path, keep_columns=["n", "tags", "m"])
    assert table.select(["n", "tags", "m"]).to_pylist() == [
        {"n": 1.0, "tags": ["x"], "m": {"p": 1, "q": None}},
        {"n": 1.5, "tags": [], "m": {"p": None, "q": "z"}},
    ]
    put(tmp_path / "c.jsonl", '{"text": "c", "n": "one", "tags": [], "m": {}}\n')
    assert "several types" in refusal(tmp_path, keep_columns=["n"])


# size and change


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
def test_a_text_of_10_mb_and_a_million_rows_of_one_character(tmp_path, ending):
    giant = "word " * 2_000_000
    if ending == "txt":
        put(tmp_path / "c.txt", giant + "\n" + "x\n" * 1_000_000)
    elif ending == "jsonl":
        put(tmp_path / "c.jsonl", json.dumps({"text": giant}) + "\n" + '{"text": "x"}\n' * 1_000_000)
    else:
        pq.write_table(pa.table({"text": [giant] + ["x"] * 1_000_000}), tmp_path / "c.parquet")
    corpus = open_corpus(tmp_path)
    assert corpus.rows == 1_000_001
    batches = corpus.batches(8192)
    assert next(batches)["text"][0].as_py() == giant
    assert sum(batch.num_rows for batch in batches) > 1_000_001 - 8193


def test_long_texts_are_decoded_few_at_a_time(tmp_path):
    pq.write_table(pa.table({"text": [f"{i}" + "x" * 1_000_000 for i in range(100)]}), tmp_path / "c.parquet")
    sizes = [batch["text"].nbytes for batch in open_corpus(tmp_path / "c.parquet").batches(8192)]
    assert max(sizes) < 40_000_000 and sum(sizes) > 100_000_000


def test_a_file_that_changes_is_noticed_before_another_row_is_used(tmp_path):
    path = put(tmp_path / "c.txt", "a\n" * 100)
    batches = open_corpus(path).batches(10)
    next(batches)
    put(path, "b\n" * 100)
    with pytest.raises(UserError, match="has changed since it was opened"):
        next(batches)


def test_content_that_changed_under_the_same_size_and_time_is_noticed(tmp_path):
    path = put(tmp_path / "c.txt", "a\nb\n")
    corpus, times = open_corpus(path), path.stat()
    put(path, "a\nc\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="its content differs"):
        list(corpus.batches(10))


def test_a_row_is_found_in_its_file(tmp_path):
    for name, rows in (("a", 2), ("b", 0), ("c", 3)):
        put(tmp_path / f"{name}.txt", "x\n" * rows)
    corpus = open_corpus(tmp_path)
    found = [corpus.where(row) for row in range(5)]
    assert [(source.place.name, row) for source, row in found] == [
        ("a.txt", 0), ("a.txt", 1), ("c.txt", 0), ("c.txt", 1), ("c.txt", 2),
    ]  # fmt: skip
    assert [place.name for place in find_files(tmp_path)] == ["a.txt", "b.txt", "c.txt"]


def test_empty_objects_cannot_be_kept(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": "a", "more": {"deep": [{}]}}\n')
    assert "holds only empty objects" in refusal(path, keep_columns=["more"])


# encodings and line ends that are none


def of_format(ending: str, texts: list[str]) -> str:
    if ending == "jsonl":
        return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    head = {"txt": "", "csv": "id,text\n", "tsv": "id\ttext\n"}[ending]
    cell = {"txt": "", "csv": "1,", "tsv": "1\t"}[ending]
    return head + "".join(f"{cell}{text}\n" for text in texts)


SCRIPTS = {
    "latin": ["A plain sentence.", "Another."],
    "one": ["ab"],
    "cyrillic": ["привет мир"],
    "greek": ["καλημέρα κόσμε"],
    "arabic": ["صباح الخير"],
    "chinese": ["今天天气很好，我们去公园散步吧"] * 20,
}


@pytest.mark.parametrize("squeezed", ["", ".gz"])
@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be", "utf-32le", "utf-32be", "utf-16", "utf-32"])
def test_wide_encodings_are_refused_with_the_command_that_converts_them(tmp_path, encoding, ending, squeezed):
    for texts in SCRIPTS.values():
        content = of_format(ending, texts).encode(encoding)
        path = put(tmp_path / f"c.{ending}{squeezed}", gzip.compress(content) if squeezed else content)
        for on_bad_row in ("keep_nulls", "keep_all"):
            message = refusal(path, on_bad_row=on_bad_row)
            assert f"{path} line 1: expected UTF-8, found {encoding.upper()[:6]}. Convert the file first: " in message
            command = f"iconv -f {encoding} -t utf-8"
            unpacked = f"gzip -dc c.{ending}.gz | {command} > utf8-c.{ending}"
            assert (unpacked if squeezed else f"{command} c.{ending} > utf8-c.{ending}") in message


@pytest.mark.parametrize(
    "line", ["a\0b", "\0", "a\0", "\0\0\0\0", "\x01a", "one\0two\0three\0four", "é" * 50 + "\0", "今天\0天气"]
)
def test_a_text_with_nul_characters_is_still_a_text(tmp_path, line):
    assert texts_of(put(tmp_path / "c.txt", f"{line}\nA plain sentence.\n")) == [line, "A plain sentence."]
    for fill in (1, 7, 3000):
        lines = ["A plain sentence."] * fill + [line] * 20 + ["Another sentence."] * 100
        assert texts_of(put(tmp_path / "c.txt", "".join(f"{text}\n" for text in lines))) == lines


@pytest.mark.parametrize("squeezed", ["", ".gz"])
@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl"])
def test_carriage_returns_alone_are_refused_with_the_command_that_mends_them(tmp_path, ending, squeezed):
    content = of_format(ending, ["a", "b", "c"]).replace("\n", "\r").encode()
    path = put(tmp_path / f"c.{ending}{squeezed}", gzip.compress(content) if squeezed else content)
    for on_bad_row in ("keep_nulls", "keep_all"):
        message = refusal(path, on_bad_row=on_bad_row)
        assert f"{path} line 1: expected lines that end in \\n, found \\r alone." in message
        given = f"gzip -dc c.{ending}.gz | tr '\\r' '\\n'" if squeezed else f"tr '\\r' '\\n' < c.{ending}"
        assert f"{given} > lf-c.{ending}" in message


@pytest.mark.parametrize("content", ["a\rb", "a\rb\n", "a\rb\rc\n", "a\r", "first\na\rb\rc\rd\n"])
def test_a_carriage_return_inside_a_text_is_part_of_it(tmp_path, content):
    lines = [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")]
    assert texts_of(put(tmp_path / "c.txt", content)) == lines


def test_json_laid_out_with_carriage_returns_is_one_object(tmp_path):
    assert texts_of(put(tmp_path / "c.jsonl", '{\r"text":\r"a"\r}\r')) == ["a"]


def test_bytes_of_a_compressed_file_are_converted_behind_its_compression(tmp_path):
    path = put(tmp_path / "c.txt.xz", lzma.compress(b"caf\xe9\n"))
    assert "xz -dc c.txt.xz | iconv -f latin1 -t utf-8 > utf8-c.txt" in refusal(path)


# keys that objects leave out


@pytest.mark.parametrize("order", [1, -1])
def test_a_key_that_some_object_has_is_a_column_wherever_it_stands(tmp_path, order):
    records = [{"text": "a"}, {"id": 7, "title": "t", "tag": "x"}, {"text": "b", "tag": None}][::order]
    path = put(tmp_path / "c.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    table = table_of(path, id_column="id", keep_columns=["tag"])
    assert table.select(["id", "text", "tag"]).to_pylist() == [
        {"id": record.get("id"), "text": record.get("text"), "tag": record.get("tag")} for record in records
    ]
    assert texts_of(path, template="{title}: {text}") == [": a", "t: ", ": b"][::order]


def test_a_key_that_no_object_has_is_a_wrong_name(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": "a", "n": 1}\n{"text": "b", "m": 1}\n')
    for options in (
        {"text_column": "body"},
        {"id_column": "body"},
        {"keep_columns": ["body"]},
        {"template": "{body}{n}"},
    ):
        # A template that lacks one of its columns may have no text in some row, which "error" refuses.
        for on_bad_row in (
            ("keep_nulls", "keep_all") if "template" in options else ("keep_nulls", "keep_all", "refuse_all")
        ):
            message = refusal(path, on_bad_row=on_bad_row, **options)
            assert f"{path} has no column 'body'; its columns are 'text', 'n'" in message


def test_a_key_of_ids_or_kept_values_may_be_missing_in_a_whole_file_but_the_text_may_not(tmp_path):
    put(tmp_path / "a.jsonl", '{"text": "a"}\n')
    put(tmp_path / "b.jsonl", '{"text": "b", "id": 2, "tag": [1]}\n')
    put(tmp_path / "c.jsonl", "")
    table = table_of(tmp_path, id_column="id", keep_columns=["tag"])
    assert table["id"].to_pylist() == [None, 2] and table["tag"].to_pylist() == [None, [1]]
    path = put(tmp_path / "d.jsonl", '{"body": "d", "id": 3}\n')
    assert f"{path} has no column 'text'" in refusal(tmp_path)


# delimiters, quotes


@pytest.mark.parametrize(
    ("ending", "delimiter", "typed"),
    [("csv", ";", "';'"), ("csv", "|", "'|'"), ("csv", "\t", "tab"), ("tsv", ",", "','"), ("tsv", ";", "';'")],
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_another_delimiter_is_guessed_in_the_error_and_can_be_given(tmp_path, ending, delimiter, typed, quote):
    rows = [["id", "text"], ["1", "one"], ["2", "two"]]
    content = "".join(delimiter.join(f"{quote}{cell}{quote}" for cell in row) + "\n" for row in rows)
    path = put(tmp_path / f"c.{ending}", content)
    assert f"corpus.delimiter={typed}" in refusal(path)
    table = table_of(path, id_column="id", delimiter=typed.strip("'"))
    assert table.select(["id", "text"]).to_pylist() == [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
    assert table["text"].to_pylist() == pandas.read_csv(path, sep=delimiter)["text"].tolist()


def test_no_delimiter_is_guessed_for_a_wrong_name(tmp_path):
    assert "corpus.delimiter" not in refusal(put(tmp_path / "c.csv", "a;b,body\n1,2\n"))


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_a_delimiter_that_is_none_is_refused(tmp_path, delimiter):
    assert "expected one character" in refusal(put(tmp_path / "c.csv", "text\na\n"), delimiter=delimiter)


@pytest.mark.parametrize("options", [{"delimiter": ";"}, {"quoting": "none"}])
def test_formats_without_cells_have_no_delimiter_and_no_quotes(tmp_path, options):
    assert "is for CSV and TSV, but the corpus is text" in refusal(put(tmp_path / "c.txt", "a\n"), **options)


def test_tsv_whose_cells_hold_quotes_is_read_without_quoting_as_pandas_and_duckdb_read_it(tmp_path):
    texts = ['"Hello" she said', '"quoted"', 'he said "no', '"', 'a ""b"" c', "5' 3\"", "'single'", "back\\slash"]
    path = put(tmp_path / "c.tsv", "n\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))
    assert "corpus.quoting=none" in refusal(path)
    found = texts_of(path, quoting="none")
    assert found == texts
    assert found == pandas.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE)["text"].tolist()
    options = "delim='\\t', quote='', escape='', header=true, all_varchar=true"
    assert found == [row[0] for row in duckdb.sql(f"select text from read_csv('{path}', {options})").fetchall()]


def test_tsv_written_by_a_csv_writer_is_read_with_its_quotes(tmp_path):
    texts = ["tab\there", '"quoted"', "plain"]
    with (tmp_path / "c.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["text"], *([text] for text in texts)])
    assert texts_of(tmp_path / "c.tsv") == texts == pandas.read_csv(tmp_path / "c.tsv", sep="\t")["text"].tolist()


def test_a_quote_that_swallows_rows_names_the_key_that_takes_quotes_as_they_are(tmp_path):
    for ending, delimiter in (("tsv", "\t"), ("csv", ",")):
        path = put(tmp_path / f"c.{ending}", f'id{delimiter}text\n1{delimiter}"a\n2{delimiter}b\n')
        assert "corpus.quoting=none" in refusal(path)
        assert texts_of(path, quoting="none") == ['"a', "b"]


# what of a folder is taken


def test_the_log_says_how_many_files_were_taken_and_skipped(tmp_path, caplog):
    for name in ("a.txt", "b.TXT", "c.txt.gz", "d.md", "e.md", "README", "_hidden.txt"):
        put(tmp_path / name, gzip.compress(b"x\n") if name.endswith(".gz") else b"x\n")
    with caplog.at_level("INFO", "steps"):
        open_corpus(tmp_path)
    assert (
        f"corpus {tmp_path}: 3 files (2 .txt, 1 .txt.gz) taken, skipped 3 files (2 .md, 1 without an ending) of unknown format"
        in caplog.text
    )
    caplog.clear()
    with caplog.at_level("INFO", "steps"):
        open_corpus(tmp_path / "a.txt")
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("c.jsonl", "jq -c '.[]' c.jsonl > lines-c.jsonl"),
        ("c.json", "jq -c '.[]' c.json > lines-c.json"),
        ("c.jsonl.gz", "gzip -dc c.jsonl.gz | jq -c '.[]' > lines-c.jsonl"),
        ("my c.jsonl", "jq -c '.[]' 'my c.jsonl' > 'lines-my c.jsonl'"),
    ],
)
def test_the_command_that_converts_an_array_writes_to_another_file(tmp_path, name, command):
    content = b'[{"text": "a"}]'
    path = put(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert refusal(path).endswith(command)


WORDS = {
    "latin": "a small café", "cyrillic": "привет мир", "greek": "καλημέρα κόσμε", "hebrew": "שלום עולם",
    "arabic": "مرحبا بالعالم", "hindi": "नमस्तेदुनिया", "tamil": "வணக்கம்", "thai": "สวัสดีชาวโลก", "lao": "ສະບາຍດີ",
    "khmer": "សួស្តី", "chinese": "一个小句子", "japanese": "こんにちは世界", "korean": "안녕하세요", "emoji": "😀🎉👍🏽",
}  # fmt: skip
LAID_OUT = {
    "txt": lambda text, count: f"{text}\n" * count,
    "jsonl": lambda text, count: f'{{"text": "{text}"}}\n' * count,
    "csv": lambda text, count: "text\n" + f"{text}\n" * count,
}


@pytest.mark.parametrize("ending", LAID_OUT)
@pytest.mark.parametrize("script", WORDS)
@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be", "utf-32le", "utf-32be"])
def test_wide_encodings_of_every_script_are_told_without_a_mark(tmp_path, encoding, script, ending):
    for count in (1, 2, 50, 20000):
        content = LAID_OUT[ending](WORDS[script], count)
        message = refusal(put(tmp_path / f"c.{ending}", content.encode(encoding)))
        assert f"iconv -f {encoding} -t utf-8 c.{ending} > utf8-c.{ending}" in message


@pytest.mark.parametrize("ending", LAID_OUT)
@pytest.mark.parametrize("script", WORDS)
def test_the_same_scripts_in_utf8_are_read_with_a_nul_too(tmp_path, script, ending):
    text = WORDS[script]
    for one in (text, "x" + text):
        for count in (1, 2, 50):
            path = put(tmp_path / f"c.{ending}", LAID_OUT[ending](one, count))
            assert texts_of(path) == [one] * count
            for at in range(len(one) + 1) if ending != "jsonl" else ():
                path = put(
                    tmp_path / f"c.{ending}", LAID_OUT[ending](one[:at] + "\0" + one[at:], 1) + f"{one}\n" * count
                )
                assert texts_of(path) == [one[:at] + "\0" + one[at:]] + [one] * count


def test_latin1_is_not_advised_for_a_file_with_nul_bytes(tmp_path):
    for name, content in (("c.txt", b"a\0b\nab caf\xe9 \n"), ("c.csv", b"a\0\xe9,text\n1,b\n")):
        message = refusal(put(tmp_path / name, content))
        assert "0xe9" in message and "-f latin1" not in message and "iconv -f <encoding>" in message


def test_no_command_is_given_for_broken_strings_of_a_parquet_file(tmp_path):
    raw = pa.array([b"caf\xe9"]).cast(pa.binary())
    broken = pa.StringArray.from_buffers(1, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"text": broken}), tmp_path / "c.parquet")
    message = refusal(tmp_path / "c.parquet")
    assert "0xe9" in message and "iconv" not in message


@pytest.mark.parametrize("content", ["al\0\n", "r\0 r\n", "é\0l\n", "🎉\n\0"])
def test_a_very_short_text_with_one_nul_is_a_text(tmp_path, content):
    assert texts_of(put(tmp_path / "c.txt", content)) == content.removesuffix("\n").split("\n")
