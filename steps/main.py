"""main: the whole chain, log_model -> validate -> encode, as project runs nested under one.

Takes   every config key of the three steps; each goes to the steps that know it.
Writes  three nested runs, each of which can be repeated alone with the parameters it shows.

    mlflow run . -P model=all-MiniLM-L6-v2 -P corpus=texts.csv
    python -m steps.main model=all-MiniLM-L6-v2 suite.threshold=50
"""

import os
import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from steps.common import arguments, inputs, kinds, project, summary
from steps.common.errors import UserError

# Overrides that are declared parameters of a step in MLproject, so that its run shows them as the user typed them.
DECLARED = {
    "log_model": {"model": "model"},
    "validate": {"suite": "suite"},
    "encode": {"corpus.path": "corpus", "output": "output"},
}


def step_parameters(step: str, overrides: list[str]) -> dict[str, str]:
    """The `-P` parameters that make a step run with these overrides."""
    parameters, rest = {}, []
    for text, override in zip(overrides, arguments.parse(overrides)):
        name = DECLARED[step].get(override.key_or_group)
        value = override.value()
        if name and isinstance(value, str) and "${" not in value and not override.is_add() and not override.is_delete():
            parameters[name] = value
        else:
            rest.append(text)
    return parameters | ({"overrides": shlex.join(rest)} if rest else {})


def run_step(step: str, parameters: dict[str, str], experiment_id: str) -> str:
    """Run one step as a nested project run, in this very environment; returns its run ID.

    Raises:
        UserError: the step failed; it has said why.
    """
    import mlflow
    from mlflow.exceptions import ExecutionException

    try:
        submitted = mlflow.projects.run(
            str(project.PROJECT),
            entry_point=step,
            parameters=parameters,
            experiment_id=experiment_id,
            run_name=step,
            env_manager="local",
        )
    except ExecutionException as error:
        raise UserError(f"{step} failed, its own message is above; the steps after it did not run. {error}") from None
    return submitted.run_id


def check_inputs(overrides: list[str]) -> None:
    """Find in seconds what encode or validate would find after the steps before them.

    Raises:
        UserError: a corpus, suite, output, port or registry that cannot be used.
    """
    forwarded = arguments.check("main", overrides)[0].overrides
    configs = arguments.check_chain(list(forwarded))
    validate = OmegaConf.to_object(configs["validate"])
    kinds.read_suites(inputs.find_suites(validate.scored_suites))
    inputs.check_apart(configs["encode"].corpus.path, configs["encode"].output)
    project.open_corpus(configs["encode"].corpus)
    inputs.open_output(configs["encode"].output)
    inputs.check_deployment(validate.serving, validate.fresh_environment, validate.register)


def main(cfg: DictConfig) -> None:
    shares = arguments.share_out(list(cfg.overrides))
    # `python` in MLproject is the one that runs now, whether or not its environment was activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with project.run("main", *project.resolve(cfg)) as run:
        import mlflow

        made: dict[str, str] = {}
        previous = None
        for step, overrides in shares.items():
            parameters = step_parameters(step, overrides) | ({"run_id": previous} if previous else {})
            previous = run_step(step, parameters, run.info.experiment_id)
            made[f"{step}_run_id"] = previous
        tags = mlflow.MlflowClient().get_run(previous).data.tags
        mlflow.set_tags({"model_id": tags["model_id"], **made})
        summary.show(
            "main",
            {
                "run_id": run.info.run_id,
                **made,
                "model": f"models:/{tags['model_id']}",
                "embeddings": tags["embeddings"],
            },
            project.ui_command(run),
        )


if __name__ == "__main__":
    project.launch("main", main, before=check_inputs)
