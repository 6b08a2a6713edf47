"""What the checks of a config refuse, in one line, before anything is loaded."""

import pytest
from helpers.configs import composed
from helpers.errors import refusal

from steps.common.launch.check import check

# what is refused


@pytest.mark.parametrize(
    ("step", "word", "nearest"),
    [
        ("encode", "backend.batchsize=3", "backend.batch_size"),
        ("encode", "--backend.batchsize=3", "backend.batch_size"),
        ("encode", "batch_size=3", "backend.batch_size"),
        ("encode", "text_colum=a", "corpus.text_column"),
        ("encode", "outptu=x", "output"),
        ("encode", "+backend.batchsize=3", "backend.batch_size"),
        ("log_model", "model.nam=x", "model.name"),
        ("validate", "suite.treshold=3", "suite.threshold"),
        ("main", "suite.treshold=3", "suite.threshold"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(step, word, nearest):
    message = refusal(composed, step, word)
    assert f"Did you mean {nearest!r}?" in message


def test_a_key_like_no_other_is_refused_without_a_guess():
    message = refusal(composed, "encode", "zzz=1")
    assert "'zzz'" in message and "Did you mean" not in message and "python -m steps.encode --cfg job" in message


def test_a_key_of_another_step_is_refused():
    assert "'suite.threshold'" in refusal(composed, "encode", "suite.threshold=3")


@pytest.mark.parametrize("word", ["~corpus.path", "~backend", "~keep_text"])
def test_a_key_cannot_be_removed(word):
    message = refusal(composed, "encode", word)
    assert repr(word[1:]) in message and "cannot be removed" in message


@pytest.mark.parametrize("step", ["validate", "main"])
def test_an_entry_of_a_mapping_can_be_added_without_a_plus_sign(step):
    composed(step, "--suite", "stsb", "--suite.references.org", "80")


def test_an_entry_of_a_mapping_can_be_removed():
    assert "query" not in composed("log_model", "model=bge-small-en-v1.5", "~model.prompts.query").model.prompts


@pytest.mark.parametrize(
    ("step", "word", "expected"),
    [
        ("encode", "backend.batch_size=many", "backend.batch_size takes an integer, not many"),
        ("encode", "--backend.batch_size=1.5", "backend.batch_size takes an integer, not 1.5"),
        ("encode", "backend.batch_size=null", "backend.batch_size takes an integer, not null"),
        ("encode", "keep_text=maybe", "keep_text takes true or false, not maybe"),
        ("encode", "embedding.truncate_dim=all", "embedding.truncate_dim takes an integer or null, not all"),
        ("encode", "embedding.dtype=float8", "embedding.dtype takes one of float32, float16, int8, binary, not float8"),
        (
            "encode",
            "corpus.format=xml",
            "corpus.format takes one of auto, arrow, csv, jsonl, orc, parquet, text, tsv, not xml",
        ),
        ("encode", "backend.precision=int4", "backend.precision takes one of auto, f32, bf16, fp16, int8, not int4"),
        ("log_model", "examples=one", "examples takes a list such as [a, b], not one"),
        ("log_model", "model.trust_remote_code=perhaps", "model.trust_remote_code takes true or false, not perhaps"),
        ("validate", "suite.threshold=high", "suite.threshold takes a number, not high"),
        ("main", "suite.threshold=high", "suite.threshold takes a number, not high"),
        ("main", "--backend.batch_size=many", "backend.batch_size takes an integer, not many"),
    ],
)
def test_a_value_of_the_wrong_type_says_what_was_expected(step, word, expected):
    assert expected in refusal(composed, step, word)


@pytest.mark.parametrize(
    "value, shown",
    [("[[a]]", "[['a']]"), ("[{a: b}]", "[{'a': 'b'}]"), ("[null]", "[null]"), ("[a,null]", "[a,null]")],
)
def test_an_entry_of_a_list_that_is_no_word_is_refused(value, shown):
    message = refusal(composed, "encode", f"corpus.keep_columns={value}")
    assert message == f"corpus.keep_columns takes a list such as [a, b], not {shown}."


@pytest.mark.parametrize(
    "step, word, typed",
    [
        ("encode", "corpus.keep_columns=lang", "corpus.keep_columns=[lang]"),
        ("encode", "accept_changes=code", "accept_changes=[code]"),
        ("benchmark", "candidates=torch/f32", "candidates=[torch/f32]"),
    ],
)
def test_a_word_in_place_of_a_list_is_shown_as_a_list(step, word, typed):
    assert refusal(composed, step, word).endswith(f" Type {typed}.")
    composed(step, typed, *(["output=x"] if step == "encode" else []))


@pytest.mark.parametrize(
    "word, meant",
    [
        ("embedding.dtype=fp16", "float16"),
        ("embedding.dtype=f32", "float32"),
        ("embedding.dtype=ubinary", "binary"),
        ("backend.precision=fp32", "f32"),
        ("backend.precision=float32", "f32"),
        ("backend.precision=half", "fp16"),
        ("backend.precision=BFloat16", "bf16"),
        ("corpus.long_text=trunkate", "truncate"),
        ("embedding.dtype=float8", None),
        ("backend.precision=int4", None),
    ],
)
def test_another_name_of_a_choice_is_answered_with_the_one_it_has_here(word, meant):
    message = refusal(composed, "encode", word)
    assert message.endswith(f" Did you mean {meant}?") if meant else "Did you mean" not in message


def test_a_backend_with_its_precision_is_shown_as_two_words():
    message = refusal(composed, "encode", "backend=openvino/int8")
    assert message == "there is no backend 'openvino/int8'. Type backend=openvino backend.precision=int8."
    composed("encode", "backend=openvino", "backend.precision=int8")


def test_a_suite_that_is_not_there_is_answered_with_those_there_are():
    has = "It has builtin, paraphrase, retrieval, perturbed, long, halves."
    assert refusal(composed, "validate", "suites.nosuch.threshold=1") == f"suites has no 'nosuch'. {has}"
    assert refusal(composed, "main", "suites.bulitin.threshold=1") == (
        f"suites has no 'bulitin'. Did you mean 'builtin'? {has}"
    )
    message = refusal(composed, "validate", "suite=builtin", "suites.nosuch.threshold=1")
    assert message.startswith("suites has no 'nosuch': a single suite is scored here, whose keys are suite.<key>.")
    assert refusal(composed, "log_model", "model.prompts.x=1").endswith("plus sign: +model.prompts.x=<value>.")


@pytest.mark.parametrize(
    ("step", "word", "expected"),
    [
        ("encode", "backend.batch_size=0", "backend.batch_size is 0; expected 1 or more"),
        ("encode", "rows_per_part=-5", "rows_per_part is -5; expected 1 or more"),
        ("encode", "embedding.truncate_dim=0", "embedding.truncate_dim is 0; expected 1 or more"),
        ("validate", "tolerance.parity=-1", "tolerance.parity is -1.0; expected 0 or more"),
        ("validate", "latency_calls=0", "latency_calls is 0; expected 1 or more"),
        ("validate", "tolerance.parity=nan", "tolerance.parity"),
        ("main", "rows_per_part=0", "rows_per_part is 0; expected 1 or more"),
        ("encode", "backend.device=tpu", "backend.device takes a value such as auto, cpu, cuda, cuda:0,cuda:1 or mps, not 'tpu'."),
        ("validate", "backend.device=''", "backend.device takes a value such as auto"),
        ("encode", "backend.device='cuda:0,cuda:x'", "backend.device takes a value such as auto"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_says_the_least_one(step, word, expected):
    assert expected in refusal(composed, step, word)


@pytest.mark.parametrize("devices", ["auto", "cpu", "mps", "cuda", "cuda:3", "cuda:0,cuda:1", "cuda:0, cuda:12"])
def test_devices_that_a_machine_may_have_are_accepted(devices):
    assert composed("encode", "--backend.device", devices).backend.device == devices


@pytest.mark.parametrize("key", ["backend.threads", "backend.streams"])
@pytest.mark.parametrize("step", ["encode", "validate", "benchmark", "similarity"])
def test_more_threads_than_a_process_can_have_are_refused(step, key):
    composed(step, f"{key}=1024")
    for count in ("1025", "99999999", "1000000000000000000000"):
        assert refusal(composed, step, f"{key}={count}") == f"{key} is {count}; expected less than 1025."


def test_the_least_value_itself_is_accepted():
    assert composed("encode", "rows_per_part=1", "embedding.truncate_dim=1").rows_per_part == 1
    assert composed("validate", "tolerance.parity=0").tolerance.parity == 0


@pytest.mark.parametrize(
    ("step", "word", "nearest"),
    [
        ("encode", "backend=tortch", "torch"),
        ("log_model", "--model=all-MiniLM-L6", "all-MiniLM-L6-v2"),
        ("main", "model=all-MiniLM", "all-MiniLM-L6-v2"),
    ],
)
def test_an_unknown_member_of_a_group_names_the_nearest_one_and_lists_all(step, word, nearest):
    message = refusal(composed, step, word)
    assert f"Did you mean {nearest!r}?" in message
    assert "Choose one of:" in message and nearest in message.partition("Choose one of:")[2]


@pytest.mark.parametrize("word", ["--model=with space", "--model=a,b", "model='../../etc/passwd'", "model="])
def test_a_strange_member_of_a_group_is_refused(word):
    assert "conf/model/" in refusal(composed, "log_model", word)


@pytest.mark.parametrize(
    ("step", "words", "key"),
    [
        ("log_model", ["model=hub"], "model.name"),
        ("log_model", ["model=local"], "model.path"),
        ("validate", ["suite=file"], "suite.path"),
        ("validate", ["suite=file", "suite.path=a"], "suite.threshold"),
        ("main", ["model=local"], "model.path"),
    ],
)
def test_a_required_key_that_is_missing_says_what_to_type(step, words, key):
    assert f"{key} is required here: give -P {key}=<value>" in refusal(composed, step, *words)


@pytest.mark.parametrize(
    "word",
    ["word", "a b=c", "rows_per_part=$(ls)", "keep_text='open", "corpus.keep_columns={a", "-x", "corpus.quoting=a]"],
)
def test_an_override_that_cannot_be_read_is_shown_and_explained(word):
    message = refusal(composed, "encode", word)
    assert repr(word) in message and "Expected key=value" in message


# sweeps


@pytest.mark.parametrize(
    "word",
    [
        "backend.batch_size=1,2",
        "--backend.batch_size=1,2",
        "backend=torch,openvino",
        "backend.batch_size=range(1,3)",
        "backend.batch_size=choice(1,2)",
    ],
)
def test_a_sweep_without_multirun_is_refused(word):
    message = refusal(composed, "encode", word)
    assert "--multirun" in message and "quote" in message


@pytest.mark.parametrize("words", [["--corpus", "a,b"], ["corpus=a,b"], ["corpus.path=choice(a,b)"]])
def test_a_string_with_a_comma_is_no_sweep(words):
    assert composed("encode", *words).corpus.path == words[-1].rpartition("=")[2]


def test_with_multirun_every_value_of_a_sweep_is_composed():
    configs = check("encode", ["backend.batch_size=1,2,3", "keep_text=true,false"], multirun=True)
    assert {config.backend.batch_size for config in configs} == {1, 2, 3}
    assert {config.keep_text for config in configs} == {True, False}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["backend.batch_size=1,0"], "backend.batch_size is 0"),
        (["backend.batch_size=8,many"], "backend.batch_size takes an integer"),
        (["backend=torch,nope"], "there is no backend 'nope'"),
        (["keep_text=true,false", "rows_per_part=5,-5"], "rows_per_part is -5"),
        (["zzz=1,2"], "'zzz'"),
    ],
)
def test_with_multirun_a_bad_value_anywhere_in_a_sweep_is_found_before_the_first_job(words, expected):
    assert expected in refusal(composed, "encode", "--multirun", *words)


def test_main_sweeps_nothing_and_says_so_with_or_without_multirun():
    assert "one chain at a time" in refusal(composed, "main", "-m", "model=local,hub")
    assert "Add --multirun" not in refusal(composed, "main", "model=local,hub")
