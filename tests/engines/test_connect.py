"""Spark Connect: a server of its own on loopback, to which the driver only talks."""

import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.encodes import content, some_texts, write_jsonl
from helpers.servers import free_port, wait_for_server
from helpers.spark import as_words, environment
from helpers.steps import last_json

pytestmark = pytest.mark.slow

# python -m steps.encode that says more often how far it is.
TALKATIVE = """
import runpy
from steps.common.embeddings import progress
progress.PROGRESS_SECONDS = 0
runpy.run_module("steps.encode", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def remote(start, tmp_path):
    """The address of a server with two cores, in the environment of a step."""
    found, port = environment(), free_port()
    settings = {
        "spark.connect.grpc.binding.port": str(port),
        "spark.ui.enabled": "false",
        "spark.local.dir": str(tmp_path),
        "spark.sql.warehouse.dir": str(tmp_path / "warehouse"),
    }
    process = start(
        *("env", *(f"{name}={value}" for name, value in found.items())),
        *(f"{found['SPARK_HOME']}/bin/spark-submit", "--master", "local[2]", "--driver-memory", "512m"),
        *as_words(settings),
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
    )
    wait_for_server(port, process)
    return os.environ | found | {"SPARK_REMOTE": f"sc://127.0.0.1:{port}"}


def test_a_server_of_spark_connect_makes_the_bytes_that_one_process_makes(remote, forks, tiny_run, tmp_path):
    corpus = write_jsonl(tmp_path / "texts.jsonl", [*some_texts(37), None, ""])
    given = ["-m", "steps.encode", f"run_id={tiny_run['run_id']}", f"corpus={corpus}", "backend=torch"]
    given += ["rows_per_part=10"]
    local = forks.run(*given, f"output={tmp_path / 'local'}", env=remote)
    assert local.returncode == 0, local.stderr

    spark = [*given, "engine=spark", f"output={tmp_path / 'spark'}"]
    # The model goes with the code, as it has to where workers cannot reach its store.
    done = forks.run(*spark, "engine.shared_files=true", "engine.model_from=driver", env=remote)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "spark") == content(tmp_path / "local")

    pq.write_table(pa.table({"key": range(37), "text": some_texts(37)}), tmp_path / "texts.parquet")
    tables = ["engine=spark", f"corpus=table:parquet.`{tmp_path}/texts.parquet`", "output=table:made"]
    done = forks.run("-c", TALKATIVE, given[2], given[4], *tables, "corpus.id_column=key", env=remote)
    assert done.returncode == 0, done.stderr
    assert last_json(done.stdout)["encode/rows"] == 37
    # Connect tells every few seconds; the job may end before it has told the last.
    assert re.search(r"\d of 2 tasks of Spark are done\n", done.stderr), done.stderr
