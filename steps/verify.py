"""verify: check embeddings against their manifest.

Reads   an output of encode: a folder, a URI or runs:/<run>/embeddings.
Shows   whose embeddings they are: model, registered version, backend, prompt, commit.
Checks  that every file of the manifest is there, byte for byte, that the parts hold every row of the corpus once and in
        order, that each says it was made by that model, that no other part lies beside them, and that .manifest.json, from
        which encode repairs the manifest, still says the same.
Fails   when one of it is not so: exit code 1, with every finding.

    mlflow run . -e verify -P output=embeddings
    python -m steps.verify output=runs:/<run of encode>/embeddings
"""

from steps.common.launch.call import Call
from steps.common.launch.config import VerifyConf
from steps.common.launch.paths import existing_output
from steps.common.launch.process import launch


def open_inputs(call: Call[VerifyConf]) -> str:
    """The path or URI of the output; raises UserError for a local path that does not exist."""
    return existing_output(call.conf.output)


if __name__ == "__main__":
    launch("verify", open_inputs, manual=__doc__)

# The second half: what computes.

import tempfile
import time
from pathlib import Path

import mlflow

from steps.common.embeddings import verify
from steps.common.errors import UserError
from steps.common.launch import summary
from steps.common.tracking import run as runs
from steps.common.tracking.outputs import open_output
from steps.common.tracking.run import tag_upstream


def main(call: Call[VerifyConf], where: str) -> None:
    with runs.run("verify", call.config, call.as_yaml) as run, tempfile.TemporaryDirectory() as scratch:
        output = open_output(where, Path(scratch))
        start = time.perf_counter()
        manifest, findings = verify.verify_output(output)
        findings += verify.check_copy(output, manifest)
        metrics = {
            "verify/parts": len(manifest.parts),
            "verify/rows": manifest.rows,
            "verify/findings": len(findings),
            "verify/seconds": time.perf_counter() - start,
        }
        mlflow.log_metrics(metrics)
        mlflow.log_dict({"output": call.conf.output, "findings": findings, **metrics}, "verification.json")
        tag_upstream(manifest.run_id, manifest.model.get("model_id", ""))
        verdict, name = "damaged" if findings else "whole", call.conf.output.rstrip("/").rpartition("/")[2]
        run.name(f"{verdict} {name} {manifest.rows:,} rows")
        for finding in findings:
            print(f"  {finding}")
        summary.show(
            "verify",
            {
                "run_id": run.info.run_id,
                "output": call.conf.output,
                "verdict": verdict,
                **metrics,
                "encoded by": manifest.run_id,
                **verify.describe_origin(manifest),
            },
        )
        if findings:
            raise UserError(
                f"output {call.conf.output} does not match its manifest, {len(findings)} finding(s): {'; '.join(findings[:3])}. {verify.describe_remedy(findings)}"
            )
