"""The figures of a validation as SVG: on the page, and as files of the run.

On the page a figure takes the colours of its text from the page, so that it is readable in light and dark. A file has white paper.
"""

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas

from steps.common.quality.scoring import Difference, Score
from steps.common.quality.trials import Trial
from steps.common.vectors import unit_length

matplotlib.use("Agg")

# Inches: a phone shows this width without shrinking the letters.
WIDTH = 4.9

# Placeholders that become colours of the page in SVG; no palette has them.
INK, FAINT = "#010203", "#040506"

PAGE = {INK: "var(--ink)", FAINT: "var(--line)"}

PAPER = {INK: "#1b1f24", FAINT: "#d5d9de"}

# What matplotlib says of the size of an SVG.
SIZE = r'width="([\d.]+)pt" height="([\d.]+)pt"'

# Colours that can be told apart on white and on black.
BLUE, GREEN, RED, GREY, AMBER = "#4a86e8", "#2ea36a", "#e0524d", "#8a8f98", "#e09b2d"

TOPICS = (
    "#4a86e8", "#e0524d", "#2ea36a", "#e09b2d", "#9a6fe0", "#22a6b3", "#d6629f", "#8a8f98", "#a3b52c", "#b5773c",
    "#5f6fd8", "#e37f5a",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A figure by name, what it shows in words, and what draws it with an ink and a faint colour."""

    name: str
    title: str
    caption: str
    make: Callable[[str, str], Canvas]

    @functools.cached_property
    def _drawn(self) -> str:
        """From <svg on, with placeholders for colours."""
        stream = io.StringIO()
        canvas = self.make(INK, FAINT)
        # Else savefig draws it once more for that.
        if (layout := canvas.get_layout_engine()) is not None:
            layout.execute(canvas)
        canvas.set_layout_engine("none")
        # Text stays text, in the font of the page; the salt makes ids the same in every run and distinct in a page.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        drawn = stream.getvalue()
        drawn = drawn[drawn.index("<svg") :]
        drawn = re.sub(r' xmlns:(?:xlink|cc|dc|rdf)="[^"]*"', "", drawn.replace("xlink:href", "href"))
        drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
        drawn = re.sub(r"<(/?)(?:ns\d+:)", r"<\1", drawn)
        return re.sub(
            r"font: (?:(\d[\w.]*) )?[^;\"]*", lambda m: f"font: {m.group(1) or '10px'} system-ui, sans-serif", drawn
        )

    def on_page(self) -> str:
        """For the page, as wide as its column."""
        fluid = f'width="100%" role="img" aria-label="{self.title}"'
        return re.sub(SIZE, lambda m: fluid, _coloured(self._drawn, PAGE), count=1)

    def on_paper(self) -> str:
        """For a file, half as large again as in print."""

        def enlarge(size: re.Match[str]) -> str:
            width, height = (1.5 * float(number) for number in size.groups())
            return f'width="{width:g}" height="{height:g}" style="background:#fff"'

        return re.sub(SIZE, enlarge, _coloured(self._drawn, PAPER), count=1)


def _coloured(drawn: str, colours: dict[str, str]) -> str:
    for placeholder, colour in colours.items():
        drawn = drawn.replace(placeholder, colour)
    return drawn


def _canvas(height: float, ink: str, faint: str) -> tuple[Canvas, Axes]:
    """A canvas with one pair of axes in these colours."""
    figure = Canvas(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    _style(axes, ink, faint)
    return figure, axes


def _style(axes: Axes, ink: str, faint: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(faint)
    axes.tick_params(colors=ink, labelsize=9, length=0)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0)


def _legend(figure: Canvas, ink: str) -> None:
    """Below the axes, where it hides nothing."""
    figure.legend(
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=ink,
        handletextpad=0.3,
        columnspacing=1,
    )


def suites(
    scores: Sequence[Score], thresholds: dict[str, float], published: dict[str, float], champion: dict[str, float]
) -> Figure:
    """Every score with its interval, beside what was required, published, and reached by the champion."""

    def make(ink: str, faint: str) -> Canvas:
        figure, axes = _canvas(0.55 * len(scores) + 1.1, ink, faint)
        axes.grid(axis="x", color=faint, linewidth=0.6)
        for row, score in enumerate(scores):
            name = score.suite.name
            if not score.undefined:
                axes.plot(
                    [score.low, score.high], [row, row], color=BLUE, linewidth=5, alpha=0.35, solid_capstyle="round"
                )
                axes.plot(
                    score.value, row, "o", color=BLUE, markersize=7, label="score, interval" if row == 0 else None
                )
            marks = (
                (thresholds, "|", RED, "threshold"),
                (published, "D", AMBER, "published"),
                (champion, "s", GREEN, "champion"),
            )
            for values, mark, colour, label in marks:
                if name in values:
                    first = name == next(iter(values))
                    axes.plot(
                        values[name], row, mark, color=colour, markersize=13 if mark == "|" else 5,
                        markeredgewidth=2 if mark == "|" else 1, label=label if first else None,
                    )  # fmt: skip
        axes.set_yticks(range(len(scores)), [score.suite.name for score in scores])
        axes.set_ylim(len(scores) - 0.5, -0.5)
        axes.set_xlabel("points")
        _legend(figure, ink)
        return figure

    return Figure(
        "suites",
        "Scores and their intervals",
        "The bar is the interval of the score; the red line is the score that was required.",
        make,
    )


def agreement(score: Score) -> Figure:
    """What a suite shows of its pairs or queries, such as how their cosines go with what people said."""
    suite = score.suite

    def make(ink: str, faint: str) -> Canvas:
        figure, axes = _canvas(3.3, ink, faint)
        axes.grid(color=faint, linewidth=0.6)
        suite.draw(axes, score.units, (BLUE, GREY))
        if axes.get_legend_handles_labels()[1]:
            _legend(figure, ink)
        return figure

    return Figure(f"agreement-{suite.name.replace(' ', '-')}", f"{suite.name}: {suite.figure}", suite.caption, make)


def heatmap(embeddings: np.ndarray, sentences: Sequence[str]) -> Figure:
    """Cosine of every two example sentences."""

    def make(ink: str, faint: str) -> Canvas:
        figure, axes = _canvas(3.2, ink, faint)
        unit = unit_length(np.asarray(embeddings, np.float64))
        cosines = unit @ unit.T
        # From transparent to blue, over the colour of the page.
        axes.imshow(
            cosines, cmap=LinearSegmentedColormap.from_list("shade", [f"{BLUE}00", BLUE]), vmin=0, vmax=1, aspect="auto"
        )
        for (row, column), value in np.ndenumerate(cosines):
            colour = "white" if value > 0.7 else ink
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        numbers = [str(i + 1) for i in range(len(sentences))]
        labels = [f"{i + 1} {_cut(text, 22)}" for i, text in enumerate(sentences)]
        axes.set_xticks(range(len(numbers)), numbers)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.spines[["left", "bottom"]].set_visible(False)
        return figure

    return Figure("sentences", "Example sentences", "Cosine of every two of them: the bluer, the more alike.", make)


def topic_map(embeddings: np.ndarray, topics: Sequence[str]) -> Figure:
    """The sample corpus in the plane of its two main directions (PCA), by topic."""

    def make(ink: str, faint: str) -> Canvas:
        figure, axes = _canvas(4.4, ink, faint)
        points, share = principal_plane(embeddings)
        for number, topic in enumerate(dict.fromkeys(sorted(topics))):
            own = np.array([other == topic for other in topics])
            x, y = points[own].T
            axes.scatter(x, y, s=16, color=TOPICS[number % len(TOPICS)], linewidths=0, alpha=0.85, label=topic)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set(xlabel=f"first direction ({share[0]:.0%} of the variance)", ylabel=f"second ({share[1]:.0%})")
        _legend(figure, ink)
        return figure

    return Figure(
        "corpus",
        "The sample corpus by topic",
        "If the model tells topics apart, texts of one topic are close together.",
        make,
    )


def principal_plane(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of each row along the two directions of most variance, float64 [n, 2], and their shares of it."""
    centred = np.asarray(embeddings, np.float64)
    centred = centred - centred.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(centred), 2))
    width = min(2, len(sizes))
    points[:, :width] = left[:, :width] * sizes[:width]
    share = np.zeros(2)
    share[:width] = sizes[:width] ** 2 / max((sizes**2).sum(), np.finfo(float).tiny)
    return points, share


