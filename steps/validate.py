"""validate: decide whether a logged model may be used.

Reads   a run of log_model (run_id), suites (all that ship, or suite=), and if asked for the model it would replace (champion).
Writes  metrics linked to the model and the suites, validation.json (every check: name, value, threshold, passed),
        report.html, figures/*.svg, and the tag validation=passed|failed on the LoggedModel; with register=<name> a
        version of it in the model registry: champion, challenger, or without an alias where the gate failed.
Fails   when a check fails: exit code 1, after everything has been written.

    mlflow run . -e validate -P run_id=<run of log_model>
    mlflow run . -e validate -P run_id=<run of log_model> -P suite=[builtin,retrieval,paraphrase]
    python -m steps.validate run_id=latest suite=file suite.path=pairs.jsonl suite.threshold=80
"""

from dataclasses import dataclass

from steps.common.backends.kinds import check_candidates
from steps.common.corpus import opening
from steps.common.corpus.corpus import Corpus
from steps.common.launch.call import Call
from steps.common.launch.paths import corpus_place, find_suites
from steps.common.launch.process import launch
from steps.common.quality import kinds
from steps.common.quality.suite import Suite
from steps.common.validation.rules import ValidateConf


@dataclass(frozen=True)
class Opened:
    """The suites, and the user's corpus; None where that is the sample."""

    suites: list[Suite]
    corpus: Corpus | None


def open_inputs(call: Call[ValidateConf]) -> Opened:
    """The suites and the corpus.

    Raises:
        UserError: one cannot be read, or a candidate does not exist.
    """
    check_candidates(call.conf.candidates)
    asked = call.conf.corpus
    corpus = None if asked.path == "sample" else opening.open_corpus(corpus_place(asked.path), asked)
    return Opened(kinds.read_suites(find_suites(call.conf.scored_suites)), corpus)


if __name__ == "__main__":
    launch("validate", open_inputs, manual=__doc__)

# The second half: what computes.

import contextlib
import logging
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import numpy as np

from steps.common.corpus.sample import pick_texts, sample_topics
from steps.common.errors import UserError
from steps.common.launch import summary
from steps.common.launch.commands import next_command
from steps.common.model import registry
from steps.common.model.decision import Validated
from steps.common.model.find import VALIDATION, FoundModel, download, find_model
from steps.common.model.indexes import find_index, open_index
from steps.common.model.log import log_bridge
from steps.common.model.reference import check_same, digest
from steps.common.model.registry import Registration
from steps.common.quality import indexed
from steps.common.quality.indexed import Indexed
from steps.common.search.index import Index
from steps.common.tracking import notes
from steps.common.tracking import run as runs
from steps.common.tracking.datasets import log_validation
from steps.common.tracking.outputs import find_outputs
from steps.common.tracking.run import COMMIT, StepRun, tag_upstream
from steps.common.tracking.verdict import lineage, log_units, tag_backends, tag_validation
from steps.common.validation import gate, report
from steps.common.validation.checks import describe_failures
from steps.common.validation.compatibility import NEAREST
from steps.common.validation.findings import Findings
from steps.common.validation.preflight import check_deployment
from steps.common.validation.server import serve
from steps.common.validation.unseen import describe_moved

logger = logging.getLogger("steps")

REPORT = "report.html"


def find_rivals(conf: ValidateConf, experiment_id: str) -> dict[str, FoundModel]:
    """The models to compare with: the champion, which this one would replace, and the baseline where that is another."""
    baseline = None
    if conf.baseline is not None:
        baseline = find_model(conf.baseline, preceding="validate", experiment_id=experiment_id)
    elif conf.register is not None:
        baseline = registry.find_baseline(conf.register)
    champion = find_champion(conf, experiment_id)
    if champion and baseline and champion.logged.model_id == baseline.logged.model_id:
        baseline = None
    rivals = {"champion": champion, "baseline": baseline}
    return {against: rival for against, rival in rivals.items() if rival is not None}


def find_champion(conf: ValidateConf, experiment_id: str) -> FoundModel | None:
    """The model that this one would replace: what `champion` names, else the champion of `register`."""
    if conf.champion is None:
        return registry.find_champion(conf.register) if conf.register is not None else None
    named = find_model(conf.champion, preceding="validate", experiment_id=experiment_id)
    return registry.find_compared(named, conf.register) if conf.register is not None else named


