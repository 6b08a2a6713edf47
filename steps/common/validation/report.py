"""The verdict of validate: as data, as tables for the terminal, as a page."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeGuard

import numpy as np
from jinja2 import Environment, FileSystemLoader

from steps.common.errors import clip
from steps.common.quality.comparison import Comparison
from steps.common.quality.scoring import Difference, Score
from steps.common.quality.trials import Trial
from steps.common.validation import figures as draw
from steps.common.validation.decision import decide
from steps.common.validation.figures import Figure
from steps.common.validation.findings import Findings
from steps.common.vectors import finite

# The names of its columns, and its rows.
Table = tuple[list[str], list[list[str]]]

TEMPLATE = Path(__file__).with_name("report.html.j2")

# Titles of groups of checks, by the part of their names before the slash; other groups show that part.
GROUPS = {
    "quality": "Quality: the suites",
    "comparison": "Comparison: no large loss to the champion or the baseline",
    "known": "Known: the facts these weights are known for",
    "unchanged": "Unchanged: the model equals the logged one",
    "weights": "Weights: finite and trained",
    "tokenizer": "Tokenizer: belongs to the weights",
    "predict": "Prediction: shape and type",
    "embeddings": "Embeddings: finite, of length 1, different",
    "invariance": "Invariance: batch, order, padding, white space",
    "robust": "Robustness: any text gets a vector",
    "parity": "Parity: pyfunc, native and source model agree",
    "input": "Input: text, list, DataFrame",
    "params": "Params: those of the signature take effect",
    "schema": "Schema: wrong inputs are refused",
    "serving": "Serving",
}


def as_dict(findings: Findings, rivals: Mapping[str, dict[str, str]], **facts: object) -> dict:
    """The content of validation.json.

    Args:
        rivals: the models compared with, described, by their part: champion, baseline.
    """
    return {
        "validation": findings.verdict,
        **facts,
        "decision": asdict(decide(findings)),
        "facts": [asdict(change) for change in findings.fact_changes],
        "comparisons": [_comparison(against, found, rivals) for against, found in findings.comparisons.items()],
        "compatibility": asdict(findings.compatibility) if findings.compatibility else None,
        "moved": [asdict(one) for one in findings.moved],
        "suites": [_suite(score, findings) for score in findings.scores],
        "regressed": findings.regressed,
        "disagreements": _worst(findings, lambda score: score.disagreements, lambda found: -abs(found.apart)),
        "misses": _worst(findings, lambda score: score.misses, lambda found: found.unit),
        "by_length": [asdict(group) for score in findings.scores for group in score.by_length],
        "metrics": findings.metrics(),
        "checks": [asdict(check) for check in findings.checks],
        "backends": [asdict(trial) for trial in findings.trials],
    }


def _comparison(against: str, found: Comparison, rivals: Mapping[str, dict[str, str]]) -> dict:
    return {
        "against": against,
        "model": rivals.get(against),
        "result": found.result,
        **_difference(found.difference),
        "reading": found.describe(f"the {against}"),
        "margin": found.margin,
        "needed": found.needed,
        "suites": [{"name": name, **_difference(difference)} for name, difference in found.suites.items()],
    }


def _worst(findings: Findings, pick: Callable[[Score], list], key: Callable) -> list[dict]:
    """The ten worst examples of all suites."""
    return [asdict(found) for found in sorted((one for score in findings.scores for one in pick(score)), key=key)[:10]]


def _suite(score: Score, findings: Findings) -> dict:
    name, suite = score.suite.name, score.suite
    difference = findings.differences.get(name)
    return {
        "name": name,
        "kind": suite.kind,
        "path": str(suite.path),
        "sha256": suite.digest,
        "size": len(suite),
        "unit": suite.unit,
        "metric": suite.metric,
        "score": finite(score.value),
        "interval": [finite(score.low), finite(score.high)],
        "undefined": score.undefined,
        "threshold": findings.thresholds.get(name),
        "within_noise": _is_within_noise(score, findings.thresholds.get(name)),
        "published": findings.references.get(name),
        "champion": _difference(difference) if difference else None,
        "metrics": score.metrics,
    }


def _difference(difference: Difference) -> dict:
    return {
        "difference": finite(difference.value),
        "interval": [finite(difference.low), finite(difference.high)],
        "reading": read_difference(difference),
    }


def _is_within_noise(score: Score, threshold: float | None) -> bool:
    """Whether the threshold lies inside the interval of the score, so that other pairs might have said otherwise."""
    return threshold is not None and bool(score.low <= threshold <= score.high)


def read_difference(difference: Difference) -> str:
    """A difference to the champion, in words."""
    if not math.isfinite(difference.value):
        return "undefined"
    return "within noise" if difference.is_noise else "better" if difference.value > 0 else "worse"


def summarize(findings: Findings) -> dict[str, str]:
    """The decision for the summary on the screen; nothing where there was no model to compare with."""
    if not findings.comparisons:
        return {}
    decision = decide(findings)
    answer = {True: "yes", False: "no", None: "undecided"}[decision.may_replace]
    changed = [
        f"{one.fact} {clip(one.here or 'none', 40)} ({one.against}: {clip(one.there or 'none', 40)})"
        for one in findings.fact_changes
    ]
    return {
        **({"facts that differ": ", ".join(changed)} if changed else {}),
        "may replace the champion": f"{answer}, {decision.why}",
        **({"compatibility": str(findings.compatibility)} if findings.compatibility else {}),
    }


def failures_table(findings: Findings) -> Table:
    """Every check that failed, for a terminal."""
    rows = [["FAIL", check.name, show(check.value), check.threshold] for check in findings.failures]
    return ["", "check", "value", "expected"], rows


def suites_table(findings: Findings) -> Table:
    """Every suite, for a terminal; a column that no suite has a value in is left out."""
    rows = []
    for suite in (_suite(score, findings) for score in findings.scores):
        low, high = suite["interval"]
        champion = suite["champion"]
        rows.append(
            [
                suite["name"],
                suite["metric"],
                suite["undefined"] or f"{suite['score']:.2f}",
                "" if low is None else f"{low:.2f} to {high:.2f}",
                "" if suite["published"] is None else f"{suite['published']:.2f}",
                "" if champion is None else f"{show(champion['difference'])} ({champion['reading']})",
            ]
        )
    names = ["suite", "measure", "score", "interval", "published", "compared with champion"]
    used = [i for i, column in enumerate(zip(*rows)) if any(column)]
    return [names[i] for i in used], [[row[i] for i in used] for row in rows]


def backends_table(trials: list[Trial]) -> Table:
    """Every backend that was tried, for a terminal."""
    rows = [
        [
            "pass" if trial.passed else "no",
            trial.backend,
            *(show(value) for value in (trial.score, trial.cosine_min, trial.rows_per_second, trial.p50_ms)),
            trial.reason,
        ]
        for trial in trials
    ]
    return ["", "backend", "score", "lowest cosine", "rows/s", "p50 ms", "compared with torch f32"], rows


def figures(findings: Findings, sentences: list[str], sample: tuple[list[str], list[str]]) -> list[Figure]:
    """The figures there is data for. `sample`: texts of the sample corpus, and their topics."""
    found = []
    if findings.scores:
        champion = draw.champion_scores(findings.scores, findings.differences)
        found.append(draw.suites(findings.scores, findings.thresholds, findings.references, champion))
        found += [draw.agreement(score) for score in findings.scores if not score.undefined]
    if _is_drawable(findings.sentences):
        found.append(draw.heatmap(findings.sentences, sentences))
    if _is_drawable(findings.corpus):
        found.append(draw.topic_map(findings.corpus, sample[1]))
    if any(trial.rows_per_second for trial in findings.trials):
        found.append(draw.backends(findings.trials))
    if findings.latency is not None:
        found.append(draw.latency(np.asarray(findings.latency)))
    return found


def _is_drawable(embeddings: np.ndarray | None) -> TypeGuard[np.ndarray]:
    return embeddings is not None and np.ndim(embeddings) == 2 and bool(np.isfinite(embeddings).all())


def as_html(validation: dict, drawn: list[Figure]) -> str:
    """validation.json as one self-contained page, verdict first, with its figures inline."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    groups: dict[str, list] = {}
    for check in validation["checks"]:
        groups.setdefault(check["name"].partition("/")[0], []).append(check)
    order = [*(name for name in GROUPS if name in groups), *(name for name in groups if name not in GROUPS)]
    content = validation | {"facts": _merge(validation["facts"])}
    return environment.get_template(TEMPLATE.name).render(
        **content,
        rivals=_merge(validation["comparisons"]),
        groups=[(GROUPS.get(name, name), groups[name]) for name in order],
        figures=[{"name": f.name, "title": f.title, "caption": f.caption, "svg": f.on_page()} for f in drawn],
        show=show,
    )


def _merge(rows: list[dict]) -> list[dict]:
    """Rows that differ only in whom they are `against` as one, since the champion often is the baseline too."""
    found: dict[str, dict] = {}
    for row in rows:
        key = json.dumps({name: value for name, value in row.items() if name not in ("against", "reading")})
        first = found.get(key)
        found[key] = row | ({"against": f"{first['against']} and {row['against']}"} if first else {})
    return list(found.values())


def show(value: object) -> str:
    """A value of a check, a number with six digits."""
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
