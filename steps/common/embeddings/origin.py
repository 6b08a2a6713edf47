"""Whose embeddings these are: the model and the settings that made a part, as the part itself says it."""

import json
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

# The facts are key-value metadata of a part's Parquet file, under names that begin so.
PREFIX = "embeddings."

# What may differ between the parts of an output: encode went on with other code, and the user accepted that.
CHANGING = ("git_commit",)


@dataclass(frozen=True)
class Origin:
    """What made a vector. Nothing of a run, so a part has the same bytes whoever makes it. None: unknown or unused."""

    model_id: str
    # Name and revision on the Hub.
    hub_id: str | None
    revision: str | None
    # name/version in the model registry, where the model was found there.
    registered_version: str | None
    # SHA-256 of what decides its vectors: weights, modules, tokenizer, prompts.
    model_digest: str
    # name/precision.
    backend: str
    # What stands before each text.
    prompt: str | None
    # The config node `embedding`.
    options: dict[str, Any]
    # Of the code that the output was begun with.
    git_commit: str | None

    def facts(self) -> dict[str, str]:
        """Each fact by name, as text; the options beside the others."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "options"}
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in {**named, **self.options}.items()
            if value is not None
        }

    def metadata(self) -> dict[str, str]:
        """The facts as the metadata of an Arrow schema."""
        return {PREFIX + name: value for name, value in self.facts().items()}


def read_facts(schema: pa.Schema) -> dict[str, str]:
    """The facts that the schema of a part holds, by name; none of a part that was written before there were any."""
    # Of a damaged part any byte may come.
    held = {
        key.decode(errors="replace"): value.decode(errors="replace") for key, value in (schema.metadata or {}).items()
    }
    return {key.removeprefix(PREFIX): value for key, value in held.items() if key.startswith(PREFIX)}


def find_other(held: dict[str, str], origin: Origin) -> list[str]:
    """Where the facts of a part are not those of an origin, a line each; a part without facts contradicts none."""
    expected = origin.facts()
    return [
        f"{name} {held.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        for name in dict.fromkeys([*expected, *held])
        if held and name not in CHANGING and held.get(name) != expected.get(name)
    ]