def open_indexes(
    conf: ValidateConf, suites: list[Suite], found: FoundModel, folder: Path, experiment_id: str
) -> list[Suite]:
    """The suites, those of queries to an index with that; raises UserError where another model made its vectors."""
    ready = []
    for spec, suite in zip(conf.scored_suites, suites):
        if isinstance(suite, Indexed):
            uri = find_index(spec.index or "", experiment_id=experiment_id)
            files, made = open_index(uri)
            check_same(made, digest(folder), found.tags, found.uri)
            suite = suite.on(indexed.Opened(Index(files), made.truncate_dim, made.normalize), uri)
        ready.append(suite)
    return ready


def pick_compared(conf: ValidateConf, corpus: Corpus | None) -> list[str] | None:
    """The texts on which vectors are compared; None for the sample corpus.

    Raises:
        UserError: too few texts to have neighbours.
    """
    if corpus is None:
        return None
    texts = list(dict.fromkeys(pick_texts(corpus, conf.compatibility.rows)))
    if len(texts) <= NEAREST:
        raise UserError(
            f"corpus.path={conf.corpus.path} holds {len(texts)} different texts; expected more than {NEAREST}, since the {NEAREST} nearest of each are compared. Give a larger corpus, or leave corpus.path out."
        )
    return texts


def count_reindexed(conf: ValidateConf, corpus: Corpus | None, champion: FoundModel | None) -> int | None:
    """The rows to embed again if the champion is replaced: as the config says, those of its outputs, or those of the corpus."""
    if conf.compatibility.reindex_rows is not None or champion is None:
        return conf.compatibility.reindex_rows
    outputs = find_outputs(champion.logged.model_id)
    encoded = sum({one.place: one.rows or 0 for one in outputs if one.state == "whole"}.values())
    return encoded or (corpus.rows if corpus is not None else None)


@dataclass(frozen=True)
class Outcome:
    """A validation that is over: its run, its model, what was found, and what that says of the other models."""

    run: StepRun
    found: FoundModel
    findings: Findings
    validated: Validated

    def metrics(self) -> dict[str, float]:
        """The scores, and what is logged beside them, by name."""
        return {score.name: score.value for score in self.findings.scores} | self.findings.metrics()

    def note(self, uri: str) -> str:
        """The description of the model, by the URI that it is loaded by."""
        findings = self.findings
        use = next_command("encode", self.run, run_id=uri, corpus="texts.csv")
        return notes.of_validation(self.found, self.validated, findings.scores, findings.differences, uri=uri, use=use)


def register(name: str, outcome: Outcome) -> Registration:
    """Make the model a version of `name`, with the alias that the findings decide."""
    run, found, findings = outcome.run, outcome.found, outcome.findings
    tags = registry.version_tags(found, run.info.run_id, findings.verdict, run.data.tags.get(COMMIT), outcome.metrics())
    if findings.compatibility is not None:
        tags["compatibility"] = findings.compatibility.verdict
    registration = registry.register(found, name, outcome.validated, tags=tags, describe=outcome.note)
    mlflow.set_tag("registered", str(registration))
    return registration


def describe(outcome: Outcome, registration: Registration | None) -> None:
    """Name the run by the verdict and the first score, and describe the run and the model."""
    found, findings, note = outcome.found, outcome.findings, outcome.note(outcome.found.uri)
    notes.describe_logged(found, note)
    registered = f"Registered as {registration}: {registration.reason}.\n\n" if registration else ""
    first = [score for score in findings.scores[:1] if not score.undefined]
    shown = "".join(f" {score.suite.name} {score.value:.1f}" for score in first)
    outcome.run.describe(f"{findings.verdict} {notes.short_name(found)}{shown}", registered + note)


def write(outcome: Outcome, registration: Registration | None, sentences: list[str]) -> None:
    """Log the verdict as data and as a page, and the figures of the page."""
    found, findings, run_id = outcome.found, outcome.findings, outcome.run.info.run_id
    rivals = {against: rival.describe() for against, rival in outcome.validated.compared.items()}
    validation = report.as_dict(
        findings,
        rivals,
        run_id=run_id,
        upstream_run_id=found.run_id,
        model=found.describe(),
        lineage=lineage(found, run_id),
        champion=rivals.get("champion"),
        registration=registration and asdict(registration),
    )
    figures = report.figures(findings, sentences, sample_topics())
    mlflow.log_dict(summary.as_json(validation), "validation.json")
    mlflow.log_text(report.as_html(validation, figures), REPORT)
    for figure in figures:
        mlflow.log_text(figure.on_paper(), f"figures/{figure.name}.svg")


