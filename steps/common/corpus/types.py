"""The one type of a column whose values come from several files."""

import contextlib
import functools
import io
import itertools
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from steps.common.corpus.rows import Column, Kind
from steps.common.errors import UserError, clip, first_line
from steps.common.storage.place import Place

# A number that is written as itself: no leading zero, no plus sign, few enough digits for int64 whatever they are.
CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")

# Integers up to here are kept exactly by a double.
EXACT_INTEGER = 2**53

# Bits of an integer that each float keeps exactly.
MANTISSA = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}

# Types that Arrow's own rules do not bring together with others of their kind.
PLAIN = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}

# The type of a whole column


def id_type_of_strings(values: pa.Array) -> pa.DataType:
    """int64 when every id is a number written as itself, so that '007' stays '007'."""
    known = values.drop_null().to_pylist()
    return pa.int64() if all(CANONICAL_INTEGER.fullmatch(value) for value in known) else pa.string()


def common_type(found: list[tuple[pa.DataType, Place]], kind: Kind, column: Column) -> pa.DataType:
    """The one type that holds all values of a column exactly. Ids in cells that are not all numbers are strings.

    `found`: types of its values, each with a file that has it. Raises UserError where there is no such type, or Parquet
    cannot hold it.
    """
    known: dict[pa.DataType, Place] = {}
    for one, place in found:
        if not types.is_null(one):
            known.setdefault(one, place)
    if len(known) > 1 and kind is Kind.cells:
        return pa.string()
    _check_mergeable(known, kind, column)
    # Also the nulls of files that give them no type: the common type has to hold them.
    common = functools.reduce(merge, dict.fromkeys(one for one, _ in found) or [pa.null()])
    if types.is_null(common):
        return pa.string()
    key = "corpus.id_column" if column.kind == "id" else "corpus.keep_columns"
    if _is_empty_struct(common):
        raise UserError(
            f"column {column.name!r} of {found[0][1]} holds only empty objects, which Parquet cannot store. Leave it out of {key}."
        )
    for one in dict.fromkeys([*known, common]):
        reason = None if _is_empty_struct(one) else why_not_parquet(one)
        if reason is not None:
            raise UserError(
                f"column {column.name!r} is {clip(one, 300)} in {known.get(one, found[0][1])}, which Parquet cannot hold ({reason}). Write it as another type, or leave it out of {key}."
            )
    return stored(common)


def _check_mergeable(known: dict[pa.DataType, Place], kind: Kind, column: Column) -> None:
    """Raises UserError for two types that share none. All pairs, so that the order of the files decides nothing."""
    is_id = column.kind == "id"
    for (a, first), (b, second) in itertools.combinations(known.items(), 2):
        if merge(a, b) is not None and not (is_id and _family(a) != _family(b)):
            continue
        one, other = (clip(to_json(one) if kind is Kind.objects else one, 300) for one in (a, b))
        where = f"{one} in {first} and {other} in {second}" if first != second else f"{one} and {other} in {first}"
        key = "corpus.id_column" if is_id else "corpus.keep_columns"
        raise UserError(
            f"column {column.name!r} is {where}: several types, and no common one keeps every {'id unchanged' if is_id else 'value exact'}. Write the column as one type, or as strings, or leave it out of {key}."
        )


def cast(values: pa.Array, kind: pa.DataType, place: Place) -> pa.Array:
    """Values of a file as the column's type in the whole corpus; raises UserError for a value that it cannot hold."""
    if values.type == kind:
        return values
    if types.is_null(values.type):
        return pa.nulls(len(values), kind)
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{place} holds a value that does not fit {kind}, the common type of its column: {first_line(error)}. Write the files with one type."
        ) from None


