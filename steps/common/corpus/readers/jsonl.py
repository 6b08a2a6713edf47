"""JSON Lines files."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from steps.common.corpus.readers.format import Request
from steps.common.corpus.readers.lines import (
    LineFormat,
    Lines,
    Record,
    check_encoding,
    check_line_ends,
    is_broken,
    to_convert,
)
from steps.common.corpus.rows import Column, Kind, position
from steps.common.corpus.types import EXACT_INTEGER
from steps.common.errors import UserError
from steps.common.storage.place import Place

# Most levels of lists and objects in a value: a Parquet file of 250 cannot be read back.
DEEPEST = 100

# Most keys of a file's objects that are kept for an error.
SHOWN_KEYS = 50

JSON_NAMES = {dict: "object", list: "list", str: "string", bool: "true or false", int: "integer", float: "fraction"}

JQ = "jq -c '.[]'"


def _parse_object(line: str) -> tuple[dict[str, Any] | None, str | None]:
    try:
        record = json.loads(line)
    except ValueError as error:
        return None, f"expected one JSON object a line; {error}"
    except RecursionError:
        return None, "the JSON object is nested too deeply"
    if not isinstance(record, dict):
        return None, f"expected a JSON object, found {type(record).__name__}"
    return record, None


def _check_value(value: Any, column: Column, depth: int = 0) -> tuple[Any, str | None]:
    """A value as its column takes it, or null and what is wrong with it."""
    name = column.name
    if value is None:
        return None, None
    if isinstance(value, str):
        if is_broken(value):
            return None, f"{name!r} holds half a character (a lone surrogate), which no UTF-8 text can hold"
        return value, None
    if column.kind == "string":
        return None, f"expected a string in {name!r}, found {type(value).__name__} {str(value)[:40]!r}"
    if isinstance(value, (dict, list)):
        if column.kind != "value":
            return None, f"expected a string or a number in {name!r}, found {type(value).__name__}"
        if depth == DEEPEST:
            return None, f"{name!r} is nested more than {DEEPEST} deep"
        inner = [value] if isinstance(value, list) else [list(value), list(value.values())]
        reasons = (_check_value(item, column, depth + 1)[1] for items in inner for item in items)
        reason = next(filter(None, reasons), None)
        return (None if reason else value), reason
    if column.kind == "text":
        return json.dumps(value), None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None, f"{name!r} is {str(value)[:40]}, which 64 bits cannot hold. Write it as a string"
    return value, None


def json_type(values: list[Any], is_id: bool = False) -> pa.DataType:
    """The type of values of JSON, whatever their order: pyarrow itself makes 1.0 of a true that follows 1.5.

    Raises ValueError for several types. Integers and fractions share one where a double keeps them all, but not as ids.
    """
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.null()
    if kinds == {dict}:
        objects = [value for value in values if value is not None]
        names = dict.fromkeys(name for value in objects for name in value)
        return pa.struct([(name, json_type([value.get(name) for value in objects])) for name in names])
    if kinds == {list}:
        return pa.list_(json_type([item for value in values if value is not None for item in value]))
    if kinds == {int, float} and not is_id:
        odd = next((value for value in values if type(value) is int and abs(value) > EXACT_INTEGER), None)
        if odd is not None:
            raise ValueError(f"fractions, and the integer {odd}, which no double holds")
        return pa.float64()
    if len(kinds) > 1:
        raise ValueError(" and ".join(sorted(JSON_NAMES[kind] for kind in kinds)))
    return {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[kinds.pop()]


class JsonLines(LineFormat):
    name, endings, kind = "jsonl", (".jsonl", ".ndjson", ".json"), Kind.objects

    def check_head(self, place: Place, head: bytes) -> None:
        """Raises UserError for a file that is not UTF-8, has no line ends or is a JSON array."""
        check_encoding(place, head)
        # One line of JSON may be laid out with carriage returns.
        check_line_ends(place, head, len(re.findall(rb"\}\s*\r\s*\{", head)))
        if head[:1] == b"[":
            raise UserError(
                f"{place} holds one JSON array; expected one JSON object a line. Convert it first: {to_convert(place, JQ, 'lines')}"
            )

    def read_records(self, lines: Lines, request: Request, header: None) -> Iterator[Record]:
        columns = request.columns
        names = {column.name for column in columns}
        seen: dict[str, None] = {} if request.keys is None else request.keys
        nothing = [None] * len(columns)
        for number, line, reason in lines:
            if not line.strip():
                continue
            record = None
            if reason is None:
                record, reason = _parse_object(line)
            if record is None:
                yield number, nothing, reason
                continue
            if not seen.keys() >= record.keys():
                seen.update((key, None) for key in record if key in names or len(seen) < SHOWN_KEYS)
            values, wrong = [], None
            for column in columns:
                value = record.get(column.name)
                if type(value) is not str or not value.isascii():  # most are sound, and need no look
                    value, reason = _check_value(value, column)
                    wrong = wrong or reason
                values.append(value)
            yield number, values, wrong
        if request.keys is None and seen:
            # Any object may leave a key out (null); one that all of them lack is a wrong name.
            for column in columns:
                position(request.place, list(seen), column)

    def find_type(self, values: list[Any], column: Column) -> pa.DataType:
        return pa.string() if column.kind in ("string", "text") else json_type(values, column.kind == "id")


FORMAT = JsonLines()
