"""Compressed files: several streams in one, damage, and files that break off."""

import gzip

import pyarrow as pa
import pytest
from helpers.corpora import refusal_of, texts_of
from helpers.corpus_files import COMPRESS, put, write_stream

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
        message = refusal_of(put(tmp_path / f"c.txt{ending}", content[:cut]))
        assert f"c.txt{ending} is damaged" in message


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_damage_behind_the_first_stream_is_not_taken_for_the_end(tmp_path, ending):
    content = COMPRESS[ending](LINES)
    assert "is damaged" in refusal_of(put(tmp_path / f"c.txt{ending}", content + b"garbage"))
    assert "is damaged" in refusal_of(put(tmp_path / f"c.txt{ending}", content + b"\x55" + content[1:]))


def test_a_compressed_file_without_its_ending_is_recognised(tmp_path):
    assert "Give it a name that says so: c.txt.gz" in refusal_of(put(tmp_path / "c.txt", gzip.compress(b"a\n")))


def test_an_arrow_stream_cut_short_or_doubled_is_refused(tmp_path):
    write_stream(tmp_path / "c.arrows", pa.table({"text": [f"text {i}" for i in range(9)]}))
    content = (tmp_path / "c.arrows").read_bytes()
    assert "breaks off before its end" in refusal_of(put(tmp_path / "c.arrows", content[:-8]))
    assert "more than one Arrow stream" in refusal_of(put(tmp_path / "c.arrows", content * 2))
