"""Outputs that encode may take, and folders that hold something else."""

import pytest
from helpers.errors import refusal
from helpers.outputs import finish, put_part, table_of

from steps.common.embeddings import verify
from steps.common.embeddings.parts import File, Part
from steps.common.storage import place as files
from steps.common.storage.output import PLAN


def check(folder) -> None:
    verify.check_output(files.locate(folder))


def test_a_new_output_folder_is_made_with_its_parents(tmp_path):
    check(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_an_output_that_encode_has_begun_or_finished_is_taken(output):
    output.write_text(PLAN, "{}")
    verify.check_output(output.place)
    finish(output, put_part(output, 0, table_of(0, 3)))
    verify.check_output(output.place)


def test_an_output_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    for name in "abcde":
        (tmp_path / name).write_text("")
    assert "already holds a, b, c and 2 more; expected a folder that is new, empty or an output of encode" in refusal(
        check, tmp_path
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == list("abcde")


def test_a_hidden_file_counts_as_something(tmp_path):
    (tmp_path / ".keep").write_text("")
    assert "already holds .keep" in refusal(check, tmp_path)


def test_parts_without_plan_or_manifest_are_something_else(tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"")
    assert "already holds part-00000.parquet" in refusal(check, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "an app"}'])
def test_the_manifest_of_something_else_is_left_alone(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert "already holds manifest.json" in refusal(check, tmp_path)
    (tmp_path / "part-00000.parquet").write_bytes(b"")
    (tmp_path / "index.html").write_text("")
    assert "already holds index.html" in refusal(check, tmp_path)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(check, tmp_path / "file")


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be" in refusal(check, tmp_path / "file" / "out")


def test_a_file_of_the_manifest_is_a_file():
    part = Part("a.npy", 0, 1, 1, 2, "x", {}, {}, [File("a.ids.parquet", 3, "y")])
    assert part.files == [File("a.npy", 2, "x"), File("a.ids.parquet", 3, "y")]


def test_a_folder_in_the_place_of_a_new_part_is_said(tmp_path):
    (tmp_path / "part-00000.parquet").mkdir()
    assert "part-00000.parquet is a folder, expected a file. Move it away" in refusal(check, tmp_path)
