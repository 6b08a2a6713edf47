"""A standalone cluster on loopback: a master, two workers of one core, and executors that are killed."""

import os
import shlex
import subprocess
import time

import pytest
from helpers.encodes import content, some_texts, write_jsonl
from helpers.pages import PROJECT, find_page
from helpers.spark import Cluster, as_words
from helpers.steps import error_of, last_json
from pyarrow import fs

from steps.common.embeddings.records import find_records
from steps.common.storage import place as files
from steps.common.storage.output import Output

pytestmark = pytest.mark.slow

# As small as executors may be, and a part that seems slow is begun on the other host too.
SMALL = {
    "spark.executor.memory": "512m",
    "spark.driver.memory": "512m",
    "spark.ui.enabled": "false",
    "spark.speculation": "true",
}


@pytest.fixture
def cluster(tmp_path, s3):
    made = Cluster(tmp_path / "cluster")
    yield made
    made.close()


def test_what_spark_submit_makes_is_what_one_process_makes_though_executors_are_killed(
    cluster, tiny_run, tmp_path, s3, forks
):
    """The line of the page, with corpus and output in an object store."""
    corpus = write_jsonl(tmp_path / "texts.jsonl", [*some_texts(598), None, ""])
    there = files.locate(f"{s3}/{tmp_path.name}")
    fs.copy_files(str(corpus), f"{there.path}/texts/texts.jsonl", destination_filesystem=there.filesystem)
    output = Output(files.locate(f"{there}/out"), tmp_path)
    process = submit(cluster, tiny_run["run_id"], str(there), str(output))
    for number, parts in enumerate((3, 25)):
        # The second executor may be one that took the place of the first.
        while len(find_records(output)) < parts and process.poll() is None:
            time.sleep(0.1)
        assert process.poll() is None, said(cluster)[1]
        cluster.kill_executor(number)
    process.wait(240)
    out, err = said(cluster)
    assert process.returncode == 0, err
    assert last_json(out)["parts"] == 60
    # By a process as well: parts name the commit, which mlflow finds by the script that it runs in.
    given = [f"run_id={tiny_run['run_id']}", f"corpus={corpus}", f"output={tmp_path / 'local'}", "rows_per_part=10"]
    local = forks.run("-m", "steps.encode", "backend=torch", *given, env=environment_of(cluster))
    assert local.returncode == 0, local.stderr
    (tmp_path / "copy").mkdir()
    fs.copy_files(f"{there.path}/out", str(tmp_path / "copy"), source_filesystem=there.filesystem)
    assert content(tmp_path / "copy") == content(tmp_path / "local")

    given = [f"engine.master={cluster.master}", f"corpus={corpus}", f"output={tmp_path / 'out'}"]
    refused = forks.run("-m", "steps.encode", "engine=spark", *given, env=environment_of(cluster))
    line = error_of((refused.returncode, refused.stdout, refused.stderr))
    assert f"corpus.path={corpus} is a path on this machine" in line and "engine.shared_files=true" in line


def submit(cluster: Cluster, run_id: str, there: str, output: str) -> subprocess.Popen:
    (command,) = [line for line in find_page("docs/spark.md").commands() if "spark-submit" in line]
    words = shlex.split(command.replace("latest", run_id).replace("s3://bucket/texts", f"{there}/texts"))
    assert words[:3] == ["PYTHONPATH=.", "spark-submit", "--master"]
    given = [word for word in words[4:] if not word.startswith("output=")]
    program = f"{cluster.environment['SPARK_HOME']}/bin/spark-submit"
    submitted = [program, "--master", cluster.master, *as_words(SMALL), *given]
    more = [f"output={output}", "rows_per_part=10", "backend=torch"]
    # Into files: Spark says more than a pipe holds that nobody reads.
    with (cluster.folder / "out").open("w") as out, (cluster.folder / "err").open("w") as err:
        return subprocess.Popen(
            [*submitted, *more], stdout=out, stderr=err, cwd=PROJECT, env=environment_of(cluster), text=True
        )


def said(cluster: Cluster) -> list[str]:
    """What the submitted driver wrote to stdout and stderr."""
    return [(cluster.folder / name).read_text() for name in ("out", "err")]


def environment_of(cluster: Cluster) -> dict[str, str]:
    """What a driver runs with."""
    paths = os.pathsep.join(filter(None, [str(PROJECT), cluster.environment["PYTHONPATH"]]))
    return {**cluster.environment, "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"], "PYTHONPATH": paths}
