"""What may be wrong with a row: each keeps its place, its reason and its line."""

import json

import pyarrow as pa
import pytest
from helpers.corpora import refusal_of, table_of, texts_of
from helpers.corpus_files import WRITERS, put

from steps.common.corpus.texts import LINE, REASON


def faults(path, **options) -> list[tuple]:
    """Text, line and reason of every row; where bad rows may be kept, they are."""
    table = table_of(path, on_bad_row="keep_all", **options)
    return list(zip(table["text"].to_pylist(), table[LINE].to_pylist(), table[REASON].to_pylist()))


def invalid_strings(*values: bytes) -> pa.Array:
    return pa.array(values, pa.binary()).view(pa.string())


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


@pytest.mark.parametrize("ending", ["parquet", "arrow", "arrows"])
def test_strings_that_are_not_utf8_keep_their_rows(tmp_path, ending):
    bad = invalid_strings(b"fine", b"caf\xe9", b"\xed\xa0\x80", b"", b"last")
    WRITERS[ending](tmp_path / f"c.{ending}", pa.table({"text": bad}))
    found = faults(tmp_path / f"c.{ending}")
    assert [text for text, _, _ in found] == ["fine", None, None, None, "last"]
    assert [reason and reason[:40] for _, _, reason in found][1:4] == [
        "expected UTF-8 in 'text', found byte 0xe", "expected UTF-8 in 'text', found byte 0xe", "empty",
    ]  # fmt: skip
    assert "row 2: expected UTF-8" in refusal_of(tmp_path / f"c.{ending}")


@pytest.mark.parametrize(
    ("text", "reason"), [("null", "null"), ('""', "empty"), ('" "', "only white space"), ('"a\\u0000"', "NUL")]
)
def test_auto_embeds_an_empty_text_and_error_refuses_it(tmp_path, text, reason):
    path = put(tmp_path / "c.jsonl", f'{{"text": "a"}}\n{{"text": {text}}}\n')
    assert texts_of(path) == ["a", json.loads(text)]
    message = refusal_of(path, on_bad_row="refuse_all")
    assert f"{path} line 2" in message and reason in message and "corpus.on_bad_row=keep_all" in message
