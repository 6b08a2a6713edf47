"""Where a line ends, and what stands before the first: line ends of every kind, byte order marks."""

import gzip

import pytest
from helpers.corpora import refusal_of, texts_of
from helpers.corpus_files import of_format, put, write_as


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl"])
def test_a_last_line_without_an_end_is_a_row(tmp_path, format):
    path = write_as(format, tmp_path / "c", ["a", "b"])
    put(path, path.read_bytes().removesuffix(b"\n"))
    assert texts_of(path, format=format) == ["a", "b"]


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl"])
def test_windows_line_ends_are_no_part_of_the_text(tmp_path, format):
    path = write_as(format, tmp_path / "c", ["a", "b"])
    put(path, path.read_bytes().replace(b"\n", b"\r\n"))
    assert texts_of(path, format=format) == ["a", "b"]


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl"])
def test_a_byte_order_mark_is_dropped(tmp_path, format):
    path = write_as(format, tmp_path / "c", ["a", "b"])
    put(path, b"\xef\xbb\xbf" + path.read_bytes())
    assert texts_of(path, format=format) == ["a", "b"]


def test_a_byte_order_mark_hides_no_first_column(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", b"\xef\xbb\xbftext,n\na,1\n")) == ["a"]


def test_only_the_newline_separates_the_lines_of_a_text_file(tmp_path):
    line = "a\u2028b\u0085c\x0bd\x0ce"
    assert texts_of(put(tmp_path / "c.txt", f"{line}\nf\n")) == [line, "f"]


def test_a_windows_line_end_inside_a_cell_is_kept(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", 'text\r\n"a\r\nb"\r\n')) == ["a\r\nb"]


@pytest.mark.parametrize("squeezed", ["", ".gz"])
@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl"])
def test_carriage_returns_alone_are_refused_with_the_command_that_mends_them(tmp_path, ending, squeezed):
    content = of_format(ending, ["a", "b", "c"]).replace("\n", "\r").encode()
    path = put(tmp_path / f"c.{ending}{squeezed}", gzip.compress(content) if squeezed else content)
    for on_bad_row in ("keep_nulls", "keep_all"):
        message = refusal_of(path, on_bad_row=on_bad_row)
        assert f"{path} line 1: expected lines that end in \\n, found \\r alone." in message
        given = f"gzip -dc {path} | tr '\\r' '\\n'" if squeezed else f"tr '\\r' '\\n' < {path}"
        assert message.endswith(f"{given} > {tmp_path}/lf-c.{ending}")


@pytest.mark.parametrize("content", ["a\rb", "a\rb\n", "a\rb\rc\n", "a\r", "first\na\rb\rc\rd\n"])
def test_a_carriage_return_inside_a_text_is_part_of_it(tmp_path, content):
    lines = [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")]
    assert texts_of(put(tmp_path / "c.txt", content)) == lines


def test_json_laid_out_with_carriage_returns_is_one_object(tmp_path):
    assert texts_of(put(tmp_path / "c.jsonl", '{\r"text":\r"a"\r}\r')) == ["a"]
