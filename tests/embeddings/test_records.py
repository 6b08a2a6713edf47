"""What is noted of each part, the rejected rows, the manifest."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.outputs import finish, make_manifest, put_part, rejects_of, table_of

from steps.common.embeddings import manifest as manifests
from steps.common.embeddings import records


def test_a_record_says_what_is_needed_to_go_on(output):
    rejects = [{"row": 8, "reason": "null"}]
    part = put_part(output, 7, table_of(0, 3), rejects=rejects)
    record = records.read_record(output, "part-00000")
    assert record.part == part
    assert record.read_rejects(pa.int64()) == rejects_of(rejects)
    assert records.PartRecord(part, None).read_rejects(pa.string()) == rejects_of([], pa.string())
    assert records.read_record(output, "part-00001") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(rejects=None),
        lambda record: record.update(rejects="!!!!"),
        lambda record: record.update(rejects=[1, 2]),
        lambda record: record["part"].update(counts={}),
        lambda record: record["part"]["counts"].update(other=1),
        lambda record: record.pop("digest", None),
        lambda record: record.update(digest=None),
    ],
)
def test_a_record_that_was_changed_is_none(output, change):
    put_part(output, 0, table_of(0, 3), rejects=[{"row": 1, "reason": "null"}])
    (path,) = output.place.local.glob(".encode/done/*.json")
    assert records.read_record(output, "part-00000") is not None
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    assert records.read_record(output, "part-00000") is None


def test_a_record_that_is_torn_is_none(output):
    put_part(output, 0, table_of(0, 3))
    (path,) = output.place.local.glob(".encode/done/*.json")
    path.write_text(path.read_text()[:40])
    assert records.read_record(output, "part-00000") is None


@pytest.mark.parametrize(
    "content",
    [
        "3",
        "[]",
        "{}",
        '{"part": 3, "rejects": []}',
        '{"part": {}, "rejects": []}',
        '{"part": {"name": "part-00000.parquet"}, "rejects": []}',
        '{"part": null}',
    ],
)
def test_a_record_that_is_json_but_no_record_is_none(output, content):
    put_part(output, 0, table_of(0, 3))
    (path,) = output.place.local.glob(".encode/done/*.json")
    path.write_text(content)
    assert records.read_record(output, "part-00000") is None


@pytest.mark.parametrize(
    "name, value",
    [("first_row", "0"), ("rows", None), ("bytes", -1), ("beside", [1]), ("counts", [1]), ("sha256", 5), ("more", 1)],
)
def test_a_record_with_a_value_of_another_kind_is_none(output, name, value):
    put_part(output, 0, table_of(0, 3))
    (path,) = output.place.local.glob(".encode/done/*.json")
    record = json.loads(path.read_text())
    record["part"][name] = value
    path.write_text(json.dumps(record))
    assert records.read_record(output, "part-00000") is None


def test_rejects_have_a_row_for_each_row_without_an_embedding(output):
    rows = [[{"row": 1, "id": "a", "file": "c.csv", "line": 3, "reason": "null"}], [], [{"row": 9, "id": None}]]
    file = records.write_rejects(output, pa.string(), [rejects_of(part, pa.string()) for part in rows])
    assert manifests.check_files(output, [file]) == []
    assert pq.read_table(output.place.local / "rejects.parquet").to_pylist() == [
        {"row": 1, "id": "a", "file": "c.csv", "line": 3, "reason": "null"},
        {"row": 9, "id": None, "file": None, "line": None, "reason": None},
    ]


def test_without_rejects_there_is_no_file_of_them(output):
    assert records.write_rejects(output, pa.int64(), [rejects_of([]), rejects_of([])]) is None
    assert output.names() == []


def test_the_manifest_is_readable_text_whatever_the_letters(output):
    text = manifests.write_manifest(output, make_manifest([], corpus={"path": "Grüße/東京.csv"}))
    assert "Grüße/東京.csv" in text
    assert (output.place.local / "manifest.json").read_text(encoding="utf-8") == text


def test_a_manifest_that_cannot_be_written_leaves_no_manifest(output):
    with pytest.raises(TypeError):
        manifests.write_manifest(output, make_manifest([], model={"name": object()}))
    assert output.names() == []


def test_the_records_of_a_whole_output_can_be_written_again(output):
    rejects = [{"row": 1, "id": 1, "file": "c", "line": 2, "reason": "null"}]
    parts = [
        put_part(output, 0, table_of(0, 3), rejects=rejects),
        put_part(output, 3, table_of(3, 2), stem="part-00001"),
    ]
    finish(output, *parts, rejects=records.write_rejects(output, pa.int64(), [rejects_of(rejects)]))
    before = [records.read_record(output, f"part-0000{i}") for i in range(2)]
    output.clear_work()
    assert records.read_record(output, "part-00000") is None
    assert records.restore(output) == manifests.PlanRecord({"a": 1}, ["r"], None, 5)
    assert [records.read_record(output, f"part-0000{i}") for i in range(2)] == before
