"""Settings without effect, and sweeps over one output."""

import pytest
from helpers.configs import composed, refusal

from steps.common.errors import UserError
from steps.common.launch.arguments import translate
from steps.common.launch.check import check


@pytest.mark.parametrize(
    "words, expected",
    [
        (["corpus.chunk_pooling=none"], "corpus.chunk_pooling changes nothing with corpus.long_text=truncate; it is for corpus.long_text=chunk."),
        (["--corpus.chunk_pooling", "mean"], "corpus.chunk_pooling changes nothing"),
        (["corpus.chunk_overlap=3", "corpus.long_text=error"], "corpus.chunk_overlap changes nothing with corpus.long_text=error"),
        (["corpus.text_column=a", "corpus.template='{b}'"], "corpus.text_column changes nothing with corpus.template={b}; it is for corpus.template=null"),
        (["backend=torch", "backend.streams=2"], "backend.streams changes nothing with backend.name=torch; it is for backend.name=openvino"),
        (["accept_changes=[code]"], "accept_changes is for an output that was begun before; give -P output="),
    ],
)  # fmt: skip
def test_a_setting_of_encode_without_effect_is_refused(words, expected):
    assert expected in refusal("encode", *words)


@pytest.mark.parametrize(
    "step, words, expected",
    [
        ("validate", ["serving.enabled=false", "serving.port=5001"], "serving.port changes nothing with serving.enabled=false; it is for serving.enabled=true."),
        ("validate", ["suite.query=q"], "suite.query is for a suite of kind retrieval, index, not sts."),
        ("validate", ["suite=own", "suite.path=a.csv"], "suite.path is for a suite of kind sts, paraphrase, retrieval, index, not known_item."),
        ("validate", ["suites.halves.score=s"], "suites.halves.score is for a suite of kind sts, paraphrase, not known_item."),
        ("validate", ["suite=stsb", "suite.path=a.csv", "suite.split=dev"], "suite.split changes nothing with suite.path=a.csv; it is for suite.path=null."),
        ("main", ["suite.title=t"], "suite.title is for a suite of kind known_item, not sts."),
        ("benchmark", ["suite.threshold=3"], "suite.threshold changes nothing in a benchmark"),
        ("benchmark", ["suite.index=latest"], "suite.index is for a suite of kind index, not sts."),
        ("benchmark", ["backend=torch"], "backend changes nothing in a benchmark, which times each of `candidates`."),
        ("benchmark", ["backend.precision=bf16"], "backend.precision changes nothing in a benchmark"),
        ("benchmark", ["corpus.id_column=id"], "benchmark has no config key 'corpus.id_column'."),
    ],
)  # fmt: skip
def test_a_setting_of_another_step_without_effect_is_refused(step, words, expected):
    assert expected in refusal(step, *words)


def test_a_setting_of_encode_is_accepted_with_what_it_is_for():
    composed("encode", "corpus.long_text=chunk", "corpus.chunk_pooling=none", "corpus.chunk_overlap=3")
    composed("encode", "corpus.text_column=a")
    composed("encode", "--corpus.template={b}")
    composed("encode", "backend=openvino", "backend.streams=2")
    composed("encode", "backend.streams=2")
    composed("encode", "accept_changes=[code]", "output=x")


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
    with pytest.raises(UserError, match="chunk_pooling changes nothing"):
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
    message = refusal("encode", "--multirun", *words)
    assert "jobs of this sweep share one output" in message and f"Give {name}, or leave output out" in message


def test_a_sweep_with_an_output_for_each_job_is_accepted():
    words = ["backend.batch_size=16,32", "keep_text=true,false", "output=x-${backend.batch_size}-${keep_text}"]
    outputs = {config.output for config in check("encode", words, multirun=True)}
    assert outputs == {"x-16-True", "x-32-True", "x-16-False"}
    check("encode", ["backend.batch_size=16,32"], multirun=True)
    check("encode", ["backend.batch_size=16", "output=x"], multirun=True)
    check("encode", ["output=x,y"], multirun=True)
