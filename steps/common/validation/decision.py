"""What a validation decides, for whoever reads only one line of it."""

from dataclasses import dataclass

from steps.common.quality.comparison import Comparison, Result
from steps.common.validation.gate import Findings


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


# From the result that stands in the way to the one that does not.
ORDER = (Result.WORSE, Result.UNDECIDED, Result.EQUAL, Result.BETTER)

READINGS = {
    Result.BETTER: "better than the {against}",
    Result.EQUAL: "no worse than the {against}",
    Result.WORSE: "worse than the {against}",
    Result.UNDECIDED: "not shown to be as good as the {against}",
}


def decide(findings: Findings) -> Decision:
    """The decision that the findings of a validation lead to."""
    found = sorted(findings.comparisons.items(), key=lambda item: ORDER.index(item[1].result))
    result = found[0][1].result if found else None
    passed = [trial for trial in findings.trials if trial.passed and not findings.failures]
    fastest = max(passed, key=lambda trial: trial.rows_per_second or 0.0, default=None)
    measured = findings.compatibility
    return Decision(
        may_replace=findings.may_replace,
        comparison=result,
        compatibility=str(measured.verdict) if measured else None,
        backend=fastest.backend if fastest else None,
        reindex_hours=measured.reindex_hours if measured else None,
        why=_explain(findings, found),
    )


def _explain(findings: Findings, found: list[tuple[str, Comparison]]) -> str:
    reasons = []
    if findings.failures:
        reasons.append(f"{len(findings.failures)} of {len(findings.checks)} checks failed")
    merged: list[tuple[str, Comparison]] = []
    for against, comparison in found:
        # The champion often is the baseline too: the same numbers are said once.
        if merged and merged[-1][1] == comparison:
            against = f"{merged.pop()[0]} and the {against}"
        merged.append((against, comparison))
    reasons += [describe(against, comparison) for against, comparison in merged]
    return "; ".join(reasons) or "there is no champion to compare with"


def describe(against: str, comparison: Comparison) -> str:
    """What a comparison shows, in words: `no worse than the champion: -0.12 points (-0.30 to +0.05), margin 0.5`."""
    return (
        f"{READINGS[comparison.result].format(against=against)}: {comparison.describe()}, margin {comparison.margin:g}"
    )
