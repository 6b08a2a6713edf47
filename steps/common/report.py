"""The verdict of validate: as data, as a table for the terminal, as a page. Knows neither MLflow nor Hydra."""

from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from prettytable import PrettyTable, TableStyle

from steps.common.quality import Check, Suite, Trial

TEMPLATE = Path(__file__).with_name("report.html.j2")


def as_dict(
    verdict: str,
    run_id: str,
    upstream_run_id: str,
    model: dict,
    suite: Suite,
    checks: list[Check],
    trials: list[Trial],
    metrics: dict,
) -> dict:
    """The content of validation.json."""
    return {
        "validation": verdict,
        "run_id": run_id,
        "upstream_run_id": upstream_run_id,
        "model": model,
        "suite": {"name": suite.name, "path": str(suite.path), "pairs": len(suite.scores)},
        "metrics": metrics,
        "checks": [asdict(check) for check in checks],
        "backends": [asdict(trial) for trial in trials],
    }


def as_table(checks: list[Check]) -> str:
    """Every check on a line, for a terminal."""
    table = PrettyTable(["", "check", "value", "expected"], align="l")
    table.set_style(TableStyle.PLAIN_COLUMNS)
    table.add_rows(
        [["pass" if check.passed else "FAIL", check.name, _show(check.value), check.threshold] for check in checks]
    )
    return table.get_string()


def backends_table(trials: list[Trial]) -> str:
    """Every backend that was tried on a line, for a terminal."""
    table = PrettyTable(["", "backend", "spearman", "rows/s", "beside torch f32"], align="l")
    table.set_style(TableStyle.PLAIN_COLUMNS)
    table.add_rows(
        [
            ["pass" if t.passed else "no", t.backend, _show(t.spearman), _show(t.rows_per_second), t.reason]
            for t in trials
        ]
    )
    return table.get_string()


def as_html(validation: dict) -> str:
    """validation.json as one self-contained page, verdict first."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE.name).render(**validation, show=_show)


def _show(value) -> str:
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
