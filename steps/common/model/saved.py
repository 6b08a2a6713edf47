"""What the files of a downloaded model say before it is loaded."""

import contextlib
import json
from pathlib import Path


def _model_files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"*.sentence_transformer/**/{name}"))


def saved_prompts(folder: Path) -> tuple[dict[str, str], str | None] | None:
    """The prompts of a downloaded model by name, and the name of its default; None where its files do not say."""
    for path in _model_files(folder, "config_sentence_transformers.json")[:1]:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            config = json.loads(path.read_text(encoding="utf-8"))
            # The library gives every model these two.
            prompts = {"query": "", "document": ""} | (config.get("prompts") or {})
            return {name: text or "" for name, text in prompts.items()}, config.get("default_prompt_name")
    return None


def saved_modules(folder: Path) -> list[str] | None:
    """The classes of a downloaded model's modules, in order; None where its files do not say."""
    for path in _model_files(folder, "modules.json")[:1]:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return [module["type"].rpartition(".")[2] for module in json.loads(path.read_text(encoding="utf-8"))]
    return None


def saved_tokenizer(folder: Path) -> Path | None:
    """The fast tokenizer of a downloaded model; None where it has none, or several."""
    found = _model_files(folder, "tokenizer.json")
    return found[0] if len(found) == 1 else None