def show(outcome: Outcome, registration: Registration | None, sentences: list[str]) -> None:
    """Print the findings, and the summary."""
    run, findings = outcome.run, outcome.findings
    if findings.sentences is not None and np.ndim(findings.sentences) == 2:
        print("first 10 entries of each test embedding")
        summary.show_embeddings(sentences, findings.sentences)
    failed = len(findings.failures)
    print(f"{len(findings.checks) - failed} checks passed{f', {failed} failed:' if failed else ''}")
    for names, rows in (
        report.failures_table(findings),
        report.suites_table(findings),
        report.backends_table(findings.trials),
    ):
        if rows:
            print()
            summary.show_table(names, rows)
    summary.show(
        "validate",
        {
            "run_id": run.info.run_id,
            "model_id": outcome.found.logged.model_id,
            "validation": findings.verdict,
            "report": f"runs:/{run.info.run_id}/{REPORT}",
            "checks": len(findings.checks),
            "failed": len(findings.failures),
            **report.summarize(findings),
            "backends passed": ", ".join(findings.passed_backends) or "none",
            **(registration_lines(registration, run) if registration else {}),
            **outcome.metrics(),
        },
        None if findings.failures else next_command("encode", run, run_id=run.info.run_id, corpus="sample"),
        in_json=("checks/total", "checks/failed"),
    )


def registration_lines(registration: Registration, run: StepRun) -> dict[str, str]:
    """The lines of the summary on the registered version; of a proposal, the command that confirms it."""
    lines = {"registered": str(registration), "because": registration.reason}
    if registration.proposed:
        named = {"name": registration.name, "version": str(registration.version)}
        lines["to confirm"] = next_command("promote", run, **named, reason="confirmed as proposed")
    return lines


def check_verdict(findings: Findings, registration: Registration | None, run_id: str) -> None:
    """Raises UserError where the model failed, or could not be registered."""
    if findings.failures:
        raise UserError(f"validation failed, {describe_failures(findings.checks)}. See runs:/{run_id}/{REPORT}.")
    if registration and registration.version is None:
        raise UserError(f"the model passed, but register={registration.name} did not work: {registration.reason}")


def main(call: Call[ValidateConf], opened: Opened) -> None:
    conf, texts = call.conf, pick_compared(call.conf, opened.corpus)
    with runs.run("validate", call.config, call.as_yaml, measured=True) as run, contextlib.ExitStack() as stack:
        run_id, experiment_id = run.info.run_id, run.info.experiment_id
        check_deployment(conf)
        found = find_model(conf.run_id, preceding="log_model", experiment_id=experiment_id)
        rivals = find_rivals(conf, experiment_id)
        rows = count_reindexed(conf, opened.corpus, rivals.get("champion"))
        conf = replace(conf, compatibility=replace(conf.compatibility, reindex_rows=rows))
        folder = download(found)
        suites = open_indexes(conf, opened.suites, found, folder, experiment_id)
        # The server loads the model while this process does.
        server = stack.enter_context(serve(folder, conf.serving.port)) if conf.serving.enabled else None
        tag_upstream(found.run_id, found.logged.model_id)
        logger.info("validating %s (%s)", found.uri, found.name)
        findings = gate.examine(found, folder, suites, rules=conf, rivals=rivals, server=server, texts=texts)

        tag_validation(found, findings.verdict, run_id)
        tag_backends(found, [] if findings.failures else findings.trials)
        mlflow.set_tag(VALIDATION, findings.verdict)
        failure = describe_failures(findings.checks) if findings.failures else None
        objections = (describe_moved(findings.moved),) if findings.moved else ()
        promote = conf.comparison.promote
        validated = Validated(failure, rivals, findings.comparisons, objections=objections, promote=promote)
        outcome = Outcome(run, found, findings, validated)
        registration = register(conf.register, outcome) if conf.register is not None else None
        describe(outcome, registration)
        if "champion" in rivals and findings.bridge is not None:
            # Before the metrics: mlflow attaches those to every model that a run logs later.
            mlflow.set_tag("bridge", log_bridge(findings.bridge, rivals["champion"], found).model_uri)
        write(outcome, registration, conf.sentences)
        log_validation(found, findings.metrics(), findings.scores)
        log_units(findings.scores, findings.scored_by)
        show(outcome, registration, conf.sentences)
        check_verdict(findings, registration, run_id)
