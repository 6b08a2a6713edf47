"""Checks that a model is what it is known to be."""

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from steps.common.model.facts import write_prompts
from steps.common.project import CONF
from steps.common.validation.checks import Check, equal

# Facts that are recorded when a model is logged, and compared when it is validated.
COMPARED = (
    *("dimension", "max_seq_length", "prompts", "default_prompt", "pooling", "normalizes", "modules"),
    *("vocabulary", "tokenizer_sha256", "parameters_sha256"),
)

# In the facts known of a model: no fact, but how alike unrelated texts may be (check_mean_cosine).
MEAN_COSINE = "mean_cosine"


@dataclass(frozen=True)
class FactChange:
    """A fact that differs from the model this one is compared with; `against` is that one's part, such as champion."""

    fact: str
    here: str
    there: str
    against: str


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
    """The model's facts equal those that a model of this name or these weights is known to have.

    Where one differs, the check says what to type if that is meant. A digest is not to be declared anew: other weights are
    another model.
    """
    checks = []
    for fact, expected in known.items():
        if fact == MEAN_COSINE:
            continue
        check = equal(f"known/{fact}", found.get(fact), _read_prompts(expected) if fact == "prompts" else expected)
        threshold = f"{check.threshold}, as {name}"
        if not check.passed and not fact.endswith("_sha256"):
            declared = shlex.quote(f"model.expected_facts.{fact}={found.get(fact)}")
            threshold += f"; if {check.value} is meant, log the model again with -P {declared}"
        checks.append(Check(check.name, check.value, threshold, check.passed))
    return checks


def _read_prompts(declared: str) -> str:
    """Declared prompts as facts have them, however their JSON is written; text that is no JSON of prompts as it is."""
    try:
        return write_prompts(json.loads(declared))
    except (ValueError, AttributeError):
        return declared


def compare_facts(found: dict[str, str], other: dict[str, str], against: str) -> list[FactChange]:
    """The facts in which a model differs from another, of which these were recorded; a fact not recorded then is left out."""
    return [
        FactChange(fact, found.get(fact, ""), other[fact], against)
        for fact in COMPARED
        if fact in other and found.get(fact) != other[fact]
    ]
