"""What a step shows when it is done, and what it writes as JSON."""

import json
import sys

import pytest

from steps.common.launch import summary


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_numbers_that_json_does_not_have_are_null():
    value = {"a": [1.5, float("nan"), {"b": float("inf")}], "c": (float("-inf"), "NaN", None, True, 3)}
    assert summary.as_json(value) == {"a": [1.5, None, {"b": None}], "c": [None, "NaN", None, True, 3]}


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
def test_the_json_line_of_a_step_is_json(capsys, value):
    summary.show("step", {"value": value})
    line = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(line, parse_constant=refuse)["value"] in (None, [None])


@pytest.mark.parametrize("columns, lines, terminal", [("60", 5, True), ("500", 1, True), ("60", 1, False)])
def test_a_table_is_folded_to_the_width_of_the_terminal(capsys, monkeypatch, columns, lines, terminal):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    summary.show_table(["", "check", "value"], [["FAIL", "tokenizer_sha256", "a" * 64], ["FAIL", "b", "c d " * 20]])
    _, first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(" FAIL  tokenizer_sha256  aaa")
    if lines == 5:
        assert max(map(len, [first, *others])) <= 60 and len(others) == lines - 1
    else:
        assert "a" * 64 in first and len(others) == 1


@pytest.mark.parametrize(
    "widths, width, expected", [([4, 8, 5], 80, 8), ([4, 40, 40], 46, 18), ([4, 10, 60], 60, 40), ([9, 9], 3, 1)]
)
def test_columns_that_are_narrow_keep_their_width(widths, width, expected):
    assert summary.widest_column(widths, width) == expected


def test_what_was_read_under_another_name_is_in_the_json_line_only(capsys):
    summary.show("step", {"checks": 3, "checks/total": 3}, in_json=["checks/total"])
    out = capsys.readouterr().out
    assert out.count("checks/total") == 1 and json.loads(out.splitlines()[-1])["checks/total"] == 3
