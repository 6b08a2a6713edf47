"""What a step shows when it is done, and what it writes as JSON."""

import json

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
