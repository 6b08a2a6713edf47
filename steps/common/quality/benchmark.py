"""Time contenders in turns on the same texts, and say how near they come to what the machine can do."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from prettytable import PrettyTable, TableStyle

from steps.common.backends.machine import peak_mb, reset_peak, rss_mb
from steps.common.backends.timing import timed
from steps.common.vectors import pair_cosine

Encode = Callable[[list[str]], np.ndarray]

# What everything is compared with.
STOCK = "stock"

# A contender is not stopped for fewer seconds: it may compile something, or wait for another process.
GRACE = 1.0


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


@dataclass
class Contender:
    """Something that embeds texts, what it took to load, and what `warm_up` and `run_rounds` have measured."""

    name: str
    precision: str
    encode: Encode
    load_seconds: float
    load_mb: float
    padding_share: Callable[[], float | None] = lambda: None
    # Of each round: its seconds and, where the system can tell, the most memory beyond what was held before it.
    seconds: list[float] = field(default_factory=list)
    extra_mb: list[float] = field(default_factory=list)
    embeddings: np.ndarray | None = None
    # Set once it was too slow: it embeds no more texts, and has no results.
    stopped: Stopped | None = None

    def run(self, texts: list[str]) -> None:
        """Embed the texts of one round."""
        before, can_peak = rss_mb(), reset_peak()
        start = time.perf_counter()
        self.embeddings = self.encode(texts)
        self.seconds.append(time.perf_counter() - start)
        if can_peak:
            self.extra_mb.append(peak_mb() - before)

    def stop_if_slow(self, texts: int, seconds: float, stock_seconds: float, stop_below: float) -> None:
        if _too_slow(seconds, stock_seconds, stop_below):
            self.stopped = Stopped(self.name, self.precision, texts, seconds, stock_seconds)


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
    score: float
    score_difference: float
    seconds: list[float]


def _too_slow(seconds: float, stock_seconds: float, stop_below: float) -> bool:
    """Whether a contender takes longer than the stock one divided by `stop_below`."""
    return seconds > GRACE and stock_seconds < stop_below * seconds


def running(contenders: Sequence[Contender]) -> list[Contender]:
    """Those that were not stopped; the stock one never is."""
    return [one for one in contenders if one.stopped is None]


def warm_up(contenders: Sequence[Contender], texts: list[str], stop_below: float) -> None:
    """Embed up to a tenth of the texts, not counted, a few first and then more: a slow contender is stopped early.

    The stock contender is the first.
    """
    most = max(2, len(texts) // 10)
    sizes = [size for size in (2 * 4**power for power in range(20)) if size < most] + [most]
    for size in sizes:
        encode_some = {one.name: functools.partial(one.encode, texts[:size]) for one in contenders}
        stock_seconds = timed(encode_some[STOCK])
        for one in running(contenders)[1:]:
            if _too_slow(timed(encode_some[one.name]), stock_seconds, stop_below):
                # Once more: the first time it may have compiled something.
                one.stop_if_slow(min(size, len(texts)), timed(encode_some[one.name]), stock_seconds, stop_below)


def run_rounds(
    contenders: Sequence[Contender], texts: list[str], repeats: int, on_round: Callable[[int], None], stop_below: float
) -> None:
    """Every contender embeds all the texts once a round, one after the other; the stock one is the first."""
    for number in range(repeats):
        on_round(number)
        for one in running(contenders):
            one.run(texts)
        for one in running(contenders):
            one.stop_if_slow(len(texts), one.seconds[-1], contenders[0].seconds[-1], stop_below)


def summarize(
    contenders: Sequence[Contender],
    scores: dict[str, float],
    *,
    tokens: int,
    flops: float | None,
    peaks: dict[str, float | None],
    base_mb: float,
) -> list[Row]:
    """One row for each contender that ran, the stock one first.

    Args:
        scores: of each on the suite.
        tokens: tokens of all texts as the model reads them, without padding.
        flops: floating point operations of the matrix products they need; None where that is unknown.
        peaks: operations a second of the machine, by precision.
        base_mb: memory of the process with the model loaded, before any contender was.
    """
    stock = contenders[0]
    rows = []
    for one in running(contenders):
        assert one.embeddings is not None and stock.embeddings is not None
        median = float(np.median(one.seconds))
        cosines = pair_cosine(one.embeddings, stock.embeddings)
        peak = peaks.get(one.precision)
        rows.append(
            Row(
                name=one.name,
                precision=one.precision,
                # By round: a machine that is slower for a while slows all contenders of a round.
                ratio=float(np.median(np.array(stock.seconds) / np.array(one.seconds))),
                sentences_per_second=len(one.embeddings) / median,
                tokens_per_second=tokens / median,
                peak_share=flops / median / peak if peak and flops else None,
                peak_mb=base_mb + one.load_mb + max(one.extra_mb) if one.extra_mb else None,
                load_seconds=one.load_seconds,
                padding_share=one.padding_share(),
                cosine_min=float(cosines.min()),
                cosine_mean=float(cosines.mean()),
                score=scores[one.name],
                score_difference=scores[one.name] - scores[STOCK],
                seconds=one.seconds,
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
                f"{row.score:.2f}",
                f"{row.score_difference:+z.2f}",
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
