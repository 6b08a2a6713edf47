"""What decides a result, and whether two results would be the same. Knows neither MLflow nor Hydra."""

import hashlib
from pathlib import Path

# Differences shown in full; the rest is counted.
SHOWN = 6


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}; a list stays one value."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(before: dict, now: dict, accepted: tuple[str, ...] = ()) -> list[str]:
    """Where two plans differ, a line each; what lies under a key of `accepted` may differ."""
    old, new = flatten(before), flatten(now)
    lines = []
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key) and key.partition(".")[0] not in accepted:
            lines.append(f"{key}: {_show(old.get(key))} there, {_show(new.get(key))} here")
    return lines


def shown(lines: list[str]) -> str:
    rest = len(lines) - SHOWN
    return "; ".join(lines[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _show(value) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def code_digest(folder: Path) -> str:
    """SHA-256 of the Python files below a folder: unlike a commit it knows of changes that were not committed, and of no others."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(
            f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode()
        )
    return total.hexdigest()
