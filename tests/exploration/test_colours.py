"""Kept columns as colours: few labels, and one for every point."""

import datetime

import pyarrow as pa
import pytest

from steps.common.errors import UserError
from steps.common.exploration.colours import colour


def only(**columns):
    (found,) = colour(pa.table({"id": range(len(next(iter(columns.values())))), **columns}), None)
    return found, [found.labels[code] for code in found.codes]


def test_the_most_frequent_values_have_a_colour_and_the_others_share_one():
    values = ["a"] * 3 + ["b"] * 4 + [None] + [f"rare {i}" for i in range(9)]
    found, labels = only(topic=values)
    assert found.labels == ["b", "a", *(f"rare {i}" for i in range(6)), "other (3 values)", "none"]
    assert (found.ordered, found.grey) == (False, 8)
    assert labels == ["a"] * 3 + ["b"] * 4 + ["none"] + [f"rare {i}" for i in range(6)] + ["other (3 values)"] * 3
    assert only(flag=[True, None, True, False])[1] == ["True", "none", "True", "False"]


def test_numbers_and_dates_become_a_scale():
    found, labels = only(year=pa.array([2021, 2019, None, 2021]))
    assert (found.ordered, found.grey, found.labels) == (True, 2, ["2019", "2021", "none"])
    assert labels == ["2021", "2019", "none", "2021"]
    found, labels = only(price=pa.array([float("nan"), float("inf"), *map(float, range(60))]))
    assert found.labels == ["0 to 9", "10 to 19", "20 to 29", "30 to 39", "40 to 49", "50 to 59", "none"]
    assert labels[:3] == ["none", "none", "0 to 9"] and labels[-1] == "50 to 59"
    days = [datetime.date(2026, 1, 1) + datetime.timedelta(days=i) for i in range(12)]
    assert only(day=days)[0].labels[0] == "2026-01-01 to 2026-01-02"
    # A scale of one value, and of none.
    assert only(n=[7, 7])[0].labels == ["7"]
    assert only(n=pa.array([None, None], pa.int64()))[0].labels == ["none"]
    assert only(n=pa.array(["x", "y", "x"]).dictionary_encode())[1] == ["x", "y", "x"]


def test_a_column_is_first_by_its_name_and_refused_where_it_was_not_kept():
    rows = pa.table({"id": [1, 2], "text": ["a", "b"], "lang": ["en", "de"], "year": [1, 2], "tags": [["x"], []]})
    assert [one.name for one in colour(rows, None)] == ["lang", "year"]
    assert [one.name for one in colour(rows, "year")] == ["year", "lang"]
    for name, reason in (
        (
            "topic",
            r"map.colour=topic: this output has no kept column 'topic', only lang, year, tags\. Encode with corpus.keep_columns=\[topic\]\.",
        ),
        ("text", "this output has no kept column 'text'"),
        ("tags", "the column holds list<.*>; expected texts, numbers or dates"),
    ):
        with pytest.raises(UserError, match=reason):
            colour(rows, name)
    with pytest.raises(
        UserError,
        match=r"map.colour=lang: this output has no kept columns\. Encode with corpus.keep_columns=\[lang\]\.",
    ):
        colour(rows.select(["id"]), "lang")
