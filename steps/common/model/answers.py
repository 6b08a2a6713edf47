"""Answers of a served model: a row for each hit, with the columns of the index, in values that JSON can hold.

MLflow runs this beside the code of such a model (shipped.py).
"""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from steps.common.errors import UserError
from steps.common.search.index import OWN

# Columns of an answer beside those of the index: the query they answer, and whether the model read less than all of it.
QUERY, RANK, SCORE, TRUNCATED = "query", "rank", "score", "query_truncated"

# Arrow's types as mlflow names them; other columns are of any type.
TYPES = (
    (pa.types.is_string, "string"),
    (pa.types.is_int64, "long"),
    (pa.types.is_integer, "integer"),
    (pa.types.is_float32, "float"),
    (pa.types.is_float64, "double"),
    (pa.types.is_decimal, "double"),
    (pa.types.is_duration, "long"),
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_temporal, "datetime"),
)


def check_queries(queries: list[str]) -> None:
    """Raises UserError for a query that is empty or no text."""
    for number, query in enumerate(queries, start=1):
        if not isinstance(query, str) or not query.strip():
            what = "empty" if isinstance(query, str) else repr(query)
            raise UserError(f"query {number} of {len(queries)} is {what}; expected a text.")


def make_answer(
    queries: list[str], truncated: np.ndarray, of_query: np.ndarray, rows: pa.Table, scores: np.ndarray
) -> pa.Table:
    """A row for each hit: query, rank (from 1), id, chunk and text where the index has them, score, the kept columns, and
    query_truncated.

    Args:
        truncated: of each query, bool. of_query: the number of the query of each hit; those of a query together, best first.
        rows: those of the index.
    """
    begins = np.searchsorted(of_query, np.arange(len(queries)))
    columns = {
        QUERY: pa.array(queries, pa.string()).take(pa.array(of_query)),
        RANK: pa.array(np.arange(len(of_query)) - begins[of_query] + 1),
        SCORE: pa.array(scores.astype(np.float64)),
        TRUNCATED: pa.array(truncated[of_query]),
    }
    columns |= {named: rows.column(name) for name, named in rename(rows.column_names).items()}
    return pa.table(columns).select(arrange(rows.column_names))


def rename(columns: list[str], own: Collection[str] = (QUERY, RANK, SCORE, TRUNCATED)) -> dict[str, str]:
    """The names of an index's columns in an answer, or another table that has columns of its own."""
    names = {name: name for name in columns if name not in own}
    for name in columns:
        if name in own:
            free = f"{name}_"
            while free in names.values():
                free += "_"
            names[name] = free
    return names


def arrange(columns: list[str]) -> list[str]:
    """The columns of an answer, in order, from those of an index."""
    first, names = [name for name in OWN if name in columns], rename(columns)
    kept = [names[name] for name in columns if name not in first]
    return [QUERY, RANK, *first, SCORE, *kept, TRUNCATED]


def make_signature(rows: pa.Schema, params: list[ParamSpec]) -> ModelSignature:
    """A column of queries in, hits with the columns of an index out."""
    own = {QUERY: "string", RANK: "long", SCORE: "double", TRUNCATED: "boolean"}
    columns = {name: ColSpec(kind, name) for name, kind in own.items()}
    columns |= {named: _column(rows.field(name), named) for name, named in rename(rows.names).items()}
    outputs = Schema([columns[name] for name in arrange(rows.names)])
    return ModelSignature(Schema([ColSpec("string", QUERY)]), outputs, ParamSchema(params))


def _column(field: pa.Field, name: str) -> ColSpec:
    kind = next((name for matches, name in TYPES if matches(field.type)), None)
    return ColSpec(kind or AnyType(), name, required=False)


def servable(answer: pa.Table) -> pd.DataFrame:
    """An answer as JSON can hold it: None for nulls and, at any depth, for what is no number; doubles for decimals, whole
    numbers for durations."""
    plain = answer.cast(pa.schema([field.with_type(_plain(field.type)) for field in answer.schema]))
    frame = plain.to_pandas(integer_object_nulls=True)
    for field in plain.schema:
        if pa.types.is_nested(field.type):
            # As Python's values: a list of pandas is an array, in which a null number is NaN.
            values = map(_finite, plain.column(field.name).to_pylist())
            frame[field.name] = pd.Series(list(values), frame.index, object)
    return frame.apply(_without_gaps) if len(frame) else frame


def _without_gaps(column: pd.Series) -> pd.Series:
    is_gap = column.isna() | (~np.isfinite(column) if column.dtype.kind == "f" else False)
    return column.astype(object).where(~is_gap, None) if is_gap.any() else column


def _finite(value: Any) -> Any:
    """A value with None for each number in it that is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    # An entry of a map is a tuple.
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of values of a type in a served answer."""
    if pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_duration(kind):
        return pa.int64()
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind
