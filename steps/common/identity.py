"""What tells a model from a changed copy of it."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import tokenizers
import torch
import yaml
from sentence_transformers import SentenceTransformer

from steps.common.arguments import CONF
from steps.common.quality import Check, equal

# Facts that are recorded when a model is logged, and compared when it is validated.
COMPARED = (
    *("dimension", "max_seq_length", "pooling", "normalizes", "modules"),
    *("vocabulary", "tokenizer_sha256", "parameters_sha256"),
)

# A text that shows what a tokenizer does beside its vocabulary: case, accents, punctuation, scripts.
PROBE = "The Quick brown fox, naïve Ärger; 1,234.5% of state-of-the-art 東京 Привет \U0001f680!"


def parameters_digest(model: SentenceTransformer) -> str:
    """SHA-256 over the digests of all parameters, in the model's order; their names do not count."""
    digests = []
    for parameter in model.parameters():
        values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        shape = f"{parameter.dtype} {tuple(parameter.shape)} ".encode()
        digests.append(hashlib.sha256(shape + hashlib.sha256(values.data).digest()).hexdigest())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def vocabulary(model: SentenceTransformer) -> dict[str, int]:
    """Token -> id of a model's tokenizer; empty where it has none, or one of another kind."""
    tokenizer = find_tokenizer(model)
    if not hasattr(tokenizer, "get_vocab"):
        return {}
    entries = tokenizer.get_vocab()
    # The library's word tokenizers give a list, in the order of the ids.
    return dict(entries) if isinstance(entries, dict) else {word: i for i, word in enumerate(entries)}


def find_tokenizer(model: SentenceTransformer) -> Any:
    """The tokenizer of a model's first module; None where it has none."""
    try:
        return model.tokenizer
    except (AttributeError, KeyError):
        return None


def token_ids(model: SentenceTransformer, text: str) -> list[int] | None:
    """The ids of a text, not truncated; None for a model that reads no token ids."""
    tokenizer = find_tokenizer(model)
    if isinstance(tokenizer, tokenizers.Tokenizer):
        return tokenizer.encode(text, add_special_tokens=False).ids
    if not hasattr(tokenizer, "get_vocab") or not callable(tokenizer):
        return None
    return list(tokenizer(text, truncation=False)["input_ids"])


def tokenizer_digest(model: SentenceTransformer) -> str:
    """SHA-256 of the vocabulary and of the token ids of PROBE; empty for a model without a vocabulary."""
    entries = vocabulary(model)
    if not entries:
        return ""
    known = json.dumps([sorted(entries.items()), token_ids(model, PROBE)])
    return hashlib.sha256(known.encode()).hexdigest()


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
