"""What a step shows when it is done."""

import json
import math


def show(step: str, results: dict, next_command: str | None = None) -> None:
    """Print results for a person, a line each, then the command to type next, then all of it as one JSON line."""
    width = max(map(len, results))
    print(f"\n{step}")
    for name, value in results.items():
        print(f"  {name:<{width}}  {_format(value)}")
    if next_command:
        print(f"\nnext: {next_command}")
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in results.items()
    }
    print(json.dumps({"step": step, **finite, "next": next_command}, ensure_ascii=False), flush=True)


def _format(value) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_embeddings(texts: list[str], embeddings) -> None:
    """Print the first 10 entries of each embedding beside its text."""
    for text, embedding in zip(texts, embeddings):
        numbers = ", ".join(f"{number:+.4f}" for number in embedding[:10])
        print(f"  {text[:60]!r}\n    [{numbers}, ...]")
