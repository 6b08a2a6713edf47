"""JSON Lines files."""

import json
from collections.abc import Iterable, Iterator

from steps.common.corpus.readers.lines import DEEPEST, SHOWN_KEYS, Record, is_broken
from steps.common.corpus.rows import Column, position
from steps.common.storage.place import Place


def json_records(
    place: Place, lines: Iterable, columns: list[Column], keys: dict[str, None] | None
) -> Iterator[Record]:
    names = {column.name for column in columns}
    seen: dict[str, None] = {} if keys is None else keys
    nothing = [None] * len(columns)
    for number, line, reason in lines:
        if not line.strip():
            continue
        record = None
        if reason is None:
            record, reason = _json_object(line)
        if record is None:
            yield number, nothing, reason
            continue
        if not seen.keys() >= record.keys():
            seen.update((key, None) for key in record if key in names or len(seen) < SHOWN_KEYS)
        values, wrong = [], None
        for column in columns:
            value = record.get(column.name)
            if type(value) is not str or not value.isascii():  # most are sound, and need no look
                value, reason = _json_value(value, column)
                wrong = wrong or reason
            values.append(value)
        yield number, values, wrong
    if keys is None and seen:
        # Any object may leave a key out (null); one that all of them lack is a wrong name.
        for column in columns:
            position(place, list(seen), column.name)


def _json_object(line: str) -> tuple[dict | None, str | None]:
    try:
        record = json.loads(line)
    except ValueError as error:
        return None, f"expected one JSON object a line; {error}"
    except RecursionError:
        return None, "the JSON object is nested too deeply"
    if not isinstance(record, dict):
        return None, f"expected a JSON object, found {type(record).__name__}"
    return record, None


def _json_value(value, column: Column, depth: int = 0) -> tuple[object, str | None]:
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
        reasons = (_json_value(item, column, depth + 1)[1] for items in inner for item in items)
        reason = next(filter(None, reasons), None)
        return (None if reason else value), reason
    if column.kind == "text":
        return json.dumps(value), None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None, f"{name!r} is {str(value)[:40]}, which 64 bits cannot hold. Write it as a string"
    return value, None
