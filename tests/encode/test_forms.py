"""The forms of embeddings, and the libraries that read them."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.encodes import WORDS, manifest_of, some_texts, write_jsonl


def direct(tiny_model_folder, texts):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model_folder), device="cpu").encode(texts)


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_smaller_numbers_are_those_of_sentence_transformers(encode, corpus, tmp_path, tiny_model_folder, dtype):
    from sentence_transformers import quantize_embeddings

    code, _, err = encode(corpus, f"embedding.dtype={dtype}")
    assert code == 0, err
    column = [
        row
        for path in sorted((tmp_path / "out").glob("part-*"))
        for row in pq.read_table(path).column("embedding").to_pylist()
    ]
    vectors = direct(tiny_model_folder, some_texts(35))
    if dtype == "float16":
        np.testing.assert_allclose(column, vectors, atol=1e-3)
        return
    ranges = manifest_of(tmp_path / "out")["ranges"]
    expected = quantize_embeddings(vectors, dtype, ranges=None if ranges is None else np.array(ranges))
    # A value at the edge of its bucket may fall to either side.
    assert np.abs(np.array(column, int) - expected).max() <= (1 if dtype == "int8" else 255)
    assert (np.array(column) == expected).mean() > 0.98
    if dtype == "int8":
        np.testing.assert_allclose(ranges, [vectors.min(axis=0), vectors.max(axis=0)], atol=1e-6)


def test_the_ranges_of_int8_are_those_of_the_chunks(encode, tmp_path):
    long = " ".join(WORDS[i % len(WORDS)] for i in range(300))
    path = write_jsonl(tmp_path / "c.jsonl", [long, "the cat", "a red dog"])
    chunks = ["corpus.long_text=chunk", "corpus.chunk_pooling=none"]
    assert encode(path, *chunks, output=tmp_path / "f32")[0] == 0
    code, _, err = encode(path, *chunks, "embedding.dtype=int8")
    assert code == 0, err
    vectors = np.array(pq.read_table(tmp_path / "f32" / "part-00000.parquet").column("embedding").to_pylist())
    ranges = manifest_of(tmp_path / "out")["ranges"]
    np.testing.assert_allclose(ranges, [vectors.min(axis=0), vectors.max(axis=0)], atol=1e-6)
    stored = np.array(pq.read_table(tmp_path / "out" / "part-00000.parquet").column("embedding").to_pylist())
    # Each dimension uses both ends of what int8 can hold.
    assert stored.min(axis=0).tolist() == [-128] * 32
    assert (stored.max(axis=0) >= 126).all()


def test_matrices_are_read_by_numpy(encode, corpus, tmp_path, tiny_model_folder):
    code, _, err = encode(corpus, "output_format=npy")
    assert code == 0, err
    parts = sorted((tmp_path / "out").glob("*.npy"))
    matrix = np.concatenate([np.load(path) for path in parts])
    np.testing.assert_allclose(matrix, direct(tiny_model_folder, some_texts(35)), atol=1e-5)
    ids = [
        row
        for path in sorted((tmp_path / "out").glob("*.ids.parquet"))
        for row in pq.read_table(path).column("id").to_pylist()
    ]
    assert ids == list(range(35))


@pytest.mark.parametrize("reader", ["pandas", "polars", "duckdb", "datasets"])
def test_the_embeddings_are_read_by(encode, corpus, tmp_path, tiny_model_folder, reader, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    encode(corpus)
    glob = str(tmp_path / "out" / "part-*.parquet")
    module = pytest.importorskip(reader)
    if reader == "pandas":
        table = module.concat([module.read_parquet(path) for path in sorted((tmp_path / "out").glob("part-*"))])
        ids, vectors = table["id"].tolist(), np.stack(table["embedding"])
    elif reader == "polars":
        table = module.read_parquet(glob)
        ids, vectors = table["id"].to_list(), table["embedding"].to_numpy()
    elif reader == "duckdb":
        rows = module.sql(f"select id, embedding from '{glob}' order by id").fetchall()
        ids, vectors = [row[0] for row in rows], np.array([row[1] for row in rows], np.float32)
    else:
        table = module.load_dataset("parquet", data_files=glob, split="train", cache_dir=str(tmp_path / "datasets"))
        ids, vectors = table["id"], np.array(table["embedding"], np.float32)
    assert list(ids) == list(range(35))
    np.testing.assert_allclose(vectors, direct(tiny_model_folder, some_texts(35)), atol=1e-5)
