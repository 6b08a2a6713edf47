"""The benchmark: fakes whose times are set, a model whose products can be counted by hand, and the step itself."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.steps import last_json

from steps.common.backends import machine
from steps.common.backends.hardware import why_emulated

VECTORS = np.eye(3, dtype=np.float32)


def sleeper(seconds, vectors=VECTORS):
    def encode(texts):
        time.sleep(seconds)
        return vectors[: len(texts)]

    return encode


@pytest.fixture
def benchmark():
    from steps.common.quality import benchmark

    return benchmark


def contender(benchmark, name, encode, precision="f32", **more):
    return benchmark.Contender(name, precision, encode, load_seconds=1.0, load_mb=100.0, **more)


def test_every_contender_runs_in_every_round_in_turns(benchmark):
    calls = []

    def recording(name):
        return lambda texts: calls.append((name, len(texts))) or VECTORS[: len(texts)]

    contenders = [contender(benchmark, name, recording(name)) for name in ("stock", "fast")]
    benchmark.warm_up(contenders, ["a"] * 90, 0.25)
    assert calls == [("stock", 2), ("fast", 2), ("stock", 8), ("fast", 8), ("stock", 9), ("fast", 9)]
    calls.clear()
    benchmark.run_rounds(contenders, ["a", "b", "c"], 2, calls.append, 0.25)
    assert calls == [0, ("stock", 3), ("fast", 3), 1, ("stock", 3), ("fast", 3)]
    assert benchmark.running(contenders) == contenders
    assert [len(one.seconds) for one in contenders] == [2, 2]


def test_the_ratio_is_the_median_of_pairs_and_the_share_is_of_the_peak_of_its_precision(benchmark):
    other = np.array([[1, 0, 0], [0, 1, 0], [0, 0.6, 0.8]], np.float32)
    of_stock = {"seconds": [4.0, 8.0, 6.0], "extra_mb": [10.0], "embeddings": VECTORS}
    of_fast = {"seconds": [2.0, 2.0, 1.0], "extra_mb": [5.0, 20.0], "embeddings": other}
    contenders = [
        contender(benchmark, "stock", sleeper(0), **of_stock),
        contender(benchmark, "fast", sleeper(0), "bf16", padding_share=lambda: 0.25, **of_fast),
    ]
    stock, fast = benchmark.summarize(
        contenders,
        {"stock": 80.0, "fast": 79.5},
        tokens=60,
        flops=1e9,
        peaks={"f32": 1e9, "bf16": 2e9},
        base_mb=500.0,
    )
    assert (stock.ratio, stock.sentences_per_second, stock.tokens_per_second) == (1.0, 0.5, 10.0)
    assert stock.peak_share == pytest.approx(1 / 6)
    assert fast.ratio == 4.0
    assert fast.peak_share == pytest.approx(0.25)
    assert fast.peak_mb == 620.0
    assert fast.cosine_min == pytest.approx(0.8)
    assert fast.cosine_mean == pytest.approx(2.8 / 3)
    assert fast.score_difference == -0.5
    assert fast.padding_share == 0.25


def test_what_cannot_be_measured_is_left_empty(benchmark):
    contenders = [contender(benchmark, "stock", sleeper(0), "fp16", seconds=[1.0], embeddings=VECTORS)]
    (row,) = benchmark.summarize(contenders, {"stock": 1.0}, tokens=1, flops=1.0, peaks={"fp16": None}, base_mb=1.0)
    assert row.peak_share is None and row.peak_mb is None
    assert "stock" in benchmark.as_table([row])


def test_the_operations_of_a_bert_are_counted_as_by_hand(benchmark, tiny_model_folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model_folder), device="cpu")
    lengths = np.array([5, 20])
    hidden, inner, layers = 32, 64, 2
    weights = layers * (4 * hidden * hidden + 2 * hidden * inner)
    attention = layers * 2 * hidden
    # BERT's pooler looks at the first token of each text; the polynomial has no term for it.
    pooler = 2 * hidden * hidden
    expected = 2 * weights * lengths.sum() + 2 * attention * (lengths**2).sum()
    assert machine.matrix_flops(model, lengths) == pytest.approx(expected, rel=pooler / expected * 10)


@pytest.fixture
def clock(benchmark, monkeypatch):
    """A clock that only `take(seconds)` moves."""
    now = [0.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])

    def take(seconds):
        now[0] += seconds

    return take


@pytest.fixture
def race(benchmark, clock):
    """The stock contender, one second a text, and another of another pace; and how many texts each was given."""

    def make(pace):
        calls = {"stock": [], "other": []}

        def encode(name, seconds):
            def run(texts):
                calls[name].append(len(texts))
                clock(pace(len(texts)) if seconds is None else seconds * len(texts))
                return np.ones((len(texts), 3), np.float32)

            return run

        return [
            contender(benchmark, "stock", encode("stock", 1.0)),
            contender(benchmark, "other", encode("other", None)),
        ], calls

    return make


def test_a_contender_that_is_far_slower_is_stopped_after_a_few_texts(benchmark, race):
    contenders, calls = race(lambda texts: 20.0 * texts)
    benchmark.warm_up(contenders, ["a"] * 1000, 0.25)
    stopped = contenders[1].stopped
    # Twice, since the first time it may have compiled something.
    assert calls == {"stock": [2, 8, 32, 100], "other": [2, 2]}
    assert (stopped.name, stopped.ratio, stopped.sentences_per_second) == ("other", 0.05, 0.05)
    assert str(stopped) == "40.0 s for 2 texts, stock 2.0 s"
    row = benchmark.as_table([], [stopped], {"torch/fp16": "fp16 is for a GPU"}).splitlines()
    assert row[1].split() == ["other", "0.05", "0"]
    assert row[2:] == [f"other was stopped: {stopped}", "torch/fp16 is left out: fp16 is for a GPU"]
    assert benchmark.as_dict([], [stopped], {}, {})["stopped"][0]["ratio"] == 0.05


def test_a_contender_that_slows_down_is_stopped_after_a_round(benchmark, race):
    contenders, calls = race(lambda texts: 20.0 * texts if texts > 100 else 1.0)
    benchmark.warm_up(contenders, ["a"] * 1000, 0.25)
    assert benchmark.running(contenders) == contenders
    benchmark.run_rounds(contenders, ["a"] * 1000, 3, lambda number: None, 0.25)
    assert benchmark.running(contenders) == contenders[:1] and calls["stock"][-3:] == [1000] * 3
    assert calls["other"].count(1000) == 1 and contenders[1].stopped.texts == 1000


@pytest.mark.parametrize(
    "pace, stop_below",
    [
        (lambda texts: 3.9 * texts, 0.25),
        (lambda texts: 20.0 * texts, 0.0),
        # What is compiled the first time is forgiven.
        (lambda texts, seen=[]: 1.0 * texts if texts in seen else seen.append(texts) or 100.0, 0.25),  # noqa: B006
    ],
    ids=["not far", "asked not to", "compiles"],
)
def test_a_contender_that_may_go_on_goes_on(benchmark, race, pace, stop_below):
    contenders, _ = race(pace)
    benchmark.warm_up(contenders, ["a"] * 100, stop_below)
    assert benchmark.running(contenders) == contenders


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_the_peak_of_the_machine_is_measured(benchmark, monkeypatch, precision):
    if why := why_emulated(precision, "cpu"):
        pytest.skip(why)
    monkeypatch.setitem(machine.PEAK_SIDE, "cpu", 128)
    assert machine.matrix_peak(precision, "cpu") > 1e6


def test_the_peak_of_an_emulated_precision_is_not_measured(benchmark, monkeypatch):
    monkeypatch.setattr(machine, "why_emulated", lambda precision, device: "it has none")
    monkeypatch.setattr(machine, "_torch_product", lambda *given: pytest.fail("a product was made"))
    assert machine.matrix_peak("bf16", "cpu") is None


def test_there_is_no_peak_of_float16_on_a_cpu(benchmark):
    assert machine.matrix_peak("fp16", "cpu") is None


def test_the_peak_of_memory_is_that_of_the_call(benchmark):
    if not machine.reset_peak():
        pytest.skip("this system cannot reset the peak")
    before = machine.rss_mb()
    # Above 32 MB: what is smaller may come from memory that an earlier test has freed.
    block = np.ones(100_000_000, np.uint8)
    del block
    assert machine.peak_mb() - before > 90
    machine.reset_peak()
    assert machine.peak_mb() - machine.rss_mb() < 10


def test_texts_are_taken_evenly_and_nulls_are_not(tmp_path):
    from helpers.corpora import open_corpus

    from steps.common.corpus.sample import pick_texts

    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": None if i % 10 == 9 else f"t{i}"}) + "\n" for i in range(100)))
    corpus = open_corpus(path)
    assert pick_texts(corpus, 9) == [f"t{i}" for i in (0, 11, 22, 33, 44, 55, 66, 77, 88)]
    assert len(pick_texts(corpus, 1000)) == 90
    # To the end of the corpus, also where it is not a multiple.
    assert pick_texts(corpus, 60)[-1] == "t97"


def test_the_step_compares_what_can_run_and_says_why_the_rest_cannot(step, tiny_run, tiny_suite):
    import mlflow

    code, out, err = step(
        "benchmark",
        f"--run_id={tiny_run['run_id']}",
        "--corpus",
        "sample",
        f"suite.path={tiny_suite}",
        "candidates=[torch/f32,torch/fp16,openvino/f32]",
        "rows=24",
        "repeats=2",
    )
    assert code == 0, err
    run_id = last_json(out)["run_id"]
    report = mlflow.artifacts.load_dict(f"runs:/{run_id}/benchmark.json")
    assert [row["name"] for row in report["rows"]] == ["stock", "torch/f32", "openvino/f32"]
    assert "fp16 is for a GPU" in report["left_out"]["torch/fp16"]
    assert all(row["cosine_min"] > 0.9999 and len(row["seconds"]) == 2 for row in report["rows"])
    assert all(row["score_difference"] == pytest.approx(0, abs=0.01) for row in report["rows"])
    assert report["texts"] == 24
    assert report["corpus"]["sources"][0]["path"].endswith("sample_corpus.csv")
    run = mlflow.get_run(run_id)
    assert run.data.metrics["benchmark/openvino-f32/ratio"] == report["rows"][2]["ratio"]
    assert run.data.tags["model_id"] == tiny_run["model_id"]
    chart = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/benchmark.png")
    assert Path(chart).read_bytes().startswith(b"\x89PNG")
    assert "x stock" in out and "openvino/f32" in out


def test_an_emulated_precision_is_left_out_unless_it_is_asked_for(step, tiny_run, tiny_suite, monkeypatch):
    import mlflow

    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")

    def report(*words):
        code, out, err = step(
            "benchmark", f"run_id={tiny_run['run_id']}", f"suite.path={tiny_suite}", "rows=4", "repeats=1", *words
        )
        assert code == 0, err
        return mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/benchmark.json"), out

    found, out = report()
    assert [row["name"] for row in found["rows"]] == ["stock", "torch/f32", "openvino/f32"]
    assert list(found["left_out"]) == ["torch/bf16", "torch/fp16", "openvino/bf16", "openvino/int8"]
    reason = "ONEDNN_MAX_CPU_ISA=AVX2 rules out the instructions for bf16, so it is emulated; candidates=[torch/bf16] times it nevertheless"
    assert found["left_out"]["torch/bf16"] == reason
    assert f"torch/bf16 is left out: {reason}" in out

    found, _ = report("candidates=[torch/bf16]", "stop_below=0")
    assert [row["name"] for row in found["rows"]] == ["stock", "torch/bf16"]
    assert "bf16" not in found["matrix_peak_gflops"] and found["rows"][1]["peak_share"] is None


def test_a_corpus_of_nulls_is_one_line_before_anything_is_loaded(step, tmp_path):
    (tmp_path / "nulls.jsonl").write_text('{"text": null, "body": "a"}\n' * 3)
    code, _, err = step("benchmark", "run_id=there-is-none", f"corpus={tmp_path}/nulls.jsonl")
    assert code == 1
    assert err == (
        f"error: corpus.path={tmp_path}/nulls.jsonl: all 3 rows are null in 'text'; expected at least one text. Name the column that holds them: corpus.text_column=<column>.\n"
    )


def test_a_corpus_of_fewer_texts_than_asked_for_is_compared_whole(step, tiny_run, tiny_suite, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": null}\n{"text": "the cat"}\n')
    code, out, err = step(
        "benchmark", f"corpus={tmp_path}/one.jsonl", f"suite.path={tiny_suite}", "candidates=[openvino/f32]"
    )
    assert code == 0, err
    assert last_json(out)["texts"] == 1


def test_an_unknown_candidate_is_refused_at_once(step):
    for name in ("benchmark", "validate"):
        code, _, err = step(name, "candidates=[openvino/f64]")
        assert code == 1
        assert "there is no backend 'openvino/f64'; expected some of torch/f32" in err
