"""verify: check embeddings against their manifest.

Reads   an output of encode: a folder, a URI or runs:/<run>/embeddings.
Checks  that every file of the manifest is there, byte for byte, that the parts hold every row of the corpus once and in
        order, and that no other part lies beside them.
Fails   when one of it is not so: exit code 1, with every finding.

    mlflow run . -e verify -P output=embeddings
    python -m steps.verify output=runs:/<run of encode>/embeddings
"""

import tempfile
import time
from pathlib import Path

from omegaconf import DictConfig

from steps.common import inputs, project, summary
from steps.common.errors import UserError


def fetched(where: str, scratch: Path):
    """The output.Output at a place; one that a run holds is downloaded.

    Raises:
        UserError: the run does not hold it.
    """
    from steps.common import files
    from steps.common.output import Output

    if where.partition(":/")[0] in inputs.OF_MLFLOW:
        import mlflow

        try:
            where = mlflow.artifacts.download_artifacts(where, dst_path=str(scratch))
        except (mlflow.MlflowException, OSError) as error:
            raise UserError(f"output {where} cannot be read from its run: {files.first_line(error)}.") from None
    return Output(files.locate(where), scratch)


def main(cfg: DictConfig) -> None:
    from steps.common import verify

    where = inputs.existing_output(cfg.output)
    with project.run("verify", *project.resolve(cfg)) as run, tempfile.TemporaryDirectory() as scratch:
        import mlflow

        output = fetched(where, Path(scratch))
        start = time.perf_counter()
        manifest, findings = verify.verify_output(output)
        metrics = {
            "verify/parts": len(manifest.parts),
            "verify/rows": manifest.rows,
            "verify/findings": len(findings),
            "verify/seconds": time.perf_counter() - start,
        }
        mlflow.log_metrics(metrics)
        mlflow.log_dict({"output": cfg.output, "findings": findings, **metrics}, "verification.json")
        project.tag_upstream(manifest.run_id, manifest.model.get("model_id", ""))
        for finding in findings:
            print(f"  {finding}")
        summary.show(
            "verify",
            {
                "run_id": run.info.run_id,
                "output": cfg.output,
                "verdict": "damaged" if findings else "whole",
                **metrics,
                "encoded by": manifest.run_id,
            },
        )
        if findings:
            raise UserError(
                f"output {cfg.output} does not match its manifest, {len(findings)} finding(s): {'; '.join(findings[:3])}. {verify.describe_remedy(findings)}"
            )


if __name__ == "__main__":
    project.launch("verify", main)
