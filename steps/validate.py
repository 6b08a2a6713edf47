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
from dataclasses import asdict

from omegaconf import DictConfig, OmegaConf

from steps.common import inputs, kinds, project, summary
from steps.common.backends.kinds import check_candidates
from steps.common.errors import UserError


def start_server(cfg: DictConfig, folder, stack):
    """Start serving the model, before the heavy imports, so that both import at once; None where it is switched off."""
    from steps.common import serving

    return stack.enter_context(serving.serve(folder, cfg.serving.port)) if cfg.serving.enabled else None


def find_champion(cfg: DictConfig, experiment_id: str):
    """The model that this one would replace: what `champion` names, else the champion of `register`; None if there is none."""
    from steps.common import registry
    from steps.common.found import find_model

    if cfg.champion is None:
        return registry.find_champion(cfg.register) if cfg.register is not None else None
    named = find_model(cfg.champion, preceding="validate", experiment_id=experiment_id)
    return registry.find_compared(named, cfg.register) if cfg.register is not None else named


def register(cfg: DictConfig, run, found, champion, findings, metrics: dict):
    """Make the model a version of `register` and the champion or the challenger; None where nothing is registered."""
    import mlflow

    from steps.common import registry

    if cfg.register is None:
        return None
    commit = run.data.tags.get("mlflow.source.git.commit")
    registration = registry.register(
        found,
        cfg.register,
        passed=not findings.failures,
        regressions=findings.regressed,
        compared=champion,
        tags=registry.version_tags(found, run.info.run_id, findings.verdict, commit, metrics),
    )
    mlflow.set_tag("registered", str(registration))
    return registration


def write(found, champion, findings, run_id: str, metrics: dict, sentences: list[str], registration) -> None:
    """Log the verdict as data and as a page, and the figures of the page."""
    import mlflow

    from steps.common import model as models
    from steps.common import report

    validation = report.as_dict(
        findings.verdict,
        findings,
        metrics,
        run_id=run_id,
        upstream_run_id=found.run_id,
        model=found.describe(),
        lineage=models.lineage(found, run_id),
    ) | {"champion": champion and champion.describe(), "registration": registration and asdict(registration)}
    figures = report.figures(findings, sentences, models.sample_topics())
    mlflow.log_dict(summary.as_json(validation), "validation.json")
    mlflow.log_text(report.as_html(validation, figures), "report.html")
    for figure in figures:
        mlflow.log_figure(figure.draw(), f"figures/{figure.name}.png", save_kwargs={"dpi": 150})


def show(found, findings, run, metrics: dict, registration) -> None:
    """Print what was found, and the summary."""
    from steps.common import report

    for table in (
        report.as_table(findings.checks),
        report.suites_table(findings),
        report.backends_table(findings.trials),
    ):
        print(table)
    summary.show(
        "validate",
        {
            "run_id": run.info.run_id,
            "model_id": found.logged.model_id,
            "validation": findings.verdict,
            "checks": len(findings.checks),
            "failed": len(findings.failures),
            "backends passed": ", ".join(findings.passed_backends) or "none",
            **({"registered": str(registration), "because": registration.reason} if registration else {}),
            **metrics,
        },
        None if findings.failures else project.next_command("encode", run, run_id=run.info.run_id, corpus="sample"),
    )


def main(cfg: DictConfig) -> None:
    conf = OmegaConf.to_object(cfg)
    check_candidates(conf.candidates)
    suites = kinds.read_suites(inputs.find_suites(conf.scored_suites))
    with project.run("validate", *project.resolve(cfg)) as run, contextlib.ExitStack() as stack:
        import mlflow

        from steps.common.found import VALIDATION, download, find_model

        run_id = run.info.run_id
        inputs.check_deployment(cfg.serving, cfg.fresh_environment, cfg.register)
        found = find_model(cfg.run_id, preceding="log_model", experiment_id=run.info.experiment_id)
        champion = find_champion(cfg, run.info.experiment_id)
        folder = download(found)
        server = start_server(cfg, folder, stack)

        from steps.common import gate
        from steps.common import model as models

        project.tag_upstream(found.run_id, found.logged.model_id)
        project.logger.info("validating %s (%s)", found.uri, found.tags.get("hub_id", found.logged.name))
        findings = gate.examine(found, folder, suites, champion, server, conf)

        metrics = findings.metrics()
        models.tag_validation(found, findings.verdict, run_id)
        models.tag_backends(found, [] if findings.failures else findings.trials)
        mlflow.set_tag(VALIDATION, findings.verdict)
        shown = {score.name: score.value for score in findings.scores} | metrics
        registration = register(cfg, run, found, champion, findings, shown)
        write(found, champion, findings, run_id, metrics, conf.sentences, registration)
        models.log_validation(found, metrics, findings.scores)
        show(found, findings, run, shown, registration)
        if findings.failures:
            names = ", ".join(
                f"{check.name} is {check.value} (expected {check.threshold})" for check in findings.failures
            )
            raise UserError(
                f"validation failed, {len(findings.failures)} of {len(findings.checks)} checks: {names}. See report.html of run {run_id}."
            )
        if registration and registration.version is None:
            raise UserError(f"the model passed, but register={cfg.register} did not work: {registration.reason}")


if __name__ == "__main__":
    project.launch("validate", main)
