"""Bad rows and long texts."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.encodes import WORDS, content, manifest_of, write_jsonl
from helpers.steps import last_json

from steps.common.storage import place as files
from steps.common.storage.stream import sha256

ODD = ["the cat", None, "", " \t", 5, "a dog"]


def test_bad_rows_keep_their_place_and_their_reason(encode, tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", ODD, key=list("abcdef"))
    with path.open("ab") as stream:
        stream.write(b'{"key": "g", "text": "\xff"}\nnot json\n{"key": "i", "text": "\\ud800"}\n')
    code, out, err = encode(path, "corpus.on_bad_row=keep_all", "corpus.id_column=key")
    assert code == 0, err
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["id"] for row in rows] == [*"abcdef", None, None, "i"]
    assert [row["embedding"] is not None for row in rows] == [True, *[False] * 4, True, *[False] * 3]
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(row["row"], row["line"]) for row in rejects] == [(i, i + 1) for i in (1, 2, 3, 4, 6, 7, 8)]
    assert [row["reason"].split(";")[0][:20] for row in rejects] == [
        "null",
        "empty",
        "only white space",
        "expected a string in",
        "expected UTF-8, foun",
        "expected one JSON ob",
        "'text' holds half a ",
    ]
    assert last_json(out)["encode/null_rows"] == 7
    manifest = manifest_of(tmp_path / "out")
    assert manifest["rejects"]["sha256"] == sha256(files.locate(tmp_path / "out" / "rejects.parquet"))


def test_rows_with_an_empty_text_are_counted_in_a_warning(encode, tmp_path):
    def warned(texts, *words, output):
        path = write_jsonl(tmp_path / "c.jsonl", texts)
        code, out, err = encode(path, f"output={tmp_path / output}", *words)
        assert code == 0, err
        vectors = pq.read_table(tmp_path / output / "part-00000.parquet").column("embedding").to_pylist()
        warnings = [line.partition("WARNING ")[2] for line in err.splitlines() if "empty text" in line]
        return warnings, [vector is None for vector in vectors]

    advice = "embedded as such; corpus.on_bad_row=keep_all gives such rows null embeddings"
    texts = ["the cat", "", None, " \t"]
    assert warned(texts, output="a") == ([f"2 rows have an empty text and are {advice}"], [False, False, True, False])
    assert warned(texts, "corpus.on_bad_row=keep_all", output="b") == ([], [False, True, True, True])
    assert warned(["the cat", ""], output="c") == ([f"1 row has an empty text and is {advice}"], [False, False])
    assert warned(["the cat", None], output="d") == ([], [False, True])


@pytest.mark.parametrize("damage", ["gone", "a byte", "other rows"])
def test_rejects_that_are_damaged_are_made_again(step, encode, tmp_path, damage):
    path = write_jsonl(tmp_path / "c.jsonl", ["the cat", "a dog", *ODD], key=list("abcdefgh"))
    words = (path, "corpus.on_bad_row=keep_all", "corpus.id_column=key", "rows_per_part=2")
    assert encode(*words)[0] == 0
    before, rejects = content(tmp_path / "out"), tmp_path / "out" / "rejects.parquet"
    whole = rejects.read_bytes()
    if damage == "gone":
        rejects.unlink()
    elif damage == "a byte":
        rejects.write_bytes(whole[:9] + bytes([whole[9] ^ 255]) + whole[10:])
    else:
        pq.write_table(pq.read_table(rejects).slice(1), rejects)
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 1
    code, out, err = encode(*words)
    assert code == 0, err
    # The first part has no null row, so it stays.
    assert last_json(out)["encode/resumed_rows"] == 2
    assert rejects.read_bytes() == whole
    assert content(tmp_path / "out") == before
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 0


@pytest.mark.parametrize(
    "bad, reason", [(None, "the text is null"), ("", "the text is empty"), (5, "expected a string")]
)
def test_bad_rows_can_stop_the_run_before_anything_is_computed(encode, tmp_path, bad, reason):
    path = write_jsonl(tmp_path / "c.jsonl", ["the cat", bad])
    code, _, err = encode(path, "corpus.on_bad_row=refuse_all")
    assert code == 1
    assert f"{path} line 2: {reason}" in err and "corpus.on_bad_row=keep_all keeps such rows" in err
    assert not (tmp_path / "out").exists()


def test_long_texts_can_stop_the_run_before_anything_is_computed(encode, tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", ["the cat", None, "big " * 100, "red " * 90])
    code, _, err = encode(path, "corpus.long_text=error")
    assert code == 1
    assert f"2 texts are longer than the 64 tokens that the model reads; the first is {path} line 3 with 102" in err
    assert not list((tmp_path / "out").glob("part-*"))


def test_chunks_of_a_long_text_are_embedded_like_texts_of_their_own(encode, tmp_path, tiny_model_folder):
    from sentence_transformers import SentenceTransformer

    text = " ".join(WORDS[i % len(WORDS)] for i in range(300))
    path = write_jsonl(tmp_path / "c.jsonl", [text, "the cat"])
    code, out, err = encode(path, "corpus.long_text=chunk", "corpus.chunk_pooling=none", "corpus.chunk_overlap=5")
    assert code == 0, err
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["id"] for row in rows] == [0] * (len(rows) - 1) + [1]
    assert [row["chunk"] for row in rows] == [*range(len(rows) - 1), 0]
    words = [row["text"].split() for row in rows[:-1]]
    assert words[0] + [word for piece in words[1:] for word in piece[5:]] == text.split()
    model = SentenceTransformer(str(tiny_model_folder), device="cpu")
    expected = model.encode([row["text"] for row in rows])
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    assert (last_json(out)["encode/long_rows"], last_json(out)["encode/truncated_rows"]) == (1, 0)

    code, _, err = encode(path, "corpus.long_text=chunk", "corpus.chunk_overlap=5", output=tmp_path / "mean")
    assert code == 0, err
    first, second = pq.read_table(tmp_path / "mean" / "part-00000.parquet").column("embedding").to_pylist()
    mean = expected[:-1].mean(axis=0)
    np.testing.assert_allclose(first, mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(second, expected[-1], atol=1e-5)


def test_templates_and_kept_columns_go_with_their_rows(encode, tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", ["the cat", "a dog"], title=["one", None], year=[1999, 2001])
    code, _, err = encode(path, "corpus.template='{title}: {text} ({year})'", "corpus.keep_columns=[year,title]")
    assert code == 0, err
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet").drop_columns("embedding").to_pydict() == {
        "id": [0, 1],
        "text": ["one: the cat (1999)", ": a dog (2001)"],
        "year": [1999, 2001],
        "title": ["one", None],
    }
