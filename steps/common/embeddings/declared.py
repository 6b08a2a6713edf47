"""JSON -> dataclasses: a record is read as its dataclass declares it, or refused with what is wrong in it."""

import functools
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from steps.common.errors import clip

NAMES = {int: "a whole number of 0 or more", float: "a number", str: "a string", bool: "true or false"}


def read_declared(kind: Any, content: Any, where: str = "") -> Any:
    """What some JSON says, as a dataclass, list, dict, optional or plain type.

    A whole number counts something in every record, so a negative one is refused. `where` is the place of `content` in
    the record, for the error: parts.0. Raises ValueError, one line, for a missing or unknown key or another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return content
    if is_dataclass(kind):
        return _read_dataclass(kind, content, where)
    if origin is types.UnionType:
        return None if content is None else read_declared(arguments[0], content, where)
    if origin is list and isinstance(content, list):
        return [read_declared(arguments[0], value, _below(where, i)) for i, value in enumerate(content)]
    if origin is dict and isinstance(content, dict):
        return {name: read_declared(arguments[1], value, _below(where, name)) for name, value in content.items()}
    if (type(content) is kind and (kind is not int or content >= 0)) or (kind is float and type(content) is int):
        return content
    raise ValueError(f"{where or 'it'} is {_show(content)}, expected {_name(origin or kind)}")


def _read_dataclass(kind: Any, content: Any, where: str) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"{where or 'it'} is {_show(content)}, expected {_name(dict)}")
    kinds = _kinds(kind)
    for name in content:
        if name not in kinds:
            raise ValueError(f"{_below(where, name)} is unknown")
    for field in fields(kind):
        if field.name not in content and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{_below(where, field.name)} is missing")
    return kind(**{name: read_declared(kinds[name], value, _below(where, name)) for name, value in content.items()})


@functools.cache
def _kinds(kind: Any) -> dict[str, Any]:
    """The type of each field: resolving them costs more than reading a part."""
    return typing.get_type_hints(kind)


def _below(where: str, name: str | int) -> str:
    return f"{where}.{name}" if where else str(name)


def _name(kind: Any) -> str:
    return NAMES.get(kind, "an array" if kind is list else "an object")


def _show(content: Any) -> str:
    if isinstance(content, (dict, list)):
        return _name(type(content))
    return clip(repr(content), 40)
