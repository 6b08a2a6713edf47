"""Columns beside the text: templates made of them, those that are kept, and keys that objects leave out."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import refusal_of, table_of, texts_of
from helpers.corpus_files import put

from steps.common.corpus.conf import template_columns
from steps.common.corpus.texts import LINE, REASON
from steps.common.errors import UserError


def test_another_text_column_can_be_named(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", "title,body\nx,y\n"), text_column="body") == ["y"]


def test_a_template_writes_null_as_nothing_and_braces_as_themselves(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"a": "x", "b": 1.5}\n{"a": null, "b": true}\n{"a": null, "b": null}\n')
    assert texts_of(path, template="{{{a}}} {b}") == ["{x} 1.5", "{} true", None]


@pytest.mark.parametrize("template", ["", "no column", "{", "{}", "{a!r}", "{a:>3}", "a}"])
def test_a_template_that_cannot_be_filled_is_refused(template):
    with pytest.raises(UserError, match="corpus.template="):
        template_columns(template)


@pytest.mark.parametrize("name", ["id", "text", "embedding", "chunk", LINE, REASON])
def test_names_of_the_output_cannot_be_kept(tmp_path, name):
    assert repr(name) in refusal_of(
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
    assert "several types" in refusal_of(tmp_path, keep_columns=["n"])


def test_empty_objects_cannot_be_kept(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": "a", "more": {"deep": [{}]}}\n')
    assert "holds only empty objects" in refusal_of(path, keep_columns=["more"])


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
            message = refusal_of(path, on_bad_row=on_bad_row, **options)
            assert f"{path} has no column 'body'; its columns are 'text', 'n'" in message


def test_a_key_of_ids_or_kept_values_may_be_missing_in_a_whole_file_but_the_text_may_not(tmp_path):
    put(tmp_path / "a.jsonl", '{"text": "a"}\n')
    put(tmp_path / "b.jsonl", '{"text": "b", "id": 2, "tag": [1]}\n')
    put(tmp_path / "c.jsonl", "")
    table = table_of(tmp_path, id_column="id", keep_columns=["tag"])
    assert table["id"].to_pylist() == [None, 2] and table["tag"].to_pylist() == [None, [1]]
    path = put(tmp_path / "d.jsonl", '{"body": "d", "id": 3}\n')
    assert f"{path} has no column 'text'" in refusal_of(tmp_path)
