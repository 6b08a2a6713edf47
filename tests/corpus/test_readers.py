"""A format is one module: a test brings two of its own, and the rest of the project knows them."""

import gzip
from collections.abc import Iterator

import pytest
from helpers.corpora import open_corpus, table_of

from steps.common.corpus import readers
from steps.common.corpus.readers.csv import DelimitedFormat
from steps.common.corpus.readers.format import Request
from steps.common.corpus.readers.lines import LineFormat, Lines, Record
from steps.common.errors import UserError


class Notes(LineFormat):
    """Lines such as `title: text`, of which the values are columns of those names."""

    name, endings = "notes", (".note",)

    def read_records(self, lines: Lines, request: Request, header: None) -> Iterator[Record]:
        for number, line, reason in lines:
            title, colon, text = line.rstrip("\n").partition(": ")
            values = {"title": title, "text": text if colon else None}
            yield number, [values.get(column.name) for column in request.columns], reason


@pytest.fixture(autouse=True)
def toy_formats(monkeypatch):
    monkeypatch.setattr(readers, "_formats", dict(readers._formats))
    readers.register(DelimitedFormat("piped", (".piped",), "|"))
    readers.register(Notes())


def rows_of(path, size=2, **options) -> list[dict]:
    return table_of(path, size, **options).to_pylist()


def test_a_format_with_a_delimiter_of_its_own_is_one_line(tmp_path):
    (tmp_path / "a.piped").write_text('id|text\n7|"one | two"\n9|three\n')
    rows = rows_of(tmp_path, id_column="id")
    assert [(row["id"], row["text"], row["__line__"]) for row in rows] == [(7, "one | two", 2), (9, "three", 3)]


def test_a_format_of_lines_is_a_class_that_makes_records_of_them(tmp_path):
    (tmp_path / "a.note").write_text("cat: a small cat\nno colon\ndog: Grüße\n")
    rows = rows_of(tmp_path, keep_columns=["title"])
    assert [(row["title"], row["text"]) for row in rows] == [
        ("cat", "a small cat"),
        ("no colon", None),
        ("dog", "Grüße"),
    ]


def test_a_new_format_can_be_named_compressed_and_read_from_the_middle(tmp_path):
    text = "".join(f"n{i}: text {i}\n" for i in range(100))
    (tmp_path / "a.gz").write_bytes(gzip.compress(text.encode()))
    corpus = open_corpus(tmp_path / "a.gz", format="notes")
    assert [batch["text"].to_pylist() for batch in corpus.batches(10, 98)] == [["text 98", "text 99"]]


def test_a_new_format_is_among_the_names_and_in_the_messages(tmp_path):
    assert {"piped", "notes"} < set(readers.names())
    (tmp_path / "a.odd").write_text("x\n")
    with pytest.raises(UserError, match=r"\.piped.*\.note.*corpus\.format=<one of .*piped, notes>"):
        open_corpus(tmp_path / "a.odd")
    with pytest.raises(UserError, match="corpus.format=odd is not known; expected one of auto, .*piped, notes"):
        open_corpus(tmp_path / "a.odd", format="odd")


@pytest.mark.parametrize("name, ending", [("csv", ".new"), ("new", ".csv"), ("auto", ".new")])
def test_a_name_or_an_ending_that_is_taken_is_refused(name, ending):
    with pytest.raises(ValueError, match="another format has"):
        readers.register(DelimitedFormat(name, (ending,), ";"))
