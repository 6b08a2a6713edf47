"""outputs: what encode has made with a model.

Reads   the runs of encode in every experiment that used the model of a run or of a registered version.
Writes  a table of them, newest first: run, when it ended, rows, backend, whether the output is whole, and where it is;
        the same as outputs.json.

    mlflow run . -e outputs -P model=models:/sentence-embeddings/3
    python -m steps.outputs model=<run of any step>
"""

from steps.common.launch.call import Call
from steps.common.launch.config import OutputsConf
from steps.common.launch.process import launch


def open_inputs(call: Call[OutputsConf]) -> None:
    """There is nothing to open."""


if __name__ == "__main__":
    launch("outputs", open_inputs, manual=__doc__)

# The second half: what computes.

from dataclasses import asdict

import mlflow

from steps.common.launch import summary
from steps.common.launch.commands import next_command
from steps.common.model.find import find_model
from steps.common.tracking import run as runs
from steps.common.tracking.outputs import EncodedOutput, find_outputs
from steps.common.tracking.run import tag_upstream


def show(outputs: list[EncodedOutput]) -> None:
    """Print a line for each output."""
    lines = []
    for one in outputs:
        rows = "-" if one.rows is None else f"{one.rows:,}"
        lines.append([one.run_id, one.finished or "-", rows, one.backend or "-", one.state, one.place or "-"])
    summary.show_table(["run", "ended", "rows", "backend", "output", "where"], lines)


def main(call: Call[OutputsConf], _: None) -> None:
    with runs.run("outputs", call.config, call.as_yaml) as run:
        found = find_model(call.conf.run_id, preceding="validate", experiment_id=run.info.experiment_id)
        model_id = found.logged.model_id
        tag_upstream(found.run_id, model_id)
        outputs = find_outputs(model_id)
        mlflow.log_dict({"model": found.describe(), "outputs": [asdict(one) for one in outputs]}, "outputs.json")
        if outputs:
            show(outputs)
        else:
            print(f"encode has made nothing with model {model_id} yet.")
        whole = [one.place for one in outputs if one.state == "whole" and one.place]
        results = {
            "run_id": run.info.run_id,
            "model_id": model_id,
            "model": found.name,
        }
        if found.registered:
            results["registered_version"] = found.registered
        next_line = next_command("verify", run, output=whole[0]) if whole else None
        summary.show("outputs", {**results, "outputs": len(outputs), "whole": len(whole)}, next_line)
