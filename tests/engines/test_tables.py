"""A table of Spark into a new one, and the standard MLflow way: the same vectors as of files."""

import json
import re
from datetime import datetime
from decimal import Decimal

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.encodes import some_texts, write_jsonl
from helpers.pages import find_page
from helpers.steps import error_of, last_json

from steps.common.embeddings import progress
from steps.common.engines import spark
from steps.common.errors import Stopped
from steps.common.model import recipe
from steps.common.tracking import live

pytestmark = pytest.mark.slow

GIVEN = ["engine=spark", "backend=torch", "corpus.id_column=key", "corpus.keep_columns=[kind]"]


@pytest.fixture
def texts():
    return [*some_texts(12), None, "", "the cat", "the cat", *some_texts(4)]


@pytest.fixture
def table(session, texts, tmp_path):
    """A view of 20 rows in three partitions; one text is null, one is empty, some repeat."""
    rows = [(number, text, number % 3) for number, text in enumerate(texts)]
    session.createDataFrame(rows, "key long, text string, kind int").repartition(3).createOrReplaceTempView("given")
    session.sql(
        "CREATE OR REPLACE TEMP VIEW odd AS SELECT 1 key, 'a' text, 1.5 price, INTERVAL 1 MONTH age, 5 Embedding, 6 kind"
    )
    session.sql("CREATE OR REPLACE TEMP VIEW empty AS SELECT * FROM given WHERE key < 0")
    session.createDataFrame([(1, "a", "b", 1)]).toDF("key", "text", "text", "kind").createOrReplaceTempView("twice")
    session.sql("DROP TABLE IF EXISTS made")
    yield "given"
    session.sql("DROP TABLE IF EXISTS made")


def test_a_table_gets_the_vectors_that_a_file_of_its_rows_gets(session, encode, table, texts, tmp_path, monkeypatch):
    for module, name in ((progress, "PROGRESS_SECONDS"), (spark, "POLL"), (live, "LIVE_SECONDS")):
        monkeypatch.setattr(module, name, 0.1)
    code, out, err = encode("table:given", "table:made", *GIVEN, "corpus.on_bad_row=keep_all")
    assert code == 0, err
    assert re.search(r"\d of \d tasks of Spark are done, 20 rows in them, \d+ rows/s", err), err
    made = session.table("made").orderBy("id").toPandas()
    corpus = write_jsonl(tmp_path / "corpus.jsonl", texts, key=list(range(20)), kind=[i % 3 for i in range(20)])
    code, _, err = encode(corpus, "file", *GIVEN[1:], "corpus.on_bad_row=keep_all", "rows_per_part=50")
    assert code == 0, err
    file = pq.read_table(tmp_path / "file" / "part-00000.parquet").to_pandas()
    assert list(made.columns) == list(file.columns) == ["id", "text", "kind", "embedding"]
    assert made["id"].tolist() == list(range(20)) and made["kind"].tolist() == file["kind"].tolist()
    assert [row is None for row in made["embedding"]] == [row is None for row in file["embedding"]]
    assert [i for i, row in enumerate(made["embedding"]) if row is None] == [12, 13]
    valid = [i for i in range(20) if i not in (12, 13)]
    vectors = [np.array([frame["embedding"][i] for i in valid], np.float32) for frame in (made, file)]
    assert np.allclose(*vectors, atol=1e-6)

    summary = last_json(out)
    assert (summary["encode/rows"], summary["encode/null_rows"], summary["embeddings"]) == (20, 2, "table:made")
    run = mlflow.MlflowClient().get_run(summary["run_id"])
    assert {"encode/rows_done", "encode/tasks_done", "encode/rows_per_second_now"} <= run.data.metrics.keys()
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"given", "embeddings"}
    manifest = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/manifest.json"))
    assert (manifest["rows"], manifest["null_rows"], manifest["parts"]) == (20, 2, [])
    assert manifest["corpus"]["source"] == "given" and manifest["corpus"]["version"] is None
    properties = dict(session.sql("SHOW TBLPROPERTIES made").collect())
    assert properties["embeddings.model_id"] == summary["model_id"]
    assert "already exists. encode writes only new tables" in error_of(encode("table:given", "table:made", *GIVEN))