def backends(trials: Sequence[Trial]) -> Figure:
    """Sentences a second of every backend that ran, and beside them the points it gains or loses, with their interval."""
    ran = [trial for trial in trials if trial.rows_per_second]

    def make(ink: str, faint: str) -> Canvas:
        figure = Canvas(figsize=(WIDTH, 0.45 * len(ran) + 0.9), layout="constrained")
        speed, points = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        rates = [trial.rows_per_second or 0.0 for trial in ran]
        colours = [GREEN if trial.passed else GREY for trial in ran]
        for axes in (speed, points):
            _style(axes, ink, faint)
            axes.grid(axis="x", color=faint, linewidth=0.6)
        bars = speed.barh([trial.backend for trial in ran], rates, color=colours, height=0.62)
        speed.bar_label(bars, [f"{rate:,.0f}" for rate in rates], fontsize=8, color=ink, padding=4)
        speed.set_xlim(0, max(rates) * 1.3)
        speed.invert_yaxis()
        speed.set_xlabel("sentences a second")
        points.axvline(0, color=GREY, linewidth=1)
        for row, (trial, colour) in enumerate(zip(ran, colours)):
            if trial.difference is not None and trial.low is not None and trial.high is not None:
                points.plot(
                    [trial.low, trial.high], [row, row], color=colour, linewidth=5, alpha=0.5, solid_capstyle="round"
                )
                points.plot(trial.difference, row, "o", color=colour, markersize=6)
        points.set_xlabel("points beside torch/f32")
        return figure

    return Figure(
        "backends",
        "Backends: speed, and points gained or lost",
        "Green: passed. Grey: not shown to be as good as torch/f32, and encode does not choose it. The bars at the right are the intervals of the difference.",
        make,
    )


