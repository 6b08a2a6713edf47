"""Encodings other than UTF-8, told from odd texts, and refused with the command that converts them."""

import gzip
import lzma
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import refusal_of, texts_of
from helpers.corpus_files import of_format, put, put_parquet

SCRIPTS = {
    "latin": ["A plain sentence.", "Another."],
    "one": ["ab"],
    "cyrillic": ["привет мир"],
    "greek": ["καλημέρα κόσμε"],
    "arabic": ["صباح الخير"],
    "chinese": ["今天天气很好，我们去公园散步吧"] * 20,
}

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


def test_utf16_is_recognised(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes("a text\n".encode("utf-16"))
    assert "iconv -f utf-16" in refusal_of(path)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("c.txt", [b"fine", b"caf\xe9"]),
        ("c.csv", [b"id,text", b"1,caf\xe9"]),
        ("c.tsv", [b"id\ttext", b"1\tcaf\xe9"]),
        ("c.jsonl", [b'{"text": "fine"}', b'{"text": "caf\xe9"}']),
    ],
)
def test_bytes_that_are_not_utf8_are_refused_with_file_and_line(tmp_path, name, lines):
    path = put(tmp_path / name, b"\n".join(lines) + b"\n")
    message = refusal_of(path)
    assert f"{path} line 2" in message and "0xe9" in message and "iconv" in message


def test_a_header_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    path = put(tmp_path / "c.csv", b"\n\nid,te\xffxt\n")
    assert f"{path} line 3: expected UTF-8, found byte 0xff at position 6 of line 3" in refusal_of(path)


def test_a_lone_surrogate_is_refused_with_file_and_line(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": "fine"}\n{"text": "half \\ud83d"}\n')
    message = refusal_of(path)
    assert f"{path} line 2" in message and "surrogate" in message


def test_a_parquet_text_that_is_not_utf8_is_refused_with_its_path(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"caf\xe9")])
    path = put_parquet(tmp_path / "c.parquet", text=broken)
    assert str(path) in refusal_of(path)


@pytest.mark.parametrize("squeezed", ["", ".gz"])
@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be", "utf-32le", "utf-32be", "utf-16", "utf-32"])
def test_wide_encodings_are_refused_with_the_command_that_converts_them(tmp_path, encoding, ending, squeezed):
    for texts in SCRIPTS.values():
        content = of_format(ending, texts).encode(encoding)
        path = put(tmp_path / f"c.{ending}{squeezed}", gzip.compress(content) if squeezed else content)
        for on_bad_row in ("keep_nulls", "keep_all"):
            message = refusal_of(path, on_bad_row=on_bad_row)
            assert f"{path} line 1: expected UTF-8, found {encoding.upper()[:6]}. Convert the file first: " in message
            command = f"iconv -f {encoding} -t utf-8"
            made = tmp_path / f"utf8-c.{ending}"
            assert message.endswith(
                f"gzip -dc {path} | {command} > {made}" if squeezed else f"{command} {path} > {made}"
            )


@pytest.mark.parametrize(
    "line", ["a\0b", "\0", "a\0", "\0\0\0\0", "\x01a", "one\0two\0three\0four", "é" * 50 + "\0", "今天\0天气"]
)
def test_a_text_with_nul_characters_is_still_a_text(tmp_path, line):
    assert texts_of(put(tmp_path / "c.txt", f"{line}\nA plain sentence.\n")) == [line, "A plain sentence."]
    for fill in (1, 7, 3000):
        lines = ["A plain sentence."] * fill + [line] * 20 + ["Another sentence."] * 100
        assert texts_of(put(tmp_path / "c.txt", "".join(f"{text}\n" for text in lines))) == lines


def test_bytes_of_a_compressed_file_are_converted_behind_its_compression(tmp_path):
    path = put(tmp_path / "c.txt.xz", lzma.compress(b"caf\xe9\n"))
    assert refusal_of(path).endswith(
        f"keeps such rows, with a null embedding. Or: Convert the file first: xz -dc {path} | iconv -f latin1 -t utf-8 > {tmp_path}/utf8-c.txt"
    )


@pytest.mark.parametrize("ending", LAID_OUT)
@pytest.mark.parametrize("script", WORDS)
@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be", "utf-32le", "utf-32be"])
def test_wide_encodings_of_every_script_are_told_without_a_mark(tmp_path, encoding, script, ending):
    for count in (1, 2, 50, 20000):
        content = LAID_OUT[ending](WORDS[script], count)
        message = refusal_of(put(tmp_path / f"c.{ending}", content.encode(encoding)))
        assert message.endswith(f"iconv -f {encoding} -t utf-8 {tmp_path}/c.{ending} > {tmp_path}/utf8-c.{ending}")


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
        message = refusal_of(put(tmp_path / name, content))
        assert "0xe9" in message and "-f latin1" not in message and "iconv -f <encoding>" in message


def test_no_command_is_given_for_broken_strings_of_a_parquet_file(tmp_path):
    raw = pa.array([b"caf\xe9"]).cast(pa.binary())
    broken = pa.StringArray.from_buffers(1, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"text": broken}), tmp_path / "c.parquet")
    message = refusal_of(tmp_path / "c.parquet")
    assert "0xe9" in message and "iconv" not in message


@pytest.mark.parametrize("content", ["al\0\n", "r\0 r\n", "é\0l\n", "🎉\n\0"])
def test_a_very_short_text_with_one_nul_is_a_text(tmp_path, content):
    assert texts_of(put(tmp_path / "c.txt", content)) == content.removesuffix("\n").split("\n")


def test_the_command_that_converts_a_file_can_be_typed_as_it_stands(tmp_path):
    (tmp_path / "a folder").mkdir()
    message = refusal_of(put(tmp_path / "a folder" / "it's.csv", b"text,n\ncaf\xe9,1\n"))
    subprocess.run(message.partition("Convert the file first: ")[2], shell=True, check=True, cwd="/")
    assert texts_of(tmp_path / "a folder" / "utf8-it's.csv") == ["café"]
