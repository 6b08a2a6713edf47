"""validate: decide whether a logged model may be used.

Reads   a run of log_model (run_id), suites (conf/suite), and if asked for the model it would replace (champion).
Writes  metrics linked to the model and the suites, validation.json (every check: name, value, threshold, passed),
        report.html, figures/*.png, and the tag validation=passed|failed on the LoggedModel; with register=<name> a
        version of it in the model registry, whose alias is champion or challenger.
Fails   when a check fails: exit code 1, after everything has been written.

    mlflow run . -e validate -P run_id=<run of log_model>
    mlflow run . -e validate -P run_id=<run of log_model> -P suite=[builtin,retrieval,paraphrase]
    python -m steps.validate run_id=latest suite=file suite.path=pairs.jsonl suite.threshold=80
"""

import contextlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import DictConfig

from steps.common import inputs, project, summary
from steps.common.backends import check_candidates
from steps.common.errors import UserError

# Checks that say what is wrong inside a model.
NAMES_CAUSE = ("known/", "unchanged/", "weights/", "tokenizer/")


@dataclass
class Subject:
    """The model that is validated, loaded both ways."""

    found: object
    folder: Path
    native: object
    pyfunc: object


@dataclass
class Findings:
    """What there is to say of a model; `checks` decide."""

    checks: list = field(default_factory=list)
    scores: list = field(default_factory=list)
    # By suite: the score required, the published one, and the difference to the champion.
    thresholds: dict = field(default_factory=dict)
    references: dict = field(default_factory=dict)
    differences: dict = field(default_factory=dict)
    trials: list = field(default_factory=list)
    # Milliseconds of single calls; embeddings of the test sentences and of the sample corpus.
    latency: object = None
    sentences: object = None
    corpus: object = None
    # What the server was measured at.
    deployment: dict = field(default_factory=dict)

    @property
    def regressed(self) -> list[str]:
        """The suites on which the champion is better, and not by noise."""
        from steps.common import scoring

        return scoring.regressions(self.differences)


def check_identity(model: Subject) -> list:
    """The model is what was logged, and what a model with its weights is known to be; and it is not broken inside."""
    from steps.common import identity, sanity
    from steps.common import model as models

    tags, facts = model.found.tags, models.facts(model.native)
    name, known = identity.find_known(tags, facts)
    return [
        *identity.check_unchanged(tags, facts),
        *identity.check_known(name, known, facts),
        *sanity.check_weights(model.native),
        *sanity.check_word_vectors(model.native),
    ]


