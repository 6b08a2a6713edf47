"""One override of a config key: its name, its value, as a user typed it."""

import dataclasses
import difflib
import re
import typing
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException

from steps.common.backends.kinds import registered
from steps.common.errors import UserError, clip
from steps.common.project import CONF

# Keys that once had another name, which the new one does not resemble: for the line that says what to type.
RENAMED = {
    "model.known": "model.expected_facts",
    "suite.below_reference": "suite.max_loss_to_published",
    "tolerance.spearman": "tolerance.score",
}

# Parameters of MLproject whose name is not the config key they set.
ALIASES = {step: {"corpus": "corpus.path"} for step in ("validate", "encode", "benchmark", "main")} | {
    "outputs": {"model": "run_id"},
    "search": {"queries": "queries.path"},
    "similarity": {"pairs": "pairs.path"},
}

# The steps that `main` runs, in order.
CHAIN = ("log_model", "validate", "encode")

# Brackets that one override may open outside of quotes.
MOST_BRACKETS = 200

ONE_CHAIN = "main runs one chain at a time. Sweep a step instead: python -m steps.encode --multirun key=a,b. A value that holds commas needs quotes."


def written(value: str) -> str:
    """A string in Hydra's grammar: a plain word needs no quotes, and reads better in commands and in error messages."""
    plain = re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_.\-/]*", value)
    return value if plain and value.lower() not in ("null", "true", "false", "nan", "inf") else quote(value)


def quote(text: str) -> str:
    """Write a string in Hydra's override grammar so that it arrives as it is, `${...}` included."""
    escaped = re.sub(r"(\\*)\$\{", lambda match: match.group(1) * 2 + r"\${", text)
    return QuotedString(text=escaped, quote=Quote.single).with_quotes()


def field_type(schema: Any, key: str) -> Any:
    """The declared type of a dotted key, or None where the schema has no such key."""
    for part in key.split("."):
        if typing.get_origin(schema) is dict:
            schema = typing.get_args(schema)[1]
            continue
        if not dataclasses.is_dataclass(schema):
            return None
        schema = typing.get_type_hints(schema).get(part)
    return schema


def parse(overrides: list[str]) -> list[Override]:
    """Read overrides in Hydra's grammar; raises UserError for one that cannot be read."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        check_brackets(text)
        try:
            parsed += parser.parse_overrides([text])
        except OverrideParseException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot read the override {clip(text)!r} ({clip(reason)}). Expected key=value, +key=value or ~key, "
                "with quotes round a value that holds spaces, commas, braces or equals signs."
            ) from None
    return parsed


def check_brackets(text: str) -> None:
    """Raises UserError for an override with more brackets than Hydra's parser can read in seconds, or in any time."""
    outside = re.sub(r"'(\\.|[^'\\])*'|\"(\\.|[^\"\\])*\"", "", text, flags=re.DOTALL)
    opened = sum(map(outside.count, "[{("))
    if opened > MOST_BRACKETS:
        raise UserError(
            f"cannot read the override {clip(text)!r}: it opens {opened} brackets, expected at most {MOST_BRACKETS}. Put quotes round a value that holds brackets as characters."
        )


def groups() -> dict[str, list[str]]:
    """The folders of conf/, and what may be chosen of each: a file is a choice, unless its name begins with _.

    Such a file holds every key with its comment, and the others what differs. The backends are choices without a file.
    """
    found = {
        folder.name: {path.stem for path in folder.glob("[!_]*.yaml")}
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    }
    found["backend"] |= set(registered())
    return {group: sorted(choices) for group, choices in found.items()}


def known_keys(schema: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a schema, groups included."""
    keys = []
    for name, kind in typing.get_type_hints(schema).items():
        keys.append(prefix + name)
        if dataclasses.is_dataclass(kind):
            keys += known_keys(kind, f"{prefix}{name}.")
    return keys


def within_dict(schema: type, key: str) -> bool:
    return typing.get_origin(field_type(schema, key.rpartition(".")[0])) is dict if "." in key else False


# Names of kinds of numbers, each with those that other tools have for it.
SAME_NUMBERS = (
    {"f32", "fp32", "float32", "single"},
    {"f16", "fp16", "float16", "half"},
    {"bf16", "bfloat16"},
    {"int8", "i8"},
    {"binary", "ubinary"},
)


def nearest_choice(word: str, known: list[str]) -> str | None:
    """What a word means among some choices: another name of the same kind of number, or a slip; None where nothing is near."""
    word = word.lower()
    same = [choice for names in SAME_NUMBERS if word in names for choice in known if choice in names]
    return next(iter(same or difflib.get_close_matches(word, known, n=1, cutoff=0.8)), None)


def check_member(group: str, member: object, members: list[str]) -> None:
    """Raises UserError for a choice that a group does not have."""
    name, _, precision = str(member).partition("/")
    if group == "backend" and precision and name in members:
        # As a benchmark names its candidates.
        raise UserError(f"there is no backend {str(member)!r}. Type backend={name} backend.precision={precision}.")
    if member not in members:
        raise UserError(
            f"there is no {group} {str(member)!r} in conf/{group}/.{nearest(str(member), members)} Choose one of: {', '.join(members)}."
        )


def nearest(word: str, known: list[str]) -> str:
    near = [word.replace(old, new) for old, new in RENAMED.items() if f"{word}.".startswith(f"{old}.")]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not near:
        # The right leaf under the wrong node (batch_size for backend.batch_size).
        leaf = word.rpartition(".")[2]
        leaves = {key.rpartition(".")[2]: key for key in known}
        near = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    return f" Did you mean {near[0]!r}?" if near else ""
