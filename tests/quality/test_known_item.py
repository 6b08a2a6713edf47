"""Suites made of a corpus: each text is found again by its title, or by its first half."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.errors import refusal
from helpers.suites import spec

from steps.common.corpus.conf import CorpusConf, OnBadRow, Quoting
from steps.common.launch.paths import find_suites
from steps.common.quality import kinds
from steps.common.quality.known_item import KnownItem, halve

ROWS = [(f"headline {i}", f"the first half of text {i} and the second half of text {i}") for i in range(40)]


def read(path, text_column="text", **given) -> KnownItem:
    corpus = CorpusConf(str(path), "auto", text_column, None, None, Quoting.csv, OnBadRow.keep_nulls)
    (suite,) = kinds.read_suites(find_suites([spec(kind="known_item", name="own", corpus=corpus, **given)]))
    return suite


def put_corpus(path, rows=ROWS):
    titles, texts = [list(column) for column in zip(*rows)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"title": titles, "text": texts}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"title": a, "text": b}) + "\n" for a, b in rows))
    else:
        path.write_text("title,text\n" + "".join(f"{a},{b or ''}\n" for a, b in rows))
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_titles_find_texts_and_first_halves_second_ones_whatever_the_format(tmp_path, ending):
    path = put_corpus(tmp_path / f"corpus{ending}")
    titled = read(path, title="title")
    assert (titled.name, titled.metric, len(titled)) == ("own", "ndcg_at_10", 40)
    assert (titled.queries[3], titled.documents["03"], titled.relevant[3]) == (*ROWS[3], {"03"})
    halved = read(path)
    assert halved.queries[3] == "the first half of text 3 and"
    assert halved.documents["03"] == "the second half of text 3"


def test_a_text_is_cut_at_the_white_space_nearest_to_its_middle():
    assert halve("aaaa bbbb cccccccc dddd eeee ffffff") == ("aaaa bbbb cccccccc", "dddd eeee ffffff")
    # A language that is written without white space.
    assert halve("あ" * 30) == ("あ" * 15, "あ" * 15)


def test_a_seed_draws_the_same_rows_each_time_and_another_seed_others(tmp_path):
    path = put_corpus(tmp_path / "corpus.jsonl")
    first, again, other = (read(path, rows=25, seed=seed) for seed in (1, 1, 2))
    assert (len(first), first.digest) == (25, again.digest)
    assert first.digest != other.digest and len(set(first.queries)) == 25


def test_the_same_rows_are_drawn_where_a_title_is_its_text(tmp_path):
    same = read(put_corpus(tmp_path / "same.jsonl", [(b, b) for _, b in ROWS]), rows=25, title="title")
    other = read(put_corpus(tmp_path / "other.jsonl"), rows=25, title="title")
    assert list(same.documents.values()) == list(other.documents.values())


def test_texts_that_repeat_are_short_or_null_are_left_out(tmp_path):
    odd = [("a", None), ("b", "short"), ("c", ROWS[0][1]), ("", "a text without a title, which has two halves")]
    path = put_corpus(tmp_path / "corpus.parquet", [*ROWS, *odd])
    assert len(read(path)) == 41
    assert len(read(path, title="title")) == 40


@pytest.mark.parametrize(
    ("rows", "given", "expected"),
    [
        (ROWS[:5], {}, "has 5 rows, of which 5 have a text that can be halved"),
        ([(a, None) for a, _ in ROWS], {}, "has 40 rows, of which 0 have a text that can be halved"),
        ([(a, "short") for a, _ in ROWS], {}, "of which 0 have a text that can be halved (24 characters) of their own"),
        ([(None, b) for _, b in ROWS], {"title": "title"}, "of which 0 have a title and a text"),
        (ROWS, {"title": "headline"}, "has no column 'headline'; its columns are 'title', 'text'. Name the right one"),
        (ROWS, {"text_column": "body"}, "has no column 'body'; its columns are 'title', 'text'"),
    ],
)
def test_a_corpus_that_makes_no_suite_is_one_line(tmp_path, rows, given, expected):
    path = put_corpus(tmp_path / "corpus.parquet", rows)
    message = refusal(read, path, **given)
    assert expected in message and str(path) in message