def check_loading(pyfunc, native, reference: dict, dim: int, tolerance: float) -> list:
    """The model loaded either way gives what the source model gave when it was logged."""
    import numpy as np
    import pandas as pd

    from steps.common import quality

    sentences = reference["sentences"]
    source = np.array(reference["embeddings"], np.float32)
    predicted = pyfunc.predict(sentences)
    one = pyfunc.predict([sentences[0]])
    params = {"truncate_dim": max(1, dim // 2), "normalize_embeddings": True, "batch_size": 2}
    cut = pyfunc.predict(sentences, params=params)
    return [
        quality.at_most(
            "parity/pyfunc_vs_native", quality.max_abs_diff(predicted, native.encode(sentences)), tolerance
        ),
        quality.at_most("parity/native_vs_source", quality.max_abs_diff(native.encode(sentences), source), tolerance),
        quality.at_most("parity/max_abs_diff", quality.max_abs_diff(predicted, source), tolerance),
        quality.at_most("input/str_vs_list", quality.max_abs_diff(pyfunc.predict(sentences[0]), one), tolerance),
        quality.at_most(
            "input/dataframe_vs_list",
            quality.max_abs_diff(pyfunc.predict(pd.DataFrame({"text": sentences})), predicted),
            tolerance,
        ),
        quality.equal("params/truncate_dim", cut.shape[-1], params["truncate_dim"]),
        quality.at_most("params/normalize_embeddings", float(np.abs(np.linalg.norm(cut, axis=1) - 1).max()), 1e-3),
    ]


def start_server(cfg: DictConfig, folder, stack):
    """Start serving the model, before the heavy imports, so that both import at once; None where it is switched off."""
    from steps.common import serving

    return stack.enter_context(serving.serve(folder, cfg.serving.port)) if cfg.serving.enabled else None


def check_deployment(cfg: DictConfig, found, folder, pyfunc, server) -> tuple[list, dict[str, float]]:
    """A server of the model answers as it does, and it predicts in an environment of its own: checks and metrics."""
    from mlflow.pyfunc import scoring_server

    from steps.common import environment, serving
    from steps.common import model as models

    examples, tolerance = models.input_example(folder), cfg.tolerance.parity
    dim = pyfunc.metadata.signature.outputs.inputs[0].shape[-1]
    params = {"truncate_dim": max(1, dim // 2), "normalize_embeddings": True}
    if server is None:
        client = serving.InProcess(scoring_server.init(pyfunc))
        checks, metrics = serving.check_protocol(client, pyfunc.predict, examples, params, tolerance), {}
    else:
        checks, metrics = serving.check_server(
            server,
            pyfunc.predict,
            examples,
            params,
            tolerance=tolerance,
            start_timeout=cfg.serving.start_timeout,
            clients=cfg.serving.clients,
            seconds=cfg.serving.seconds,
        )
    metrics["serving/ok"] = float(all(check.passed for check in checks))
    if cfg.fresh_environment:
        requirements, expected = folder / "requirements.txt", pyfunc.predict(examples)
        checks += environment.check_fresh_environment(found.uri, requirements, examples, expected, tolerance)
    return checks, metrics


def check_behaviour(cfg: DictConfig, model: Subject, findings: Findings) -> list:
    """Form, invariance and robustness of what the model answers."""
    import mlflow

    from steps.common import model as models
    from steps.common import quality, sanity

    sentences, tolerance, pyfunc = list(cfg.sentences), cfg.tolerance, model.pyfunc
    embeddings = findings.sentences = pyfunc.predict(sentences)
    print("first 10 entries of each test embedding")
    summary.show_embeddings(sentences, embeddings)

    def encode(texts, **params):
        return pyfunc.predict(list(texts), params=params or None)

    dim = pyfunc.metadata.signature.outputs.inputs[0].shape[-1]
    checks = quality.check_form(
        embeddings,
        sentences,
        dim,
        models.normalizes(model.native),
        unit_tolerance=tolerance.unit_length,
        max_cosine=cfg.max_cosine,
    )
    checks += sanity.check_output(embeddings, cfg.max_cosine)
    checks += quality.check_invariance(encode, sentences, tolerance.invariance)
    checks += sanity.check_white_space(encode, model.native, sentences, tolerance.invariance)
    checks += sanity.check_hostile(encode, sentences[0], tolerance.invariance)
    checks += quality.check_refusals(pyfunc.predict, models.bad_inputs(), mlflow.MlflowException)
    findings.latency = quality.latencies_ms(pyfunc.predict, sentences, cfg.latency_calls)
    return checks


def find_champion(cfg: DictConfig, experiment_id: str):
    """The model that this one would replace: what `champion` names, else the champion of `register`; None if there is none."""
    from steps.common import registry
    from steps.common.found import find_model

    if cfg.champion is None:
        return registry.find_champion(cfg.register) if cfg.register is not None else None
    named = find_model(cfg.champion, preceding="validate", experiment_id=experiment_id)
    return registry.find_compared(named, cfg.register) if cfg.register is not None else named


def score_all(cfg: DictConfig, suites, encode_as) -> tuple[list, list]:
    """A model's scores on all suites, by one backend, and the vectors they are made from."""
    from steps.common import scoring

    bootstrap = scoring.Bootstrap(**cfg.bootstrap)
    scores, embedded = [], []
    for suite in suites:
        project.logger.info("scoring %d %s of %s", len(suite), suite.unit, suite.path)
        embedded.append(scoring.embed(suite, encode_as))
        scores.append(scoring.score(suite, embedded[-1], bootstrap))
    return scores, embedded


def score_champion(cfg: DictConfig, champion, suites) -> list:
    """The champion's scores on the same suites, by torch in float32."""
    from steps.common import model as models

    project.logger.info("scoring the champion %s on the same suites", champion.uri)
    folder = models.download(champion)
    native = models.load_native(folder)
    settings = project.backend_settings(cfg.backend).of("torch/f32")
    with contextlib.ExitStack() as stack:
        return score_all(cfg, suites, models.load_by_role(stack, champion, folder, native, settings))[0]


def check_quality(cfg: DictConfig, model: Subject, suites, champion, findings: Findings) -> list:
    """What the suites demand, and what became of each backend."""
    from steps.common import identity, quality, sanity, scoring
    from steps.common import model as models

    specs = project.suite_specs(cfg)
    with contextlib.ExitStack() as stack:
        own = models.load_by_role(stack, model.found, model.folder, model.native, project.backend_settings(cfg.backend))
        findings.scores, embedded = score_all(cfg, suites, own)
        if champion is not None:
            others = score_champion(cfg, champion, suites)
            findings.differences = scoring.compare_all(findings.scores, others, scoring.Bootstrap(**cfg.bootstrap))
        findings.trials = try_backends(cfg, model, suites, own, embedded)
        findings.corpus = own(None)(models.sample_topics()[0])
    name, _ = identity.find_known(model.found.tags, models.facts(model.native))
    checks = []
    for spec, score in zip(specs, findings.scores):
        findings.thresholds[score.suite.name] = spec.threshold
        if name in spec.references:
            findings.references[score.suite.name] = spec.references[name]
        reference = findings.references.get(score.suite.name)
        checks += scoring.checks(score, spec, reference, findings.differences.get(score.suite.name))
    sample = suites[0].sample(cfg.candidate_pairs)

    def score_of(other) -> float:
        return scoring.spearman(sample, lambda texts: other.encode(list(texts), show_progress_bar=False))

    # A tokenizer that does not belong to the weights makes them look untrained.
    if any(check.name.startswith(NAMES_CAUSE) for check in quality.failed(findings.checks)):
        return checks
    return checks + sanity.check_trained(findings.scores[0].value, specs[0].threshold, score_of, model.native)


def try_backends(cfg: DictConfig, model: Subject, suites, own, embedded: list) -> list:
    """The backend of the config and every candidate beside torch in float32.

    Args:
        own: the trials.ByRole of the config. embedded: what it made of the suites.
    """
    from steps.common import model as models
    from steps.common import scoring, trials
    from steps.common.backends.check import Refused

    settings = project.backend_settings(cfg.backend)
    samples = [suite.sample(cfg.candidate_pairs) for suite in suites]
    # The rate of whole sentences, the same ones whatever the suites are.
    pace = trials.Pace(models.sample_topics()[0], list(cfg.sentences), cfg.latency_calls)
    tolerance, found = cfg.tolerance.spearman, []

    def load(name: str, stack):
        return models.load_by_role(stack, model.found, model.folder, model.native, settings.of(name))

    with contextlib.ExitStack() as stack:
        exact = own if own.key == "torch/f32" else load("torch/f32", stack)
        expected = embedded if exact is own else [scoring.embed(sample, exact) for sample in samples]
        for name in dict.fromkeys(["torch/f32", own.key, *cfg.candidates]):
            try:
                with contextlib.ExitStack() as inner:
                    encode_as = {"torch/f32": exact, own.key: own}.get(name) or load(name, inner)
                    same = encode_as is exact
                    found.append(trials.judge(name, encode_as, samples, expected, tolerance, pace, same))
            except Refused as refused:
                found.append(trials.Trial(name, False, refused.reason))
    return found


def run_checks(cfg: DictConfig, found, folder, suites, champion, server) -> Findings:
    """Load the model both ways and check all it claims."""
    from steps.common import model as models
    from steps.common import quality

    reference = models.reference(found)
    model = Subject(found, folder, models.load_native(folder), models.load_pyfunc(folder))
    findings, tolerance = Findings(), cfg.tolerance.parity
    dim = model.pyfunc.metadata.signature.outputs.inputs[0].shape[-1]

    def serving() -> list:
        checks, findings.deployment = check_deployment(cfg, found, folder, model.pyfunc, server)
        return checks

    groups = {
        "identity": lambda: check_identity(model),
        "parity": lambda: check_loading(model.pyfunc, model.native, reference, dim, tolerance),
        # Before anything is timed: the server stops here.
        "serving": serving,
        "predict": lambda: check_behaviour(cfg, model, findings),
        "quality": lambda: check_quality(cfg, model, suites, champion, findings),
    }
    for name, check in groups.items():
        findings.checks += quality.guarded(name, check)
    return findings


def as_metrics(findings: Findings) -> dict[str, float]:
    """What is logged beside the scores, by name."""
    import numpy as np

    from steps.common import quality

    values = {check.name: check.value for check in findings.checks}
    metrics = {
        "parity/max_abs_diff": values.get("parity/max_abs_diff"),
        # A server that could not be asked at all has said nothing of itself.
        "serving/ok": 0.0,
        **findings.deployment,
        "checks/total": len(findings.checks),
        "checks/failed": len(quality.failed(findings.checks)),
    }
    if findings.latency is not None:
        metrics |= {f"latency/p{share}_ms": float(np.percentile(findings.latency, share)) for share in (50, 95)}
    for trial in findings.trials:
        metrics |= trial.metrics()
    return {name: value for name, value in metrics.items() if value is not None}


def write(
    found, findings: Findings, run_id: str, verdict: str, metrics: dict, sentences: list[str], registration
) -> None:
    """Log the verdict as data and as a page, and the figures of the page."""
    import mlflow

    from steps.common import model as models
    from steps.common import report

    validation = report.as_dict(
        verdict,
        findings,
        metrics,
        run_id=run_id,
        upstream_run_id=found.run_id,
        model=found.describe(),
        lineage=models.lineage(found),
    ) | {"registration": registration and asdict(registration)}
    figures = report.figures(findings, sentences, models.sample_topics())
    mlflow.log_dict(validation, "validation.json")
    mlflow.log_text(report.as_html(validation, figures), "report.html")
    for figure in figures:
        mlflow.log_figure(figure.draw(), f"figures/{figure.name}.png", save_kwargs={"dpi": 150})


def register(cfg: DictConfig, run, found, champion, findings: Findings, verdict: str, metrics: dict):
    """Make the model a version of `register` and the champion or the challenger; None where nothing is registered."""
    import mlflow

    from steps.common import registry

    if cfg.register is None:
        return None
    finite = {name: value for name, value in metrics.items() if value is not None}
    commit = run.data.tags.get("mlflow.source.git.commit")
    registration = registry.register(
        found,
        cfg.register,
        passed=verdict == "passed",
        regressions=findings.regressed,
        compared=champion,
        tags=registry.version_tags(found, run.info.run_id, verdict, commit, finite),
    )
    mlflow.set_tag("registered", str(registration))
    return registration


def main(cfg: DictConfig) -> None:
    check_candidates(cfg.candidates)
    suites = inputs.open_suites(project.suite_specs(cfg))
    with project.run("validate", cfg) as run, contextlib.ExitStack() as stack:
        import mlflow

        from steps.common.found import download, find_model

        inputs.check_deployment(cfg.serving, cfg.fresh_environment, cfg.register)
        found = find_model(cfg.run_id, preceding="log_model", experiment_id=run.info.experiment_id)
        champion = find_champion(cfg, run.info.experiment_id)
        folder = download(found)
        server = start_server(cfg, folder, stack)

        from steps.common import model as models
        from steps.common import quality, report

        project.tag_upstream(found.run_id, found.logged.model_id)
        project.logger.info("validating %s (%s)", found.uri, found.tags.get("hub_id", found.logged.name))
        findings = run_checks(cfg, found, folder, suites, champion, server)

        failures = quality.failed(findings.checks)
        verdict = "failed" if failures else "passed"
        metrics = as_metrics(findings)
        models.tag_validation(found, verdict, run.info.run_id)
        models.tag_backends(found, [] if failures else findings.trials)
        mlflow.set_tag(models.VALIDATION, verdict)
        scores = {score.name: score.value for score in findings.scores}
        registration = register(cfg, run, found, champion, findings, verdict, scores | metrics)
        write(found, findings, run.info.run_id, verdict, metrics, list(cfg.sentences), registration)
        models.log_validation(found, metrics, findings.scores)
        print(report.as_table(findings.checks))
        print(report.suites_table(findings))
        print(report.backends_table(findings.trials))
        passed = [trial.backend for trial in findings.trials if trial.passed and not failures]
        summary.show(
            "validate",
            {
                "run_id": run.info.run_id,
                "model_id": found.logged.model_id,
                "validation": verdict,
                "checks": len(findings.checks),
                "failed": len(failures),
                **scores,
                "backends passed": ", ".join(passed) or "none",
                **({"registered": str(registration), "because": registration.reason} if registration else {}),
                **metrics,
            },
            None if failures else project.next_command("encode", run_id=run.info.run_id, corpus="sample"),
        )
        if failures:
            names = ", ".join(f"{check.name} is {check.value} (expected {check.threshold})" for check in failures)
            raise UserError(
                f"validation failed, {len(failures)} of {len(findings.checks)} checks: {names}. See report.html of run {run.info.run_id}."
            )
        if registration and registration.version is None:
            raise UserError(f"the model passed, but register={cfg.register} did not work: {registration.reason}")


if __name__ == "__main__":
    project.launch("validate", main)
