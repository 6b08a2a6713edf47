"""Settings without effect, and sweeps over one output."""

import pytest
from helpers.configs import composed
from helpers.errors import refusal

from steps.common.errors import UserError
from steps.common.launch.arguments import translate
from steps.common.launch.check import check


@pytest.mark.parametrize(
    "words, expected",
    [
        (["corpus.chunk_pooling=none"], "corpus.chunk_pooling has no effect with corpus.long_text=truncate. Leave corpus.chunk_pooling out, or set corpus.long_text=chunk."),
        (["--corpus.chunk_pooling", "mean"], "corpus.chunk_pooling has no effect"),
        (["corpus.chunk_overlap=3", "corpus.long_text=error"], "corpus.chunk_overlap has no effect with corpus.long_text=error"),
        (["corpus.text_column=a", "corpus.template='{b}'"], "corpus.text_column has no effect with corpus.template={b}. Leave corpus.text_column out, or set corpus.template=null."),
        (["backend=torch", "backend.streams=2"], "backend.streams has no effect with torch. Leave backend.streams out, or use openvino."),
        (["output=table:a.b", "rows_per_part=10"], "rows_per_part has no effect with output=table:a.b, which has no parts. Leave it out."),
        (["accept_changes=[code]"], "accept_changes works only when an output is resumed. Add -P output="),
    ],
)  # fmt: skip
def test_a_setting_of_encode_without_effect_is_refused(words, expected):
    assert expected in refusal(composed, "encode", *words)


@pytest.mark.parametrize(
    "step, words, expected",
    [
        ("validate", ["serving.enabled=false", "serving.port=5001"], "serving.port has no effect with serving.enabled=false. Leave serving.port out, or set serving.enabled=true."),
        ("validate", ["suite.query=q"], "suite.query is for a suite of kind retrieval, index, not sts."),
        ("validate", ["suite=own", "suite.path=a.csv"], "suite.path is for a suite of kind sts, paraphrase, retrieval, index, not known_item."),
        ("validate", ["suites.halves.score=s"], "suites.halves.score is for a suite of kind sts, paraphrase, not known_item."),
        ("validate", ["suite=stsb", "suite.path=a.csv", "suite.split=dev"], "suite.split has no effect with suite.path=a.csv. Leave suite.split out, or set suite.path=null."),
        ("main", ["suite.title=t"], "suite.title is for a suite of kind known_item, not sts."),
        ("benchmark", ["suite.threshold=3"], "suite.threshold has no effect in a benchmark"),
        ("benchmark", ["suite.index=latest"], "suite.index is for a suite of kind index, not sts."),
        ("benchmark", ["backend=torch"], "backend has no effect in a benchmark, which times each of `candidates`."),
        ("benchmark", ["backend.precision=bf16"], "backend.precision has no effect in a benchmark"),
        ("benchmark", ["backend.streams=3", "candidates=[torch/f32]"], "backend.streams has no effect with torch."),
        ("validate", ["backend=torch", "backend.streams=4", "candidates=[torch/bf16]"], "backend.streams has no effect with torch."),
        ("similarity", ["backend=torch", "backend.streams=4"], "backend.streams has no effect with torch."),
        ("validate", ["corpus.text_column=a", "corpus.template='{b}'"], "corpus.text_column has no effect with corpus.template={b}."),
        ("validate", ["compatibility.rows=50"], "compatibility.rows has no effect without another model to compare with. Leave it out, or set champion=<run ID> or register=<name>."),
        ("validate", ["comparison.margin=1"], "comparison.margin has no effect without another model"),
        ("validate", ["suite=stsb", "suite.max_loss_to_champion=1"], "suite.max_loss_to_champion has no effect without another model"),
        ("validate", ["suites.halves.max_loss_to_champion=1"], "suites.halves.max_loss_to_champion has no effect without another model"),
        ("validate", ["comparison.promote=false", "champion=abc"], "comparison.promote has no effect with register=null. Leave comparison.promote out, or set register=<value>."),
        ("validate", ["candidates=[]", "candidate_pairs=10"], "candidate_pairs has no effect with candidates=[]."),
        ("index", ["method=exact", "graph.effort=9"], "graph.effort has no effect with method=exact. Leave graph.effort out, or set method=approximate."),
        ("index", ["method=approximate", "approximate_above=5"], "approximate_above has no effect with method=approximate. Leave approximate_above out, or set method=auto."),
        ("index", ["method=approximate", "vectors=float32", "rescore=7"], "rescore has no effect with vectors=float32."),
        ("index", ["method=exact", "rescore=7"], "rescore has no effect in an index that compares every float32 vector."),
        ("index", ["method=exact", "vectors=float32", "measure.min_recall=0.99"], "measure.min_recall has no effect in an index that compares every float32 vector."),
        ("explore", ["serve=false", "port=8265"], "port has no effect with serve=false. Leave port out, or set serve=true."),
        ("explore", ["serve=false", "top_k=3"], "top_k has no effect with serve=false."),
        ("search", ["query=x", "queries.format=csv"], "queries.format has no effect with queries.path=null. Leave queries.format out, or set queries.path=<value>."),
        ("search", ["queries=a.csv", "queries.text_column=q", "queries.template='{b}'"], "queries.text_column has no effect with queries.template={b}."),
        ("similarity", ["sentence_1=a", "sentence_2=b", "pairs.column_1=z"], "pairs.column_1 has no effect with pairs.path=null."),
        ("benchmark", ["corpus.id_column=id"], "benchmark has no config key 'corpus.id_column'."),
    ],
)  # fmt: skip
def test_a_setting_of_another_step_without_effect_is_refused(step, words, expected):
    assert expected in refusal(composed, step, *words)


