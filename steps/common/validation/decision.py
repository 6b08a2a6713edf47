"""What a validation decides, for whoever reads only one line of it."""

from dataclasses import dataclass

from steps.common.quality.comparison import Comparison, Result, find_worst
from steps.common.validation.findings import Findings
from steps.common.validation.unseen import describe_moved


@dataclass(frozen=True)
class Decision:
    """Whether a model may replace the champion, what that costs, and which backend encode would take."""

    # None: not decided.
    may_replace: bool | None
    # The less favourable of the results against champion and baseline; None without either.
    comparison: Result | None
    compatibility: str | None
    # The fastest that passed; backend=auto takes it where it can run.
    backend: str | None
    reindex_hours: float | None
    # In words.
    why: str


def decide(findings: Findings) -> Decision:
    """The decision that the findings of a validation lead to."""
    passed = [trial for trial in findings.trials if trial.passed and not findings.failures]
    fastest = max(passed, key=lambda trial: trial.rows_per_second or 0.0, default=None)
    measured = findings.compatibility
    return Decision(
        may_replace=findings.may_replace,
        comparison=find_worst(findings.comparisons),
        compatibility=str(measured.verdict) if measured else None,
        backend=fastest.backend if fastest else None,
        reindex_hours=measured.reindex_hours if measured else None,
        why=_explain(findings),
    )


def _explain(findings: Findings) -> str:
    merged: list[tuple[str, Comparison]] = []
    for against, found in findings.comparisons.items():
        # The champion often is the baseline too: the same numbers are said once.
        if merged and merged[-1][1] == found:
            merged[-1] = (f"{merged[-1][0]} and the {against}", found)
        else:
            merged.append((f"the {against}", found))
    reasons = [found.describe(other) for other, found in merged]
    if findings.moved:
        reasons.append(describe_moved(findings.moved))
    if findings.failures:
        reasons.insert(0, f"{len(findings.failures)} of {len(findings.checks)} checks failed")
    return "; ".join(reasons) or "there is no champion to compare with"
