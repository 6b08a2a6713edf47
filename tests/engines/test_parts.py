"""Files to files by Spark, in a session of this process: what comes out is what one process makes."""

import gc
import time

import pytest
from helpers.encodes import content, interrupt, manifest_of, some_texts, write_jsonl
from helpers.steps import error_of, last_json
from pyarrow import fs

from steps.common.engines import parts
from steps.common.engines.conf import EngineConf, EngineName, ModelFrom
from steps.common.engines.spark import Spark
from steps.common.errors import Stopped
from steps.common.storage import place as files

pytestmark = pytest.mark.slow


def test_spark_makes_the_bytes_that_one_process_makes_and_each_goes_on_with_what_the_other_began(
    session, encode, step, corpus, tmp_path
):
    chunked = ["corpus.id_column=key", "corpus.long_text=chunk", "embedding.dtype=int8", "corpus.chunk_overlap=4"]
    for name, given in (("plain", ["backend=torch"]), ("chunks", ["backend=openvino", *chunked])):
        code, _, err = encode(corpus, f"{name}-local", *given)
        assert code == 0, err
        code, out, err = encode(corpus, f"{name}-spark", "engine=spark", *given)
        assert code == 0, err
        local, spark = tmp_path / f"{name}-local", tmp_path / f"{name}-spark"
        assert content(spark) == content(local)
        assert (spark / "rejects.parquet").read_bytes() == (local / "rejects.parquet").read_bytes()
        assert {path.name for path in spark.iterdir()} == {path.name for path in local.iterdir()}
    for key in ("plan", "parts", "rejects", "rows", "origin", "backend", "ranges"):
        assert manifest_of(spark)[key] == manifest_of(local)[key]
    assert "Spark 4." in err and "37 of 37 rows" not in err
    assert last_json(out)["parts"] == 4
    code, _, err = step("verify", f"--output={spark}")
    assert code == 0, err

    for begun, engine in ((local, "spark"), (spark, "local")):
        interrupt(begun)
        (begun / ".encode" / "done" / "part-00002.json").unlink()
        (begun / "part-00001.parquet").write_bytes(b"torn")
        code, out, err = encode(corpus, begun, f"engine={engine}", "backend=openvino", *chunked)
        assert code == 0, err
        assert last_json(out)["encode/resumed_rows"] == 17
        assert "part-00001 is encoded again" in err
        assert content(begun) == content(spark) == content(local)


def test_corpus_and_embeddings_may_be_in_an_object_store(session, encode, corpus, tmp_path, s3):
    there = files.locate(f"{s3}/{tmp_path.name}")
    fs.copy_files(str(corpus), f"{there.path}/corpus", destination_filesystem=there.filesystem)
    code, _, err = encode(f"{there}/corpus", f"{there}/out", "engine=spark", "backend=torch")
    assert code == 0, err
    (tmp_path / "copy").mkdir()
    fs.copy_files(f"{there.path}/out", str(tmp_path / "copy"), source_filesystem=there.filesystem)
    encode(corpus, "local", "backend=torch")
    assert content(tmp_path / "copy") == content(tmp_path / "local")


def test_what_cannot_be_done_is_one_line_that_says_why(session, encode, corpus, tmp_path, tiny_run):
    given = ["engine=spark", "backend=torch"]
    (corpus / "c.jsonl").write_text('{"text": "a"}\nno json\n')
    (corpus / "d.jsonl").write_text("no json either\n")
    assert "c.jsonl line 2" in error_of(encode(corpus, "bad", *given))
    (corpus / "c.jsonl").unlink()
    (corpus / "d.jsonl").unlink()

    refused = "corpus.long_text=error"
    line = error_of(encode(corpus, "long", *given, refused))
    assert line == error_of(encode(corpus, "long", "backend=torch", refused)) and "b.jsonl line 12 with 122" in line
    assert not list((tmp_path / "long").glob("part-*"))

    code, _, err = encode(corpus, "other", *given)
    assert code == 0, err
    assert "was started with other settings: keep_text was True, is now False" in error_of(
        encode(corpus, "other", *given, "keep_text=false")
    )
    # The driver has loaded the model when a worker finds that its files are others.
    from steps.common.model import recipe

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "calibration_texts", lambda: ["a"])
        describe = recipe.Recipe.__init__
        patch.setattr(
            recipe.Recipe, "__init__", lambda self, **facts: describe(self, **{**facts, "location": "/not/there"})
        )
        line = error_of(encode(corpus, "elsewhere", *given))
    assert "the model is at /not/there, a folder that this machine does not have" in line
    # What the failed job began is gone on with; Spark may send the model with the code.
    code, _, err = encode(corpus, "elsewhere", *given, "engine.model_from=driver")
    assert code == 0, err
    assert content(tmp_path / "elsewhere") == content(tmp_path / "other")


def test_workers_take_vectors_of_an_old_output_as_one_process_does(session, encode, corpus, tmp_path):
    code, _, err = encode(corpus, "old", "backend=torch")
    assert code == 0, err
    write_jsonl(corpus / "aa.jsonl", [*some_texts(7), "the blue house", "a new stone"])
    for engine in ("local", "spark"):
        code, out, err = encode(
            corpus, f"new-{engine}", "backend=torch", f"reuse={tmp_path / 'old'}", f"engine={engine}"
        )
        assert code == 0, err
        assert (last_json(out)["encode/reused_rows"], last_json(out)["encode/rows"]) == (43, 46)
    assert content(tmp_path / "new-spark") == content(tmp_path / "new-local")


def test_a_stop_ends_the_job_in_spark_as_well(session):
    spark = Spark(EngineConf(EngineName.spark, "local[2]", shared_files=False, model_from=ModelFrom.store))
    start = time.monotonic()

    def stop(done, total):
        if total:
            raise Stopped

    with pytest.raises(Stopped):
        spark.each_alone(time.sleep, [120, 120], stop)
    assert time.monotonic() - start < 60
    assert not session.sparkContext.statusTracker().getActiveJobsIds()


def test_what_a_worker_has_loaded_is_not_looked_through_after_every_task(session, monkeypatch):
    """Spark has its workers collect garbage, and the model of a recipe that is not used any more goes."""
    closed = []

    class Loaded:
        def __init__(self, name):
            self.name = name

        def close(self):
            closed.append(self.name)

    class Recipe(str):
        archive = None

        def load(self, **given):
            return Loaded(str(self))

    monkeypatch.setattr(parts, "_held", {})
    for name in "ab":
        backend = parts.load_backend(Recipe(name))
        assert parts.load_backend(Recipe(name)) is backend
        assert not any(one is backend for one in gc.get_objects())
    assert closed == ["a"]
