"""Time contenders in turns on the same texts, and say how near they come to what the machine can do."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from prettytable import PrettyTable, TableStyle

from steps.common.backends.machine import peak_mb, reset_peak, rss_mb, timed
from steps.common.vectors import pair_cosine

Encode = Callable[[list[str]], np.ndarray]

# What everything is compared with.
STOCK = "stock"

# A contender is not stopped for fewer seconds: it may compile something, or wait for another process.
GRACE = 1.0


@dataclass
class Contender:
    """Something that embeds texts, and what it took to load."""

    name: str
    precision: str
    encode: Encode
    load_seconds: float
    load_mb: float
    padding_share: Callable[[], float | None] = lambda: None


@dataclass(frozen=True)
class Row:
    """The results of one contender; medians over the rounds."""

    name: str
    precision: str
    ratio: float
    sentences_per_second: float
    tokens_per_second: float
    peak_share: float | None
    peak_mb: float | None
    load_seconds: float
    padding_share: float | None
    cosine_min: float
    cosine_mean: float
    spearman: float
    spearman_difference: float
    seconds: list[float]


@dataclass(frozen=True)
class Rounds:
    """Seconds of each round, the most memory a round needed beyond what was held before it, and the vectors."""

    seconds: list[float]
    extra_mb: float | None
    embeddings: np.ndarray


@dataclass(frozen=True)
class Stopped:
    """A contender that was too slow to go on with, and how long it and the stock one took for so many texts."""

    name: str
    precision: str
    texts: int
    seconds: float
    stock_seconds: float

    @property
    def ratio(self) -> float:
        return self.stock_seconds / self.seconds

    @property
    def sentences_per_second(self) -> float:
        return self.texts / self.seconds

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s for {self.texts:,} texts, {STOCK} {self.stock_seconds:.1f} s"


def warm_up(contenders: Sequence[Contender], texts: list[str], stop_below: float) -> list[Stopped]:
    """Embed up to a tenth of the texts, not counted, a few first and then more: a slow contender is stopped early."""
    most = max(2, len(texts) // 10)
    sizes = [size for size in (2 * 4**power for power in range(20)) if size < most] + [most]
    stopped: dict[str, Stopped] = {}
    for size in sizes:
        some = texts[:size]
        stock_seconds = 0.0
        for contender in contenders:
            if contender.name in stopped:
                continue
            seconds = timed(functools.partial(contender.encode, some))
            if contender.name == STOCK:
                stock_seconds = seconds
            elif _too_slow(seconds, stock_seconds, stop_below):
                # Once more: the first time it may have compiled something.
                seconds = timed(functools.partial(contender.encode, some))
                if _too_slow(seconds, stock_seconds, stop_below):
                    stopped[contender.name] = Stopped(
                        contender.name, contender.precision, len(some), seconds, stock_seconds
                    )
    return list(stopped.values())


def _too_slow(seconds: float, stock_seconds: float, stop_below: float) -> bool:
    return seconds > GRACE and stock_seconds < stop_below * seconds


def run_rounds(
    contenders: Sequence[Contender],
    texts: list[str],
    repeats: int,
    on_round: Callable[[int], None] = lambda n: None,
    stop_below: float = 0.0,
) -> tuple[dict[str, Rounds], list[Stopped]]:
    """Every contender embeds all the texts once a round, one after the other; the stock one is the first.

    Args:
        stop_below: a contender that takes longer than the stock one divided by this embeds no more texts, and has no
            rounds.
    """
    stopped = []
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    extra: dict[str, list[float | None]] = {contender.name: [] for contender in contenders}
    embeddings = {}
    for number in range(repeats):
        on_round(number)
        for contender in contenders:
            before = rss_mb()
            can_peak = reset_peak()
            start = time.perf_counter()
            embeddings[contender.name] = contender.encode(texts)
            seconds[contender.name].append(time.perf_counter() - start)
            extra[contender.name].append(peak_mb() - before if can_peak else None)
        stock_seconds = seconds[STOCK][-1]
        for contender in contenders:
            own = seconds[contender.name][-1]
            if _too_slow(own, stock_seconds, stop_below):
                stopped.append(Stopped(contender.name, contender.precision, len(texts), own, stock_seconds))
        contenders = [one for one in contenders if one.name not in [late.name for late in stopped]]
    rounds = {}
    for one in contenders:
        measured = [mb for mb in extra[one.name] if mb is not None]
        rounds[one.name] = Rounds(seconds[one.name], max(measured, default=None), embeddings[one.name])
    return rounds, stopped


def summarize(
    contenders: Sequence[Contender],
    rounds: dict[str, Rounds],
    spearman: dict[str, float],
    *,
    tokens: int,
    flops: float | None,
    peaks: dict[str, float | None],
    base_mb: float,
) -> list[Row]:
    """One row for each contender, the stock one first.

    Args:
        spearman: score of each contender on the suite.
        tokens: tokens of all texts as the model reads them, without padding.
        flops: floating point operations of the matrix products they need; None where that is unknown.
        peaks: operations a second of the machine, by precision.
        base_mb: memory of the process with the model loaded, before any contender was.
    """
    stock = rounds[STOCK]
    rows = []
    for contender in contenders:
        own = rounds[contender.name]
        median = float(np.median(own.seconds))
        cosines = pair_cosine(own.embeddings, stock.embeddings)
        peak = peaks.get(contender.precision)
        rows.append(
            Row(
                name=contender.name,
                precision=contender.precision,
                # By round: a machine that is slower for a while slows all contenders of a round.
                ratio=float(np.median(np.array(stock.seconds) / np.array(own.seconds))),
                sentences_per_second=len(own.embeddings) / median,
                tokens_per_second=tokens / median,
                peak_share=flops / median / peak if peak and flops else None,
                peak_mb=None if own.extra_mb is None else base_mb + contender.load_mb + own.extra_mb,
                load_seconds=contender.load_seconds,
                padding_share=contender.padding_share(),
                cosine_min=float(cosines.min()),
                cosine_mean=float(cosines.mean()),
                spearman=spearman[contender.name],
                spearman_difference=spearman[contender.name] - spearman[STOCK],
                seconds=own.seconds,
            )
        )
    return rows


def as_table(rows: Sequence[Row], stopped: Sequence[Stopped] = (), left_out: Mapping[str, str] | None = None) -> str:
    """The rows for a terminal, then those that were stopped, and below them why these and others have no numbers."""
    table = PrettyTable(
        ["", "x stock", "texts/s", "tokens/s", "of peak", "peak MB", "cosine min", "mean", "STS", "difference"],
        align="r",
    )
    table.align[""] = "l"
    table.set_style(TableStyle.PLAIN_COLUMNS)
    table.right_padding_width = 2
    for row in rows:
        table.add_row(
            [
                row.name,
                f"{row.ratio:.2f}",
                f"{row.sentences_per_second:,.0f}",
                f"{row.tokens_per_second:,.0f}",
                "" if row.peak_share is None else f"{row.peak_share:.0%}",
                "" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
                f"{row.cosine_min:.7f}",
                f"{row.cosine_mean:.7f}",
                f"{row.spearman:.2f}",
                f"{row.spearman_difference:+.2f}",
            ]
        )
    for one in stopped:
        table.add_row([one.name, f"{one.ratio:.2f}", f"{one.sentences_per_second:,.0f}", *[""] * 7])
    reasons = [f"{one.name} was stopped: {one}" for one in stopped]
    reasons += [f"{name} is left out: {reason}" for name, reason in (left_out or {}).items()]
    return "\n".join([table.get_string(), *reasons])


def as_dict(
    rows: Sequence[Row],
    stopped: Sequence[Stopped],
    left_out: dict[str, str],
    peaks: dict[str, float | None],
    **facts: object,
) -> dict:
    """The content of benchmark.json."""
    return {
        **facts,
        "matrix_peak_gflops": {name: peak / 1e9 for name, peak in peaks.items() if peak},
        "rows": [asdict(row) for row in rows],
        "stopped": [asdict(one) | {"ratio": one.ratio} for one in stopped],
        "left_out": left_out,
    }


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """A bar for each contender: texts a second, labelled with the ratio to stock."""
    figure = Figure(figsize=(8, 0.55 * len(rows) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    rates = [row.sentences_per_second for row in rows]
    colours = ["#8a8f98" if row.name == STOCK else "#2f6fde" for row in rows]
    bars = axes.barh([row.name for row in rows], rates, color=colours)
    axes.bar_label(bars, [f" {row.sentences_per_second:,.0f}  ({row.ratio:.1f}×)" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max(rates) * 1.2)
    axes.set_xlabel("texts a second (ratio to the library's own encode)")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
