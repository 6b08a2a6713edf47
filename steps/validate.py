"""validate: decide whether a logged model may be used.

Reads   a run of log_model (run_id) and a suite of graded sentence pairs (conf/suite).
Writes  metrics linked to the model and the suite, validation.json (every check: name, value, threshold,
        passed), report.html, and the tag validation=passed|failed on the LoggedModel.
Fails   when a check fails: exit code 1, after everything has been written.

    mlflow run . -e validate -P run_id=<run of log_model>
    python -m steps.validate run_id=latest suite=file suite.path=pairs.jsonl suite.threshold=80
"""

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


def check_serving(pyfunc, folder, tolerance: float) -> list:
    """The scoring server's own code answers the input example as the model does, and refuses what it cannot read."""
    import asyncio

    import httpx
    import numpy as np
    from mlflow.pyfunc import scoring_server

    from steps.common import model as models
    from steps.common import quality

    async def post(*payloads: dict) -> list[httpx.Response]:
        transport = httpx.ASGITransport(scoring_server.init(pyfunc), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://model", timeout=None) as client:
            return [await client.post("/invocations", json=payload) for payload in payloads]

    examples = models.input_example(folder)
    answer, refusal = asyncio.run(post({"inputs": examples}, {"sentences": examples}))
    predictions = np.array(answer.json().get("predictions", []), np.float32)
    return [
        quality.equal("serving/status", answer.status_code, 200),
        quality.at_most("serving/max_abs_diff", quality.max_abs_diff(predictions, pyfunc.predict(examples)), tolerance),
        quality.equal("serving/refuses_unknown_payload", refusal.status_code, 400),
    ]


def try_backends(cfg: DictConfig, found, folder, native, suite, backend, score: float) -> list:
    """Score the backend of the config and every candidate beside torch in float32."""
    import contextlib

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


def run_checks(cfg: DictConfig, found, suite) -> tuple[list, list, dict[str, float]]:
    """Load the model both ways and check all it claims: the checks, the backends tried, the metrics beside them."""
    import mlflow
    import numpy as np

    from steps.common import model as models
    from steps.common import quality

    folder = models.download(found)
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
    checks += check_serving(pyfunc, folder, tolerance.parity)
    latency = quality.latencies_ms(pyfunc.predict, sentences, cfg.latency_calls)

    backend = models.load_backend(found, folder, native, project.backend_settings(cfg.backend))
    project.logger.info("scoring %d pairs of %s", len(suite.scores), suite.path)
    score = quality.spearman(suite, backend.encode)
    checks.append(quality.at_least(f"quality/{suite.name}/spearman", score, cfg.suite.threshold))
    trials = try_backends(cfg, found, folder, native, suite, backend, score)

    values = {check.name: check.value for check in checks}
    metrics = {
        "parity/max_abs_diff": values["parity/max_abs_diff"],
        "serving/ok": float(all(check.passed for check in checks if check.name.startswith("serving/"))),
        "latency/p50_ms": float(np.percentile(latency, 50)),
        "latency/p95_ms": float(np.percentile(latency, 95)),
        "checks/total": len(checks),
        "checks/failed": len(quality.failed(checks)),
    }
    for trial in trials:
        name = f"backends/{trial.backend.replace('/', '-')}"
        metrics |= {f"{name}/spearman": trial.spearman, f"{name}/rows_per_second": trial.rows_per_second}
    return checks, trials, {name: value for name, value in metrics.items() if value is not None}


def main(cfg: DictConfig) -> None:
    check_candidates(cfg.candidates)
    given = cfg.suite
    suite = inputs.open_suite(given.path, given.name, given.sentence1, given.sentence2, given.score)
    with project.run("validate", cfg) as run:
        import mlflow

        from steps.common import model as models
        from steps.common import quality, report

        found = models.find_model(cfg.run_id, preceding="log_model", experiment_id=run.info.experiment_id)
        project.tag_upstream(found.run_id, found.logged.model_id)
        project.logger.info("validating %s (%s)", found.uri, found.tags.get("hub_id", found.logged.name))
        checks, trials, metrics = run_checks(cfg, found, suite)

        failures = quality.failed(checks)
        verdict = "failed" if failures else "passed"
        validation = report.as_dict(
            verdict, run.info.run_id, found.run_id, found.describe(), suite, checks, trials, metrics
        )
        mlflow.log_dict(validation, "validation.json")
        mlflow.log_text(report.as_html(validation), "report.html")
        models.tag_validation(found, verdict, run.info.run_id)
        models.tag_backends(found, [] if failures else trials)
        mlflow.set_tag(models.VALIDATION, verdict)
        spearman = checks[-1]
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
                **metrics,
            },
            None if failures else project.next_command("encode", run_id=run.info.run_id, corpus="sample"),
        )
        if failures:
            names = ", ".join(f"{check.name} is {check.value} (expected {check.threshold})" for check in failures)
            raise UserError(
                f"validation failed, {len(failures)} of {len(checks)} checks: {names}. See report.html of run {run.info.run_id}."
            )


if __name__ == "__main__":
    project.launch("validate", main)
