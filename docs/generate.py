"""Write the reference in docs/configuration.md from the files of conf/ and the types of the config.

    python -m docs.generate

A key's meaning is the comment above it in conf/, its default the value there, its type that of the config's dataclass.
A test fails when the page is not what this writes.
"""

import dataclasses
import enum
import importlib
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import yaml

from steps.common.launch.config import STEPS
from steps.common.launch.overrides import groups

PROJECT = Path(__file__).resolve().parents[1]
CONF = PROJECT / "conf"
PAGE = PROJECT / "docs" / "configuration.md"
BEGIN, END = "<!-- begin: written by docs/generate.py -->\n", "<!-- end: written by docs/generate.py -->\n"

# Groups of conf/, and the file of each that explains the keys of all its choices.
GROUPS = {"model": "_base", "suite": "_base", "backend": "auto", "engine": "_base"}


@dataclass(frozen=True)
class Key:
    """A key of a config file: its dotted path, its value as written there, the comment above it."""

    path: str
    default: object
    comment: str


def read_keys(path: Path) -> list[Key]:
    """The keys of a config file that hold a value or a list, in their order, without its defaults list."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    keys, comment, parents = [], [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment.append(text.lstrip("# "))
            continue
        name, colon, _ = text.partition(":")
        if colon and name.isidentifier():
            depth = (len(line) - len(line.lstrip())) // 2
            parents[depth:] = [name]
            value = _value_at(values, parents)
            is_node = isinstance(value, dict) and value
            if parents[0] != "defaults" and not is_node:
                keys.append(Key(".".join(parents), value, join_lines(comment)))
            elif is_node and comment:
                # The comment of a node says what all of its keys are about.
                keys.append(Key(".".join(parents), None, join_lines(comment)))
        comment = []
    return keys


def join_lines(comment: list[str]) -> str:
    """A comment on one line; what begins with `value: ` begins a line of its own on the page."""
    return re.sub(r"\n(?=[a-z_]+: )", "<br>", "\n".join(comment)).replace("\n", " ")


def escape(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return re.sub(r"<(?!br>)", "&lt;", text).replace("|", "\\|")


def _value_at(values: dict, parents: list[str]) -> object:
    for name in parents:
        values = values[name]
    return values


def read_header(path: Path) -> str:
    """The comment that a config file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = []
    for line in lines:
        if not line.startswith("#"):
            break
        first.append(line.lstrip("# "))
    return " ".join(first)


def find_field(schema: type, path: str) -> dataclasses.Field | None:
    """The field that a dotted path names; None for an entry of a dict."""
    name, dot, rest = path.partition(".")
    field = next((one for one in dataclasses.fields(schema) if one.name == name), None)
    if field is None or not dot:
        return field
    kind = typing.get_type_hints(schema)[name]
    return find_field(kind, rest) if dataclasses.is_dataclass(kind) else None


def describe_type(kind: object, field: dataclasses.Field) -> str:
    """What a key takes, in a reader's words."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        options = [one for one in typing.get_args(kind) if one is not type(None)]
        return ", ".join([*(describe_type(one, field) for one in options), "`null`"])
    if "one_of" in field.metadata:
        return ", ".join(f"`{name}`" for name in field.metadata["one_of"]())
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{one.name}`" for one in kind)
    if typing.get_origin(kind) is list:
        return "list"
    if typing.get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return "names and values"
    plain = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}[kind]
    bounds = [
        f", {word} {field.metadata[name]}"
        for name, word in (("min", "at least"), ("below", "below"))
        if name in field.metadata
    ]
    return plain + "".join(bounds)


def show_value(value: object) -> str:
    """A default as it is typed; long lists are left to the file."""
    if isinstance(value, list) and len(value) > 3:
        return f"{len(value)} entries"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace("'", '"')
    return "must be given" if text == "???" else f"`{text}`"


def table(keys: list[Key], schema: type, prefix: str = "") -> list[str]:
    """A Markdown table of keys: name, default, type, meaning."""
    rows = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for key in keys:
        field = find_field(schema, key.path)
        if field is None:
            continue
        kind = _type_of(schema, key.path)
        meaning = escape(key.comment)
        if dataclasses.is_dataclass(kind):
            rows.append(f"| `{prefix}{key.path}` | | | {meaning} |")
        else:
            rows.append(
                f"| `{prefix}{key.path}` | {show_value(key.default)} | {describe_type(kind, field)} | {meaning} |"
            )
    return rows


def _type_of(schema: type, path: str) -> object:
    name, dot, rest = path.partition(".")
    kind = typing.get_type_hints(schema)[name]
    return _type_of(kind, rest) if dot else kind


def write_step(step: str) -> list[str]:
    """The section of a step: its own keys, and the groups it takes."""
    path = CONF / f"{step}.yaml"
    groups = [
        next(iter(one)).partition("@")[0]
        for one in yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
        if isinstance(one, dict)
    ]
    lines = [f"### {step}", ""]
    if groups:
        names = ", ".join(f"[`{name}`](#{name})" for name in dict.fromkeys(groups))
        lines += [f"Groups: {names}.", ""]
    return [*lines, *table(read_keys(path), STEPS[step]), ""]


def write_group(group: str, base: str) -> list[str]:
    """The section of a group: the keys that all of its choices have, then the choices."""
    owner = next(schema for schema in STEPS.values() if group in typing.get_type_hints(schema))
    path = CONF / group / f"{base}.yaml"
    lines = [f"### {group}", "", *table(read_keys(path), typing.get_type_hints(owner)[group], f"{group}.")]
    lines += ["", f"| `-P {group}=` | what |", "|---|---|"]
    return [*lines, *(f"| `{name}` | {escape(describe_choice(group, name))} |" for name in groups()[group]), ""]


def describe_choice(group: str, name: str) -> str:
    """What a choice of a group is: the comment its file begins with, or the first line of a backend's module."""
    path = CONF / group / f"{name}.yaml"
    if path.is_file():
        return read_header(path)
    manual = importlib.import_module(f"steps.common.backends.kinds.{name}").__doc__ or ""
    return manual.partition("\n")[0].partition(": ")[2]


def reference() -> str:
    """The reference, as Markdown."""
    steps = [line for step in STEPS for line in write_step(step)]
    groups = [line for group, base in GROUPS.items() for line in write_group(group, base)]
    return "\n".join([*steps, *groups])


def with_reference(page: str) -> str:
    """The page with the reference between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + reference() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
