"""What a step shows when it is done."""

import json
import math
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from prettytable import PrettyTable


def show(step: str, results: dict, next_command: str | None = None, *, in_json: Collection[str] = ()) -> None:
    """Print results for a person, a line each, then the command to type next, then all of it as one JSON line.

    `in_json`: names of results that only that line has, since a person has read them under another name.
    """
    width = max(map(len, results))
    print(f"\n{step}")
    for name, value in results.items():
        if name not in in_json:
            print(f"  {name:<{width}}  {_format(value)}")
    if next_command:
        print(f"\nnext: {next_command}")
    line = as_json({"step": step, **results, "next": next_command})
    print(json.dumps(line, ensure_ascii=False, allow_nan=False), flush=True)


def as_json(value: Any) -> Any:
    """A value of dicts, lists and plain values with null for NaN and Infinity, which Python writes and JSON has not."""
    if isinstance(value, dict):
        return {name: as_json(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_table(names: Sequence[str], rows: Iterable[list[str]]) -> None:
    """Print a table, a line for each row; on a terminal, what is too wide for it is folded within its column."""
    cells = list(rows)
    table = PrettyTable(names, align="l", border=False)
    table.add_rows(cells)
    # A file or a pipe is searched line by line.
    width = shutil.get_terminal_size((0, 0)).columns if sys.stdout.isatty() else 0
    if width:
        table.max_width = widest_column([max(map(len, column)) for column in zip(names, *cells)], width)
    print(table, flush=True)


def widest_column(widths: Sequence[int], width: int) -> int:
    """How wide a column may be at most, so that all of them, each with a space on either side, fit into `width`."""
    room = width - 2 * len(widths)
    return next((most for most in range(max(widths), 1, -1) if sum(min(one, most) for one in widths) <= room), 1)


def show_embeddings(texts: Iterable[str], embeddings: Iterable[np.ndarray]) -> None:
    """Print the first 10 entries of each embedding beside its text."""
    for text, embedding in zip(texts, embeddings):
        numbers = ", ".join(f"{number:+.4f}" for number in embedding[:10])
        print(f"  {text[:60]!r}\n    [{numbers}, ...]")
