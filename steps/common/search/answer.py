"""Answers of a served model: tables that JSON can hold."""

import numpy as np
import pandas as pd
import pyarrow as pa


def servable(answer: pa.Table) -> pd.DataFrame:
    """An answer as JSON can hold it: None for nulls and for what is no number, doubles for decimals, whole numbers for durations."""
    plain = answer.cast(pa.schema([field.with_type(_plain(field.type)) for field in answer.schema]))
    frame = plain.to_pandas(integer_object_nulls=True)
    return frame.apply(_without_gaps) if len(frame) else frame


def _without_gaps(column: pd.Series) -> pd.Series:
    is_gap = column.isna() | (~np.isfinite(column) if column.dtype.kind == "f" else False)
    return column.astype(object).where(~is_gap, None) if is_gap.any() else column


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of values of a type in a served answer."""
    if pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind
