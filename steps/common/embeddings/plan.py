"""What decides a result, and whether two results would be the same."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Differences shown in full; the rest is counted.
SHOWN = 6

# Letters of a value.
SHOWN_LETTERS = 80


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; a list stays one value."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plan_of(given: dict[str, Any], corpus: dict[str, Any], code: Path) -> dict[str, Any]:
    """What of a plan is known before the model is loaded: not the model, and of the backend what is asked for by name.

    Args:
        given: the config of encode.
        corpus: what of its files decides a result, and their format.
        code: the folder of the code.
    """
    options = {key: given[key] for key in ("output_format", "rows_per_part", "keep_text", "embedding")}
    options["corpus"] = {key: value for key, value in given["corpus"].items() if key not in ("path", "format")} | corpus
    backend = given["backend"]
    asked = {key: backend[key] for key in ("name", "precision", "device") if backend[key] != "auto"}
    if "device" in asked:
        asked["device"] = asked["device"].partition(":")[0]
    plan = {"backend": asked | _sizes(backend), **options, "versions": versions(), "code": code_digest(code)}
    # As it is read back.
    return json.loads(json.dumps(plan))


def complete_plan(known: dict[str, Any], computed: dict[str, Any]) -> dict[str, Any]:
    """All that decides the result but what is reused: plan_of, and `model` and `backend` once both are loaded."""
    return {**computed, **known, "backend": {**computed["backend"], **_sizes(known["backend"])}}


def _sizes(backend: dict[str, Any]) -> dict[str, Any]:
    return {key: backend[key] for key in ("batch_size", "batch_tokens")}


def find_differences(before: dict[str, Any], now: dict[str, Any], accepted: Iterable[str] = ()) -> dict[str, str]:
    """Where two plans differ: the dotted key and a line for each; what lies under a key of `accepted` may differ."""
    old, new = flatten(before), flatten(now)
    lines = {}
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key) and key.partition(".")[0] not in accepted:
            was, is_now = _show_both(old.get(key), new.get(key))
            lines[key] = f"{key} was {was}, is now {is_now}"
    return lines


def shown(lines: Sequence[str]) -> str:
    """Some lines as one sentence; of many the first, and how many more there are."""
    rest = len(lines) - SHOWN
    return "; ".join(lines[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _show_both(old: Any, new: Any) -> tuple[str, str]:
    """Two values, long ones from a little before where they differ."""
    old, new = str(old), str(new)
    start = max(0, len(os.path.commonprefix([old, new])) - 20) if max(len(old), len(new)) > SHOWN_LETTERS else 0
    return _show(old, start), _show(new, start)


def _show(text: str, start: int) -> str:
    # White space counts here: a prompt may end with it.
    begin, rest = "..." if start else "", text[start:]
    return begin + (rest if len(rest) <= SHOWN_LETTERS else f"{rest[: SHOWN_LETTERS - 3]}...")


def versions() -> dict[str, str]:
    """The libraries that decide an embedding, or how it is written; backend=torch can do without openvino."""
    names = (
        *("mlflow", "sentence-transformers", "torch", "transformers", "tokenizers", "openvino"),
        *("numpy", "pyarrow"),
    )
    return {name: _version_of(name) for name in names}


def _version_of(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def code_digest(folder: Path) -> str:
    """SHA-256 of the Python files below a folder: unlike a commit it knows of changes that were not committed, and of no others."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(
            f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode()
        )
    return total.hexdigest()
