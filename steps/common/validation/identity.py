"""Checks that a model is what it is known to be."""

import json
from collections.abc import Iterable

import yaml

from steps.common.project import CONF
from steps.common.validation.checks import Check, equal

# Facts that are recorded when a model is logged, and compared when it is validated.
COMPARED = (
    *("dimension", "max_seq_length", "pooling", "normalizes", "modules"),
    *("vocabulary", "tokenizer_sha256", "parameters_sha256"),
)


def known_models() -> Iterable[tuple[str, str | None, dict[str, str]]]:
    """Name, SHA-256 of the weights file and known facts of each model in conf/model that has such facts."""
    for path in sorted((CONF / "model").glob("*.yaml")):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        if spec.get("expected_facts"):
            yield spec["name"], spec.get("weights_sha256"), spec["expected_facts"]


def find_known(tags: dict[str, str], found: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The name and known facts of the model that these tags and facts belong to: by its weights, else by its name.

    A model logged with facts of its own (model.expected_facts) has those too, before the others.
    """
    declared = json.loads(tags.get("expected_facts", "{}"))
    for name, weights, known in known_models():
        digest = known.get("parameters_sha256")
        same_weights = (weights is not None and tags.get("weights_sha256") == weights) or (
            digest is not None and found.get("parameters_sha256") == digest
        )
        if same_weights or tags.get("hub_id") == name:
            return name, known | declared
    return tags.get("hub_id", ""), declared


def check_unchanged(tags: dict[str, str], found: dict[str, str]) -> list[Check]:
    """The model's facts equal those recorded when it was logged; facts that an older log_model did not record are left out."""
    return [equal(f"unchanged/{fact}", found.get(fact), tags[fact]) for fact in COMPARED if fact in tags]


def check_known(name: str, known: dict[str, str], found: dict[str, str]) -> list[Check]:
    """The model's facts equal those that a model of this name or these weights is known to have."""
    checks = []
    for fact, expected in known.items():
        check = equal(f"known/{fact}", found.get(fact), expected)
        checks.append(Check(check.name, check.value, f"{check.threshold}, as {name}", check.passed))
    return checks