def latency(milliseconds: np.ndarray) -> Figure:
    """Every single call by how long it took, and the share of calls that took no longer.

    Args:
        milliseconds: of each call of the loaded model, float [n].
    """

    def make(ink: str, faint: str) -> Canvas:
        figure, axes = _canvas(2.5, ink, faint)
        axes.grid(color=faint, linewidth=0.6)
        ordered = np.sort(milliseconds)
        axes.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered) * 100, color=BLUE, where="post")
        # A mark for each call: two humps are two clusters of marks, which bars would merge.
        axes.plot(ordered, np.zeros(len(ordered)), "|", color=BLUE, markersize=9, alpha=0.6, clip_on=False)
        for share, colour in ((50, AMBER), (95, RED)):
            value = float(np.percentile(milliseconds, share))
            axes.plot([value, value], [0, share], color=colour, linewidth=1.5)
            side = "right" if share == 50 else "left"
            axes.text(value, 102, f" p{share} {value:.1f} ", fontsize=8, color=ink, va="bottom", ha=side)
        axes.set_ylim(0, 101)
        axes.set(xlabel="milliseconds of one call with one sentence", ylabel="% of calls within")
        return figure

    return Figure(
        "latency",
        "Latency of the loaded model (torch f32)",
        f"{len(milliseconds)} calls with one sentence each, one after another, in this process. Each mark is a call.",
        make,
    )


def champion_scores(scores: Sequence[Score], differences: dict[str, Difference]) -> dict[str, float]:
    """What the champion reached, by suite."""
    found = {
        score.suite.name: score.value - differences[score.suite.name].value
        for score in scores
        if score.suite.name in differences
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
