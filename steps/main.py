"""main: the whole chain, log_model -> validate -> encode, as project runs nested under one.

Takes   every config key of the three steps; each goes to the steps that know it.
Writes  three nested runs, each of which can be repeated alone with the parameters it shows.

    mlflow run . -P model=all-MiniLM-L6-v2 -P corpus=texts.csv
    python -m steps.main model=all-MiniLM-L6-v2 suite.threshold=50
"""

from omegaconf import OmegaConf

from steps.common.corpus import opening
from steps.common.engines.conf import EncodeConf
from steps.common.launch.call import Call
from steps.common.launch.check import check_chain
from steps.common.launch.config import MainConf
from steps.common.launch.paths import check_apart, corpus_place, find_suites, open_output, open_reused
from steps.common.launch.process import launch
from steps.common.quality import kinds
from steps.common.validation.rules import ValidateConf


def open_inputs(call: Call[MainConf]) -> ValidateConf:
    """The config of validate; raises UserError for a corpus, suite or output that encode or validate cannot use."""
    configs = check_chain(call.conf.overrides)
    validate: ValidateConf = OmegaConf.to_object(configs["validate"])  # type: ignore[assignment]
    encode: EncodeConf = OmegaConf.to_object(configs["encode"])  # type: ignore[assignment]
    suites = find_suites(validate.scored_suites)
    check_apart(encode.corpus.path, encode.output)
    opening.open_corpus(corpus_place(encode.corpus.path), encode.corpus)
    open_output(encode.output)
    open_reused(encode.reuse, encode.output)
    # Last: it imports what computes scores.
    kinds.read_suites(suites)
    return validate


if __name__ == "__main__":
    launch("main", open_inputs, manual=__doc__)

# The second half: what computes.

import os
import shlex

import mlflow
from mlflow.exceptions import ExecutionException

from steps.common.errors import UserError
from steps.common.launch import summary
from steps.common.launch.check import share_out
from steps.common.launch.commands import ui_command
from steps.common.launch.overrides import parse
from steps.common.model.find import find_model
from steps.common.project import PROJECT, child_path
from steps.common.tracking import run as runs
from steps.common.tracking.notes import short_name
from steps.common.validation.preflight import check_deployment

# Overrides that are declared parameters of a step in MLproject, so that its run shows them as the user typed them.
DECLARED = {
    "log_model": {"model": "model"},
    "validate": {"suite": "suite"},
    "encode": {"corpus.path": "corpus", "output": "output"},
}


def step_parameters(step: str, overrides: list[str]) -> dict[str, str]:
    """The `-P` parameters that make a step run with these overrides."""
    parameters, rest = {}, []
    for text, override in zip(overrides, parse(overrides)):
        name = DECLARED[step].get(override.key_or_group)
        value = override.value()
        if name and isinstance(value, str) and "${" not in value and not override.is_add() and not override.is_delete():
            parameters[name] = value
        else:
            rest.append(text)
    return parameters | ({"overrides": shlex.join(rest)} if rest else {})


def run_step(step: str, parameters: dict[str, str], experiment_id: str) -> str:
    """Run one step as a nested project run, in this very environment; returns its run ID.

    Raises UserError where the step failed; it has said why.
    """
    try:
        submitted = mlflow.projects.run(
            str(PROJECT),
            entry_point=step,
            parameters=parameters,
            experiment_id=experiment_id,
            env_manager="local",
        )
    except ExecutionException as error:
        raise UserError(f"{step} failed, its own message is above; the steps after it did not run. {error}") from None
    return submitted.run_id


def main(call: Call[MainConf], validate: ValidateConf) -> None:
    check_deployment(validate)
    # `python` in MLproject is then the one that runs now.
    os.environ["PATH"] = child_path()
    with runs.run("main", call.config, call.as_yaml) as run:
        made: dict[str, str] = {}
        previous = ""
        for step, overrides in share_out(call.conf.overrides).items():
            parameters = step_parameters(step, overrides) | ({"run_id": previous} if previous else {})
            previous = run_step(step, parameters, run.info.experiment_id)
            made[f"{step}_run_id"] = previous
        found = find_model(previous, preceding="encode", experiment_id=run.info.experiment_id)
        tags = mlflow.MlflowClient().get_run(previous).data.tags
        mlflow.set_tags({"model_id": tags["model_id"], **made, **run.name_tag(short_name(found))})
        summary.show(
            "main",
            {
                "run_id": run.info.run_id,
                **made,
                "model": f"models:/{tags['model_id']}",
                "embeddings": tags["embeddings"],
            },
            ui_command(run),
        )
