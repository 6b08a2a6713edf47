"""A table of Spark into a new one, and the standard MLflow way: the same vectors as of files."""

import json

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.encodes import some_texts, write_jsonl
from helpers.pages import find_page
from helpers.steps import error_of, last_json

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
    session.sql("DROP TABLE IF EXISTS made")
    yield "given"
    session.sql("DROP TABLE IF EXISTS made")


def test_a_table_gets_the_vectors_that_a_file_of_its_rows_gets(session, encode, table, texts, tmp_path):
    code, out, err = encode("table:given", "table:made", *GIVEN, "corpus.on_bad_row=keep_all")
    assert code == 0, err
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
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"given", "embeddings"}
    manifest = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/manifest.json"))
    assert (manifest["rows"], manifest["null_rows"], manifest["parts"]) == (20, 2, [])
    assert manifest["corpus"]["source"] == "given" and manifest["corpus"]["version"] is None
    properties = dict(session.sql("SHOW TBLPROPERTIES made").collect())
    assert properties["embeddings.model_id"] == summary["model_id"]
    assert "is there already, and encode appends to none" in error_of(encode("table:given", "table:made", *GIVEN))


@pytest.mark.parametrize(
    ("corpus", "more", "line"),
    [
        ("table:missing", GIVEN, "there is no table missing"),
        ("table:given", [*GIVEN, "corpus.text_column=kind"], "column 'kind' of table given is int, expected string"),
        ("table:given", [*GIVEN, "corpus.text_column=words"], "table given has no column 'words'"),
        ("table:given", GIVEN[:2], "have no order, so their embeddings need corpus.id_column"),
        ("table:given", [*GIVEN, "embedding.dtype=int8"], "embedding.dtype=int8 cannot be written to a table"),
        ("table:given", GIVEN[1:], "expected engine=spark"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(session, encode, table, corpus, more, line):
    assert line in error_of(encode(corpus, "table:made", *more))


def test_the_standard_way_of_mlflow_works_with_the_logged_model(session, tiny_run, tmp_path):
    """The block of the page."""
    names = {}
    (block,) = find_page("docs/spark.md").blocks("python")
    exec(block.replace("<model ID>", tiny_run["model_id"]), names)
    found = names["embedded"].toPandas()
    model = mlflow.sentence_transformers.load_model(f"models:/{tiny_run['model_id']}")
    assert np.allclose(np.stack(found["embedding"]), model.encode(found["text"].tolist()), atol=1e-6)