def _is_empty_struct(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        return not kind.num_fields or any(_is_empty_struct(field.type) for field in kind)
    return types.is_nested(kind) and any(_is_empty_struct(kind.field(i).type) for i in range(kind.num_fields))


def _family(kind: pa.DataType) -> str:
    """What kind of thing an id is: 1 and 1.0 are two, whatever type both could be written in."""
    families = {"integer": types.is_integer, "float": types.is_floating, "decimal": types.is_decimal}
    return next((name for name, belongs in families.items() if belongs(kind)), "other")


# The type that holds the values of two


def merge(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds every value of both exactly; None where there is none.

    A time may be too far away for the finer unit of the other: that only its value can tell. A key that one of two
    structs lacks is null there, as is a value beside nothing but nulls.
    """
    if a == b:
        return a
    if types.is_null(a) or types.is_null(b):
        return with_nulls(a if types.is_null(b) else b)
    if types.is_dictionary(a) or types.is_dictionary(b):
        return merge(*(kind.value_type if types.is_dictionary(kind) else kind for kind in (a, b)))
    families = (_numbers, _decimals, _likes, _structs, _maps, _lists)
    return next((found for found in (family(a, b) for family in families) if found is not None), None)


def with_nulls(kind: pa.DataType) -> pa.DataType:
    """The type for values that may be null: with plain lists for fixed-size ones (see `readable`), also in structs, and
    with nullable fields."""
    if types.is_fixed_size_list(kind) or _is_tensor(kind):
        return pa.list_((kind.storage_type if _is_tensor(kind) else kind).value_field)
    if types.is_struct(kind):
        return pa.struct([_nullable(field) for field in kind])
    return kind


def _nullable(field: pa.Field) -> pa.Field:
    return field.with_type(with_nulls(field.type)).with_nullable(True)


def _unify(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """What Arrow makes of two types, which may hold a value of one inexactly; None where it makes nothing."""
    schemas = [pa.schema([("", PLAIN.get(kind, kind))]) for kind in (a, b)]
    with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    return None


def _digits(kind: pa.DataType) -> int:
    """Bits of an integer without its sign."""
    return kind.bit_width - types.is_signed_integer(kind)


def _numbers(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Integers and floats; None where the type of both has too few bits for the integers."""
    if not all(types.is_integer(kind) or types.is_floating(kind) for kind in (a, b)):
        return None
    common = _unify(a, b)
    bits = MANTISSA.get(common) or _digits(common)
    return common if all(_digits(kind) <= bits for kind in (a, b) if types.is_integer(kind)) else None


def _decimals(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if not (types.is_decimal(a) or types.is_decimal(b)):
        return None
    # Arrow itself counts a digit too few for an integer.
    digits = {kind: len(str(2 ** _digits(kind))) for kind in (a, b) if types.is_integer(kind)}
    decimals = [_decimal(digits[kind]) if kind in digits else kind for kind in (a, b)]
    return _unify(*decimals) if all(map(types.is_decimal, decimals)) else None


def _decimal(digits: int) -> pa.DataType:
    """The smallest decimal for whole numbers of so many digits, 20 at most."""
    make = pa.decimal32 if digits <= 9 else pa.decimal64 if digits <= 18 else pa.decimal128
    return make(digits, 0)


def is_string(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    plain = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return plain or types.is_fixed_size_binary(kind)


def _likes(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Two strings, binaries, dates, times, timestamps of one zone, or durations."""
    kinds = (is_string, _is_binary, types.is_date, types.is_time, types.is_timestamp, types.is_duration)
    return _unify(a, b) if any(is_one(a) and is_one(b) for is_one in kinds) else None


def _field(name: str, a: pa.Field, b: pa.Field) -> pa.Field | None:
    kind = merge(a.type, b.type)
    return None if kind is None else pa.field(name, kind, a.nullable or b.nullable)


def _structs(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if not (types.is_struct(a) and types.is_struct(b)):
        return None
    sides = [{field.name: field for field in kind} for kind in (a, b)]
    if len(sides[0]) < a.num_fields or len(sides[1]) < b.num_fields:
        return None
    fields = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        held = [side[name] for side in sides if name in side]
        fields.append(_field(name, *held) if len(held) == 2 else _nullable(held[0]))
    return None if any(field is None for field in fields) else pa.struct(fields)


def _maps(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if not (types.is_map(a) and types.is_map(b)):
        return None
    key, item = merge(a.key_type, b.key_type), _field("value", a.item_field, b.item_field)
    return None if key is None or item is None else pa.map_(key, item)


def _is_list(kind: pa.DataType) -> bool:
    known = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(is_one(kind) for is_one in known)


def _is_tensor(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and types.is_fixed_size_list(kind.storage_type)


def _lists(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if _is_tensor(a) != _is_tensor(b):
        # What `readable` made of a tensor that is null somewhere.
        a, b = (kind.storage_type if _is_tensor(kind) else kind for kind in (a, b))
    if not (_is_list(a) and _is_list(b)):
        return None
    item = _field("item", a.value_field, b.value_field)
    if item is None:
        return None
    if types.is_fixed_size_list(a) and types.is_fixed_size_list(b) and a.list_size == b.list_size:
        return pa.list_(item, a.list_size)
    large = any(types.is_large_list(kind) or types.is_large_list_view(kind) for kind in (a, b))
    return pa.large_list(item) if large else pa.list_(item)


# Types that are made of others


def _rebuild(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type with the types in it changed."""

    def changed(field: pa.Field) -> pa.Field:
        return field.with_type(change(field.type))

    if types.is_struct(kind):
        return pa.struct([changed(field) for field in kind])
    if types.is_map(kind):
        return pa.map_(change(kind.key_type), changed(kind.item_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(changed(kind.value_field), kind.list_size)
    if types.is_list(kind):
        return pa.list_(changed(kind.value_field))
    return pa.large_list(changed(kind.value_field)) if types.is_large_list(kind) else kind


def of_json(values: pa.Array) -> pa.DataType:
    """The type of values of JSON, whose integers are int32 here where a double keeps all of them exactly.

    JSON has one kind of number: whether integers and fractions share a column depends on the values, not their type.
    """
    kind = values.type
    if types.is_int64(kind):
        known = values.drop_null().to_numpy()
        small = not len(known) or (known.min() >= -EXACT_INTEGER and known.max() <= EXACT_INTEGER)
        return pa.int32() if small else kind
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, of_json(values.field(i))) for i, field in enumerate(kind)])
    return pa.list_(of_json(values.flatten())) if types.is_list(kind) else kind


def to_json(kind: pa.DataType) -> pa.DataType:
    """The type that values of JSON are written with: `of_json` undone."""
    return pa.int64() if types.is_int32(kind) else _rebuild(kind, to_json)


def readable(values: pa.Array, absent: bool = False) -> pa.DataType:
    """The type of values, with plain lists for fixed-size lists that are null somewhere, or inside something null.

    Arrow before version 26 writes a null fixed-size list to Parquet, but cannot read the file again.
    """
    kind = values.type
    if types.is_fixed_size_list(kind):
        item = kind.value_field.with_type(readable(values.flatten()))
        plain = absent or values.null_count or not kind.list_size
        return pa.list_(item) if plain else pa.list_(item, kind.list_size)
    if types.is_struct(kind):
        absent = absent or bool(values.null_count)
        fields = (field.with_type(readable(values.field(i), absent)) for i, field in enumerate(kind))
        return pa.struct([field.with_nullable(field.nullable or absent) for field in fields])
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(readable(values.flatten())))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(readable(values.flatten())))
    if types.is_map(kind):
        return pa.map_(kind.key_type, kind.item_field.with_type(readable(values.items)))
    if _is_tensor(kind):
        plain = absent or values.null_count
        return pa.list_(kind.storage_type.value_field) if plain else kind
    return kind


def stored(kind: pa.DataType) -> pa.DataType:
    """The type that Parquet gives a type's values: it has no timestamps in seconds, and milliseconds reach less far."""
    if types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    return _rebuild(kind, stored)


def _has_view(kind: pa.DataType) -> bool:
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return True
    return types.is_nested(kind) and any(_has_view(kind.field(i).type) for i in range(kind.num_fields))


def without_views(values: pa.Array) -> pa.Array:
    """The same values, with plain lists for list views, which Arrow before version 26 casts wrongly inside other types.

    Those in the items of a map stay.
    """
    kind = values.type
    if not _has_view(kind):
        return values
    if types.is_struct(kind):
        arrays = [without_views(values.field(i)) for i in range(kind.num_fields)]
        fields = [field.with_type(array.type) for field, array in zip(kind, arrays)]
        return pa.StructArray.from_arrays(arrays, fields=fields, mask=values.is_null())
    if not _is_list(kind):
        return values
    large = types.is_large_list(kind) or types.is_large_list_view(kind)
    sizes = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    ends = pa.array(np.cumsum([0, *sizes]), pa.int64() if large else pa.int32())
    items = without_views(pc.list_flatten(values))
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(ends, items, mask=values.is_null())


def why_not_parquet(kind: pa.DataType) -> str | None:
    """Why a Parquet file cannot hold values of a type and give them back; None where it can."""
    if _has_view(kind):
        return "list views in a map"
    schema, sink = pa.schema([("x", kind)]), io.BytesIO()
    try:
        with pq.ParquetWriter(sink, schema, use_dictionary=False) as writer:
            writer.write_table(pa.table([pa.nulls(0, kind)], schema=schema))
        found = pq.read_table(io.BytesIO(sink.getvalue())).schema.field(0).type
    except (pa.ArrowException, OSError) as error:
        return first_line(error)
    return None if merge(found, kind) is not None else f"it comes back as {found}"