def test_a_setting_of_encode_is_accepted_with_what_it_is_for():
    composed("encode", "corpus.long_text=chunk", "corpus.chunk_pooling=none", "corpus.chunk_overlap=3")
    composed("encode", "corpus.text_column=a")
    composed("encode", "--corpus.template={b}")
    composed("encode", "backend=openvino", "backend.streams=2")
    composed("encode", "backend.streams=2")
    composed("encode", "accept_changes=[code]", "output=x")


def test_a_setting_of_another_step_is_accepted_with_what_it_is_for():
    composed("validate", "backend=torch", "backend.streams=2")
    composed("validate", "register=name", "comparison.promote=false", "compatibility.rows=50")
    composed("validate", "baseline=abc", "comparison.margin=1", "suite=stsb", "suite.max_loss_to_champion=1")
    composed("benchmark", "backend.streams=2")
    composed("benchmark", "backend.streams=2", "candidates=[openvino/f32]")
    composed("index", "graph.effort=9", "approximate_above=5", "rescore=7")
    composed("index", "method=exact", "vectors=int8", "rescore=7", "measure.min_recall=0.9")
    composed("explore", "port=8265", "top_k=3")
    composed("search", "--queries", "a.csv", "queries.format=csv", "queries.template='{b}'")
    composed("similarity", "--pairs", "a.csv", "pairs.column_1=z")


def test_a_key_of_a_suite_is_accepted_where_its_kind_reads_it():
    composed("validate", "suite=stsb", "suite.split=dev", "suite.score=grade")
    composed("validate", "suites.halves.rows=50", "suites.retrieval.query=question")
    composed(
        "validate",
        "suite=file",
        "suite.path=a.csv",
        "suite.threshold=3",
        "suite.kind=retrieval",
        "suite.documents=d.csv",
    )
    # A benchmark demands no score, so a file needs no threshold.
    composed("benchmark", "suite=file", "suite.path=a.csv")


def test_main_refuses_a_setting_of_encode_without_effect():
    with pytest.raises(UserError, match="chunk_pooling has no effect"):
        given = translate("main", ["--corpus.chunk_pooling", "none"])
        check("main", given.overrides, given.multirun)


@pytest.mark.parametrize(
    "words, name",
    [
        (["backend.batch_size=16,32", "output=x"], "output='x-${backend.batch_size}'"),
        (["backend.batch_size=16,32", "--output", "a b/x"], "output='a b/x-${backend.batch_size}'"),
        (["backend=torch,openvino", "output=x"], "output='x-${backend.name}'"),
        (
            ["backend.batch_size=16,32", "keep_text=true,false", "output='x-${keep_text}'"],
            "output='x-${keep_text}-${backend.batch_size}'",
        ),
    ],
)
def test_a_sweep_over_one_output_is_refused_before_its_first_job(words, name):
    message = refusal(composed, "encode", "--multirun", *words)
    assert "jobs of this sweep share one output" in message and f"Give {name}, or leave output out" in message


def test_a_sweep_with_an_output_for_each_job_is_accepted():
    words = ["backend.batch_size=16,32", "keep_text=true,false", "output=x-${backend.batch_size}-${keep_text}"]
    outputs = {config.output for config in check("encode", words, multirun=True)}
    assert outputs == {"x-16-True", "x-32-True", "x-16-False"}
    check("encode", ["backend.batch_size=16,32"], multirun=True)
    check("encode", ["backend.batch_size=16", "output=x"], multirun=True)
    check("encode", ["output=x,y"], multirun=True)
