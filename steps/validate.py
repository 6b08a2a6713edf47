"""validate: decide whether a logged model may be used.

Reads   a run of log_model (run_id) and a suite of graded sentence pairs (conf/suite).
Writes  metrics linked to the model and the suite, validation.json (every check: name, value, threshold,
        passed), report.html, and the tag validation=passed|failed on the LoggedModel; with register=<name> a
        version of it in the model registry, whose alias is champion or challenger.
Fails   when a check fails: exit code 1, after everything has been written.

    mlflow run . -e validate -P run_id=<run of log_model>
    python -m steps.validate run_id=latest suite=file suite.path=pairs.jsonl suite.threshold=80
"""

import contextlib
from dataclasses import asdict

from omegaconf import DictConfig

from steps.common import inputs, project, summary
from steps.common.backends import check_candidates
from steps.common.errors import UserError


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


def try_backends(cfg: DictConfig, found, folder, native, suite, backend, score: float) -> list:
    """Score the backend of the config and every candidate beside torch in float32."""
    from steps.common import model as models
    from steps.common import quality
    from steps.common.backends.check import Refused

    settings, tolerance = project.backend_settings(cfg.backend), cfg.tolerance.spearman
    own = f"{backend.name}/{backend.precision}"
    expected = score
    if own != "torch/f32":
        with contextlib.closing(models.load_backend(found, folder, native, settings.of("torch/f32"))) as exact:
            expected = quality.spearman(suite, exact.encode)
    trials = [quality.judge_backend(own, backend, suite, expected, tolerance)]
    for candidate in cfg.candidates:
        if candidate == own:
            continue
        try:
            with contextlib.closing(models.load_backend(found, folder, native, settings.of(candidate))) as other:
                trials.append(quality.judge_backend(candidate, other, suite, expected, tolerance))
        except Refused as refused:
            trials.append(quality.Trial(candidate, False, refused.reason))
    return trials


def run_checks(cfg: DictConfig, found, folder, suite, server) -> tuple[list, list, dict[str, float]]:
    """Load the model both ways and check all it claims: the checks, the backends tried, the metrics beside them."""
    import mlflow
    import numpy as np

    from steps.common import model as models
    from steps.common import quality

    native, pyfunc = models.load_native(folder), models.load_pyfunc(folder)
    sentences, tolerance = list(cfg.sentences), cfg.tolerance
    reference = models.reference(found)
    dim = pyfunc.metadata.signature.outputs.inputs[0].shape[-1]

    embeddings = pyfunc.predict(sentences)
    print("first 10 entries of each test embedding")
    summary.show_embeddings(sentences, embeddings)

    def encode(texts, **params):
        return pyfunc.predict(list(texts), params=params or None)

    checks = quality.check_form(
        embeddings,
        sentences,
        dim,
        models.normalizes(native),
        unit_tolerance=tolerance.unit_length,
        max_cosine=cfg.max_cosine,
    )
    checks += check_loading(pyfunc, native, reference, dim, tolerance.parity)
    checks += quality.check_invariance(encode, sentences, tolerance.invariance)
    checks += quality.check_refusals(pyfunc.predict, models.bad_inputs(), mlflow.MlflowException)
    # Before anything is timed: the server stops here.
    deployment_checks, deployment_metrics = check_deployment(cfg, found, folder, pyfunc, server)
    checks += deployment_checks
    latency = quality.latencies_ms(pyfunc.predict, sentences, cfg.latency_calls)

    backend = models.load_backend(found, folder, native, project.backend_settings(cfg.backend))
    project.logger.info("scoring %d pairs of %s", len(suite.scores), suite.path)
    score = quality.spearman(suite, backend.encode)
    checks.append(quality.at_least(f"quality/{suite.name}/spearman", score, cfg.suite.threshold))
    trials = try_backends(cfg, found, folder, native, suite, backend, score)

    values = {check.name: check.value for check in checks}
    metrics = {
        "parity/max_abs_diff": values["parity/max_abs_diff"],
        **deployment_metrics,
        "latency/p50_ms": float(np.percentile(latency, 50)),
        "latency/p95_ms": float(np.percentile(latency, 95)),
        "checks/total": len(checks),
        "checks/failed": len(quality.failed(checks)),
    }
    for trial in trials:
        name = f"backends/{trial.backend.replace('/', '-')}"
        metrics |= {f"{name}/spearman": trial.spearman, f"{name}/rows_per_second": trial.rows_per_second}
    return checks, trials, {name: value for name, value in metrics.items() if value is not None}


def register(cfg: DictConfig, run, found, champion, verdict: str, metrics: dict):
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
        regressions=registry.regressions(champion, finite, cfg.tolerance.spearman),
        tags=registry.version_tags(found, run.info.run_id, verdict, commit, finite),
    )
    mlflow.set_tag("registered", str(registration))
    return registration


def main(cfg: DictConfig) -> None:
    check_candidates(cfg.candidates)
    given = cfg.suite
    suite = inputs.open_suite(given.path, given.name, given.sentence1, given.sentence2, given.score)
    with project.run("validate", cfg) as run, contextlib.ExitStack() as stack:
        import mlflow

        from steps.common import registry
        from steps.common.found import download, find_model

        inputs.check_deployment(cfg.serving, cfg.fresh_environment, cfg.register)
        found = find_model(cfg.run_id, preceding="log_model", experiment_id=run.info.experiment_id)
        champion = registry.find_champion(cfg.register) if cfg.register is not None else None
        folder = download(found)
        server = start_server(cfg, folder, stack)

        from steps.common import model as models
        from steps.common import quality, report

        project.tag_upstream(found.run_id, found.logged.model_id)
        project.logger.info("validating %s (%s)", found.uri, found.tags.get("hub_id", found.logged.name))
        checks, trials, metrics = run_checks(cfg, found, folder, suite, server)

        failures = quality.failed(checks)
        verdict = "failed" if failures else "passed"
        models.tag_validation(found, verdict, run.info.run_id)
        models.tag_backends(found, [] if failures else trials)
        mlflow.set_tag(models.VALIDATION, verdict)
        spearman = checks[-1]
        registration = register(cfg, run, found, champion, verdict, {spearman.name: spearman.value} | metrics)
        validation = report.as_dict(
            verdict, run.info.run_id, found.run_id, found.describe(), suite, checks, trials, metrics
        ) | {"registration": registration and asdict(registration)}
        mlflow.log_dict(validation, "validation.json")
        mlflow.log_text(report.as_html(validation), "report.html")
        models.log_validation(found, metrics, suite, spearman.name, spearman.value)
        print(report.as_table(checks))
        print(report.backends_table(trials))
        summary.show(
            "validate",
            {
                "run_id": run.info.run_id,
                "model_id": found.logged.model_id,
                "validation": verdict,
                "checks": len(checks),
                "failed": len(failures),
                spearman.name: spearman.value,
                "backends passed": ", ".join(trial.backend for trial in trials if trial.passed and not failures)
                or "none",
                **({"registered": str(registration), "because": registration.reason} if registration else {}),
                **metrics,
            },
            None if failures else project.next_command("encode", run_id=run.info.run_id, corpus="sample"),
        )
        if failures:
            names = ", ".join(f"{check.name} is {check.value} (expected {check.threshold})" for check in failures)
            raise UserError(
                f"validation failed, {len(failures)} of {len(checks)} checks: {names}. See report.html of run {run.info.run_id}."
            )
        if registration and registration.version is None:
            raise UserError(f"the model passed, but register={cfg.register} did not work: {registration.reason}")


if __name__ == "__main__":
    project.launch("validate", main)
