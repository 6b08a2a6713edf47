"""What decides the result, and what may change."""

import importlib.metadata
import sys

import pytest
from helpers.encodes import interrupt, manifest_of, read_parts, some_texts, write_jsonl


def write_partitions(folder, **texts):
    for value, rows in texts.items():
        (folder / f"lang={value}").mkdir(parents=True)
        write_jsonl(folder / f"lang={value}" / "part.jsonl", rows)
    return folder


def test_a_partition_that_was_renamed_is_another_corpus(step, encode, tmp_path):
    folder = write_partitions(tmp_path / "corpus", de=some_texts(12), en=some_texts(12))
    words = (folder, "corpus.keep_columns=[lang]")
    assert encode(*words)[0] == 0
    interrupt(tmp_path / "out")
    for path in (tmp_path / "out").glob("part-0000[12]*"):
        path.unlink()
    (folder / "lang=en").rename(folder / "lang=fr")
    code, _, err = encode(*words)
    assert code == 1
    assert 'corpus.partitions.00001 part.jsonl.lang was "en", is now "fr"' in err
    assert "encode: run" not in err
    (folder / "lang=fr").rename(folder / "lang=en")
    assert encode(*words)[0] == 0
    assert read_parts(tmp_path / "out")["lang"].to_pylist() == ["de"] * 12 + ["en"] * 12
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 0


@pytest.mark.parametrize("words", [["corpus.id_column=lang"], ["corpus.template='{lang}: {text}'"]])
def test_a_partition_value_in_an_id_or_a_text_is_in_the_plan(encode, tmp_path, words):
    folder = write_partitions(tmp_path / "corpus", de=["the cat"])
    assert encode(folder, *words)[0] == 0
    (folder / "lang=de").rename(folder / "lang=__HIVE_DEFAULT_PARTITION__")
    code, _, err = encode(folder, *words)
    assert code == 1 and 'corpus.partitions.00000 part.jsonl.lang was "de", is now null' in err


def test_a_partition_value_that_nothing_uses_may_change(encode, tmp_path):
    folder = write_partitions(tmp_path / "corpus", de=["the cat"])
    assert encode(folder)[0] == 0
    (folder / "lang=de").rename(folder / "lang=fr")
    code, _, err = encode(folder)
    assert code == 0, err


def test_files_in_another_order_are_another_corpus(encode, tmp_path):
    for name, texts in (("a", some_texts(3)), ("b", some_texts(5))):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        write_jsonl(tmp_path / "corpus" / f"{name}.jsonl", texts)
    assert encode(tmp_path / "corpus")[0] == 0
    (tmp_path / "corpus" / "a.jsonl").rename(tmp_path / "corpus" / "c.jsonl")
    code, _, err = encode(tmp_path / "corpus")
    assert code == 1 and "corpus.sources.00000 a.jsonl" in err


def test_the_plan_holds_what_writes_the_parts(encode, corpus, tmp_path):
    assert encode(corpus)[0] == 0
    assert {"numpy", "pyarrow", "sentence-transformers", "torch"} <= set(
        manifest_of(tmp_path / "out")["plan"]["versions"]
    )


def test_without_openvino_torch_encodes(encode, corpus, tmp_path, monkeypatch):
    version = importlib.metadata.version

    def find(name):
        if name == "openvino":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", find)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "steps.common.backends.openvino", raising=False)
    code, _, err = encode(corpus)
    assert code == 0, err
    manifest = manifest_of(tmp_path / "out")
    assert (manifest["plan"]["versions"]["openvino"], manifest["backend"]["name"]) == ("none", "torch")
