"""A filter on kept columns: which rows of an index are searched."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steps.common.errors import UserError, clip, first_line

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}

EXAMPLE = '{"lang": "en", "year": {">=": 2020}, "topic": ["news", "sport"]}'


def choose_rows(rows: pa.Table, given: str | None) -> np.ndarray | None:
    """The numbers of the rows that a filter lets through, int64 in order; None without a filter.

    A filter is a JSON object: each key names a column, and each value is what the column has to be (null: no value), a list of
    such values, or an object of comparisons. A row has to meet all of it. A null meets no comparison but null.

    Raises:
        UserError: no JSON object, an unknown column or comparison, or a value that cannot be compared with the column.
    """
    if not given:
        return None
    mask = np.ones(rows.num_rows, bool)
    for name, condition in read_filter(given).items():
        if name not in rows.column_names or name == "text":
            known = ", ".join(one for one in rows.column_names if one != "text")
            raise UserError(
                f"filter: the index has no column {name!r}; it has {known}. Encode with corpus.keep_columns=[{name}] to keep it, and index that output."
            )
        mask &= _meets(rows.column(name), condition, name)
    return np.flatnonzero(mask)


def read_filter(given: str) -> dict[str, Any]:
    """The conditions of a filter, by column; raises UserError for one that is not a JSON object."""
    try:
        content = json.loads(given)
    except RecursionError:
        raise UserError(f"filter={clip(given)} is nested too deeply; expected something like {EXAMPLE}.") from None
    except ValueError as error:
        raise UserError(
            f"filter={clip(given)} is not JSON ({first_line(error)}); expected something like {EXAMPLE}."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"filter={clip(given)} is not a JSON object; expected something like {EXAMPLE}.")
    return content


def _meets(column: pa.ChunkedArray, condition: Any, name: str) -> np.ndarray:
    """Which values of a column meet a condition: bool [rows]."""
    comparisons = condition if isinstance(condition, dict) else {"=": condition}
    unknown = [one for one in comparisons if one not in OPERATORS]
    if unknown or not comparisons:
        raise UserError(
            f"filter: {name!r} has {clip(json.dumps(condition))}; expected a value, a list of values, or comparisons with {', '.join(OPERATORS)}."
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_float16(column.type):
        # Arrow does not compare these.
        column = column.cast(pa.float32())
    met = np.ones(len(column), bool)
    for operator, value in comparisons.items():
        met &= pc.fill_null(_compare(column, operator, value, name), False).to_numpy(zero_copy_only=False)
    return met


def _compare(column: pa.ChunkedArray, operator: str, value: Any, name: str) -> pa.ChunkedArray:
    if value is None and operator in ("=", "!="):
        return pc.is_null(column) if operator == "=" else pc.is_valid(column)
    is_list = isinstance(value, list) and operator == "="
    try:
        column, values = _in_one_type(column, value if is_list else [value])
        return pc.is_in(column, value_set=values) if is_list else OPERATORS[operator](column, values[0])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"filter: {name!r} holds {column.type}, which cannot be compared with {clip(json.dumps(value))} ({first_line(error)})."
        ) from None


def _in_one_type(column: pa.ChunkedArray, values: list[Any]) -> tuple[pa.ChunkedArray, pa.Array]:
    """A column and values of JSON in one type: numbers with numbers, true and false with such, texts with texts, dates and timestamps."""
    kind = column.type
    if _is_number(kind) and all(type(one) in (int, float, type(None)) for one in values):
        return _as_numbers(column, values)
    given = pa.array(values)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_temporal(kind)
    if given.type in (kind, pa.null()) or (pa.types.is_string(given.type) and is_text):
        return column, given.cast(kind)
    raise TypeError(f"{given.type} is of another kind")


def _as_numbers(column: pa.ChunkedArray, values: list[Any]) -> tuple[pa.ChunkedArray, pa.Array]:
    """A column and values as its type, which compares large ones exactly; as doubles where that does not hold the values."""
    kind, doubles = column.type, pa.array([None if one is None else float(one) for one in values], pa.float64())
    try:
        if pa.types.is_decimal(kind):
            return column, pa.array([None if one is None else Decimal(repr(one)) for one in values], kind)
        if float in map(type, values):
            return column, doubles.cast(kind)
        return column, pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError):
        # 2.5 among whole numbers, or a number beyond the type.
        return column.cast(pa.float64(), safe=False), doubles


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
