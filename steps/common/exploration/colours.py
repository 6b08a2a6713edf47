"""Kept columns -> what colours the points of a map: a few labels, and the label of each point."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steps.common.errors import UserError, clip
from steps.common.search.index import OWN

# Labels that colours can be told apart for.
LABELS = 8

# Ranges that numbers and dates are put into.
RANGES = 6

OTHER, NONE = "other", "none"


@dataclass(frozen=True)
class Colouring:
    """A column, as colours."""

    name: str
    # Whether the labels are steps of a scale.
    ordered: bool
    labels: list[str]
    # The first label that is no value, OTHER or NONE; len(labels) without one.
    grey: int
    # A label for each point.
    codes: list[int]


def kept_columns(rows: pa.Table) -> list[str]:
    return [name for name in rows.column_names if name not in OWN]


def colour(rows: pa.Table, first: str | None) -> list[Colouring]:
    """The columns that can colour, `first` before the others.

    Raises:
        UserError: `first` is no kept column, or one that cannot colour.
    """
    kept = kept_columns(rows)
    if first is not None and first not in kept:
        has = f"no kept column {first!r}, only {', '.join(kept)}" if kept else "no kept columns"
        raise UserError(f"map.colour={first}: this output has {has}. Encode with corpus.keep_columns=[{first}].")
    found = [one for name in kept if (one := _colour(name, rows.column(name))) is not None]
    if first is not None and first not in [one.name for one in found]:
        raise UserError(
            f"map.colour={first}: the column holds {rows.column(first).type}; expected texts, numbers or dates."
        )
    return sorted(found, key=lambda one: one.name != first)


def _colour(name: str, column: pa.ChunkedArray) -> Colouring | None:
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
        return _as_categories(name, values)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _as_scale(name, values, values.cast(pa.float64(), safe=False))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _as_scale(name, values, values.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64(), safe=False))
    return None


def _as_categories(name: str, values: pa.Array) -> Colouring:
    """The most frequent values, then those that are left."""
    counts = values.drop_null().value_counts()
    order = np.argsort(-counts.field("counts").to_numpy(), kind="stable")
    common = counts.field("values").take(pa.array(order[:LABELS]))
    places = pc.index_in(values, common)
    codes = places.fill_null(len(common)).to_numpy(zero_copy_only=False).copy()
    labels, others = [_show(value) for value in common.to_pylist()], len(order) - len(common)
    other = f"{OTHER} ({others:,} values)" if others else None
    return _close(name, labels, codes, np.asarray(pc.is_null(values)), ordered=False, other=other)


def _as_scale(name: str, values: pa.Array, numbers: pa.Array) -> Colouring:
    """Values in their order, or ranges of them that hold about as many each."""
    found = numbers.fill_null(np.nan).to_numpy(zero_copy_only=False)
    valid = np.isfinite(found)
    distinct = np.unique(found[valid])
    if len(distinct) <= LABELS:
        edges = distinct
    else:
        edges = np.unique(np.sort(found[valid])[np.arange(RANGES) * valid.sum() // RANGES])
    codes = np.maximum(np.searchsorted(edges, found, side="right") - 1, 0)
    labels = []
    for code in range(len(edges)):
        within = np.flatnonzero(valid & (codes == code))
        low, high = within[np.argmin(found[within])], within[np.argmax(found[within])]
        ends = [_show(values[int(row)].as_py()) for row in (low, high)]
        labels.append(" to ".join(dict.fromkeys(ends)))
    codes[~valid] = len(labels)
    return _close(name, labels, codes, ~valid, ordered=True, other=None)


def _close(
    name: str, labels: list[str], codes: np.ndarray, missing: np.ndarray, *, ordered: bool, other: str | None
) -> Colouring:
    """Add the labels of what has no colour of its own."""
    grey = len(labels)
    labels = labels + ([other] if other else [])
    if missing.any():
        codes[missing] = len(labels)
        labels = [*labels, NONE]
    return Colouring(name, ordered, labels, grey, codes.tolist())


def _show(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else clip(value, 60) or '""'
