"""Names and descriptions of runs, models and versions, for MLflow's own pages: short, and in Markdown."""

from collections.abc import Sequence

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from steps.common.embeddings.pipeline import Result
from steps.common.model.decision import Validated, describe_comparisons
from steps.common.model.find import FoundModel
from steps.common.quality.scoring import Difference, Score
from steps.common.tracking.datasets import CorpusSource


def short_name(found: FoundModel) -> str:
    """The name of a model without its organisation or folder."""
    return found.name.rstrip("/").rpartition("/")[2]


def of_log_model(found: FoundModel, use: str) -> tuple[str, str]:
    """The name of a run of log_model behind its step, and its description, which the model gets too.

    `use`, here and below: the command that embeds a corpus with the model.
    """
    note = describe_model(found, found.uri, use)
    describe_logged(found, note)
    return short_name(found), note


def of_encode(found: FoundModel, source: CorpusSource, result: Result, *, backend: str, where: str) -> tuple[str, str]:
    """The name of a run of encode behind its step, and its description."""
    rate = f"{result.metrics()['encode/rows_per_second']:,.0f} rows/s"
    lines = {
        "corpus": f"`{source.where}`, {result.rows:,} rows",
        "model": f"{found.name} (`{found.registered or found.uri}`)",
        "computed by": f"{backend}, {rate}",
        "embeddings": f"`{where}`",
    }
    if result.reused is not None:
        lines["reused"] = f"{result.reused_rows:,} rows of `{result.reused.output}`"
    note = "\n".join(f"- {what}: {value}" for what, value in lines.items())
    return f"{source.name} {result.rows:,} rows {short_name(found)}", note


def of_promotion(found: FoundModel, replaced: str, reason: str, uri: str, use: str) -> tuple[str, str]:
    """The name of a run of promote behind its step, and its description."""
    return found.registered or "", f"Champion in place of {replaced}: {reason}\n\n{describe_model(found, uri, use)}"


def of_validation(
    found: FoundModel,
    validated: Validated,
    scores: Sequence[Score],
    differences: dict[str, Difference],
    *,
    uri: str,
    use: str,
) -> str:
    """The description of a validated model, by the URI that it is loaded by: verdict, comparisons, scores, use."""
    verdict = "passed" if validated.failure is None else f"failed, {validated.failure}"
    lines = [
        f"**Validation {verdict}**",
        *(f"{line[:1].upper()}{line[1:]}" for line in describe_comparisons(validated)),
    ]
    said = "\n".join([lines[0], *(f"- {line}" for line in lines[1:])])
    return "\n\n".join([said, f"Scores:\n{list_scores(scores, differences)}", describe_model(found, uri, use)])


def describe_model(found: FoundModel, uri: str, use: str) -> str:
    """What a model is, in a line, and how to load it, by its URI, and use it."""
    tags = found.tags
    facts = {
        "revision": tags.get("revision", "")[:12],
        "licence": tags.get("license", "") or "not declared",
        "dimensions": tags.get("dimension", ""),
        "tokens at most": tags.get("max_seq_length", ""),
    }
    known = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
    uses = [f'mlflow.sentence_transformers.load_model("{uri}")', use]
    return "\n".join([f"**{found.name}**: {known}", "", "```", *uses, "```"])


def list_scores(scores: Sequence[Score], differences: dict[str, Difference]) -> str:
    """Scores with their intervals, and beside the champion's where there is one: a list, since MLflow's pages set the cells
    of a table without a gap."""
    lines = []
    for score in scores:
        shown = f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})" if not score.undefined else "undefined"
        beside = differences.get(score.suite.name)
        if beside is not None:
            shown += f", beside the champion {beside.value:+z.2f} ({beside.low:+z.2f} to {beside.high:+z.2f})"
        lines.append(f"- {score.suite.name}, {score.suite.metric.replace('_', ' ')}: {shown}")
    return "\n".join(lines)


def describe_logged(found: FoundModel, note: str) -> None:
    """Write the description of a LoggedModel."""
    mlflow.MlflowClient().set_logged_model_tags(found.logged.model_id, {MLFLOW_RUN_NOTE: note})