@pytest.mark.parametrize(
    ("corpus", "more", "line"),
    [
        ("table:missing", GIVEN, "there is no table missing"),
        ("table:given", [*GIVEN, "corpus.text_column=kind"], "column 'kind' of table given is int, expected string"),
        ("table:given", [*GIVEN, "corpus.text_column=words"], "table given has no column 'words'"),
        ("table:given", GIVEN[:2], "have no order, so their embeddings need corpus.id_column"),
        ("table:given", [*GIVEN, "embedding.dtype=int8"], "embedding.dtype=int8 cannot be written to a table"),
        ("table:given", GIVEN[1:], "expected engine=spark"),
        ("table:empty", GIVEN, "table empty is empty: expected at least one row"),
        ("table:twice", GIVEN, "table twice has 2 columns named 'text'"),
        (
            "table:odd",
            [*GIVEN, "corpus.id_column=price"],
            "column 'price' of table odd is decimal(2,1); an id is one of",
        ),
        (
            "table:odd",
            [*GIVEN, "corpus.keep_columns=[age]"],
            "column 'age' of table odd is interval month, which Spark",
        ),
        (
            "table:odd",
            [*GIVEN, "corpus.keep_columns=[Embedding]"],
            "'Embedding', which Spark cannot tell from 'embedding'",
        ),
        ("table:odd", [*GIVEN, "corpus.keep_columns=[kind, Kind]"], "'Kind', which Spark cannot tell from 'kind'"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(session, encode, table, corpus, more, line):
    assert line in error_of(encode(corpus, "table:made", *more))


def test_a_job_that_fails_leaves_no_table_and_its_name_can_be_taken(session, encode, table, tmp_path):
    """Of columns with odd names, and of types that Arrow has its own for."""
    session.sql(
        "CREATE OR REPLACE TEMP VIEW given AS SELECT id key, if(id = 7, repeat('the cat ', 60), 'a cat') `we``ird.text`, Text, "
        "timestamp '2020-01-01 00:00:00' `naïve time`, array(named_struct('a', id)) text0, map('a', 1.50) m "
        "FROM range(0, 10, 1, 1), (SELECT 1 Text)"
    )
    given = [*GIVEN[:3], "corpus.text_column='we`ird.text'", "corpus.keep_columns=['naïve time',text0,m]"]
    line = error_of(encode("table:given", "table:made", *given, "corpus.long_text=error"))
    assert "table given, id 7: the text has 122 tokens, and the model reads 64" in line
    assert "made-2 cannot be written" in error_of(encode("table:given", "table:made-2", *given))
    assert "Spark failed: [SCHEMA_NOT_FOUND]" in error_of(encode("table:given", "table:nowhere.made", *given))
    with pytest.MonkeyPatch.context() as patch:
        describe = recipe.Recipe.__init__
        patch.setattr(recipe.Recipe, "__init__", lambda self, **facts: describe(self, **{**facts, "location": "/none"}))
        line = error_of(encode("table:given", "table:made", *given, "backend.threads=1"))
    assert "the model is at /none, a folder that this machine does not have" in line
    assert not session.catalog.tableExists("made")

    code, _, err = encode("table:given", "table:made", *given)
    assert code == 0, err
    made = session.table("made")
    assert made.columns == ["id", "text", "naïve time", "text0", "m", "embedding"] and made.count() == 10
    row = made.where("id = 3").drop("embedding").collect()[0].asDict(recursive=True)
    assert row == {
        "id": 3,
        "text": "a cat",
        "naïve time": datetime(2020, 1, 1),
        "text0": [{"a": 3}],
        "m": {"a": Decimal("1.50")},
    }
    session.sql("CREATE OR REPLACE TEMP VIEW seen AS SELECT 1 a")
    assert "or DROP VIEW seen" in error_of(encode("table:given", "table:seen", *given))
    with pytest.MonkeyPatch.context() as patch:

        def stop(self, done):
            raise Stopped

        patch.setattr(live.LiveMetrics, "counts", stop)
        patch.setattr(spark, "POLL", 0.1)
        code, _, err = encode("table:given", "table:stopped", *given)
        assert code == 143 and "to start again: python -m steps.encode" in err
    assert not session.catalog.tableExists("stopped")


def test_the_standard_way_of_mlflow_works_with_the_logged_model(session, tiny_run, tmp_path):
    """The block of the page."""
    names = {}
    (block,) = find_page("docs/spark.md").blocks("python")
    exec(block.replace("<model ID>", tiny_run["model_id"]), names)
    found = names["embedded"].toPandas()
    model = mlflow.sentence_transformers.load_model(f"models:/{tiny_run['model_id']}")
    assert np.allclose(np.stack(found["embedding"]), model.encode(found["text"].tolist()), atol=1e-6)
