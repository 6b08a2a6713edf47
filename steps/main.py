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

from omegaconf import DictConfig

from steps.common import arguments, project, summary
from steps.common.errors import UserError


def run_step(step: str, overrides: list[str], run_id: str | None, experiment_id: str) -> str:
    """Run one step as a nested project run, in this very environment; returns its run ID.

    Raises:
        UserError: the step failed; it has said why.
    """
    import mlflow
    from mlflow.exceptions import ExecutionException

    parameters = {"overrides": shlex.join(overrides)} | ({"run_id": run_id} if run_id else {})
    submitted = mlflow.projects.run(
        str(project.PROJECT),
        entry_point=step,
        parameters=parameters,
        experiment_id=experiment_id,
        run_name=step,
        env_manager="local",
        synchronous=False,
    )
    try:
        finished = submitted.wait()
    except BaseException:
        submitted.cancel()
        raise
    if not finished:
        raise UserError(f"{step} failed (run {submitted.run_id}); its own message is above. The steps after it did not run.")
    return submitted.run_id


def main(cfg: DictConfig) -> None:
    shares = arguments.share_out(list(cfg.overrides))
    # `python` in MLproject is the one that runs now, whether or not its environment was activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with project.run("main", cfg) as run:
        import mlflow

        made: dict[str, str] = {}
        previous = None
        for step, overrides in shares.items():
            previous = run_step(step, overrides, previous, run.info.experiment_id)
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
            project.ui_command(),
        )


if __name__ == "__main__":
    project.launch("main", main)
