"""What identifies a model: its form, its weights, its tokenizer, its prompts."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import tokenizers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

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


def write_prompts(prompts: Mapping[str, str | None]) -> str:
    """Prompts as JSON, in the order of their names. The library gives every model an empty `query` and `document`: empty
    ones are left out.
    """
    return json.dumps({name: text for name, text in prompts.items() if text}, sort_keys=True, ensure_ascii=False)


def facts(model: SentenceTransformer) -> dict[str, str]:
    """What identifies a model: dimension, longest input, prompts, pooling, modules, and digests of its tokenizer and parameters.

    `prompts` is JSON (write_prompts); `default_prompt` is a text, "none" where there is none.
    """
    pooling = [module.pooling_mode for module in model if isinstance(module, Pooling)]
    return {
        "dimension": str(model.get_embedding_dimension()),
        "max_seq_length": str(model.max_seq_length),
        "prompts": write_prompts(model.prompts),
        "default_prompt": model.prompts.get(model.default_prompt_name or "") or "none",
        "pooling": "+".join(mode if isinstance(mode, str) else "+".join(mode) for mode in pooling) or "none",
        "normalizes": str(normalizes(model)).lower(),
        "modules": " > ".join(type(module).__name__ for module in model),
        "parameters": str(sum(parameter.numel() for parameter in model.parameters())),
        "vocabulary": str(len(vocabulary(model))),
        "tokenizer_sha256": tokenizer_digest(model),
        "parameters_sha256": parameters_digest(model),
    }


def normalizes(model: SentenceTransformer) -> bool:
    """Whether the model's own embeddings have length 1."""
    return any(isinstance(module, Normalize) for module in model)
