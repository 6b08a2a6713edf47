"""Words of a command line -> overrides of Hydra."""

import shlex

import pytest
from helpers.configs import MLPROJECT, composed
from helpers.errors import refusal

from steps.common.launch import arguments
from steps.common.launch.arguments import translate
from steps.common.launch.config import STEPS
from steps.common.launch.overrides import parse


def test_a_key_and_its_value_as_two_words():
    assert translate("encode", ["--backend.batch_size", "64"]).overrides == ["backend.batch_size=64"]


def test_a_key_and_its_value_as_one_word():
    assert translate("encode", ["--backend.batch_size=64"]).overrides == ["backend.batch_size=64"]


def test_hydra_overrides_pass_as_they_are():
    words = [
        "backend.batch_size=64",
        "+model.prompts.q='a b'",
        "~model.prompts",
        "++keep_text=false",
        "corpus.path='a, b'",
    ]
    assert translate("encode", words).overrides == words


def test_the_value_after_a_key_may_look_like_a_flag():
    assert composed("encode", "--corpus", "--multirun").corpus.path == "--multirun"
    assert composed("encode", "--corpus", "--cfg").corpus.path == "--cfg"


def test_an_empty_value_is_nothing_given():
    assert translate("encode", ["--output", "", "--corpus=", "--overrides", "", ""]) == arguments.Arguments([], [])


def test_a_key_without_a_value_says_what_to_type():
    message = refusal(composed, "encode", "--corpus")
    assert "--corpus needs a value" in message and "--corpus <value>" in message


def test_overrides_are_split_as_a_shell_splits_words():
    words = translate(
        "encode", ["--overrides", """backend.batch_size=2 +a.b=1 ~c "corpus.path='two words'" output=x\\ y"""]
    ).overrides
    assert words == ["backend.batch_size=2", "+a.b=1", "~c", "corpus.path='two words'", "output=x y"]


def test_overrides_may_hold_keys_with_dashes_and_flags():
    given = translate("encode", ["--overrides", "--multirun --backend.batch_size 1,2"])
    assert (given.flags, given.overrides) == (["--multirun"], ["backend.batch_size=1,2"])


def test_overrides_that_no_shell_could_split_are_refused():
    assert "splits words" in refusal(composed, "encode", "--overrides", "'never closed")


def test_a_shell_comment_sign_in_overrides_is_kept():
    assert translate("encode", ["--overrides", "output=a#b keep_text=false"]).overrides == [
        "output='a#b'",
        "keep_text=false",
    ]


def test_the_last_of_two_values_wins():
    assert composed("encode", "--corpus", "sample", "--corpus.path", "mine.csv").corpus.path == "mine.csv"
    assert composed("encode", "--corpus", "sample", "--overrides", "corpus.path=mine.csv").corpus.path == "mine.csv"


def test_the_corpus_parameter_sets_the_path_of_the_corpus():
    assert composed("encode", "--corpus", "a.csv").corpus.path == "a.csv"


@pytest.mark.parametrize("step", ["encode", "main"])
def test_corpus_typed_by_hand_means_the_same_as_the_parameter(step):
    assert translate(step, ["corpus=a.csv"]).overrides == translate(step, ["--corpus", "a.csv"]).overrides


@pytest.mark.parametrize(
    "flags",
    [
        "--help",
        "-h",
        "--hydra-help",
        "--version",
        "--multirun",
        "-m",
        "--cfg job",
        "-c all",
        "--cfg job --package corpus --resolve",
    ],
)
def test_hydra_flags_are_kept_with_their_values(flags):
    given = translate("encode", [*flags.split(), "backend.batch_size=2"])
    assert (given.flags, given.overrides) == (flags.split(), ["backend.batch_size=2"])


def test_a_key_that_has_the_name_of_a_hydra_flag_is_the_key_where_it_has_a_value():
    """mlflow run -e promote -P version=previous arrives as --version previous, and Hydra would show its own version."""
    for words in (["--version", "previous"], ["--version=previous"]):
        found = translate("promote", ["--name", "tiny", *words, "--reason", "slower", "--overrides", ""])
        assert (found.flags, found.overrides) == ([], ["name=tiny", "version=previous", "reason=slower"])
    assert translate("promote", ["--version"]).flags == ["--version"]
    for entry_point, spec in MLPROJECT["entry_points"].items():
        for key in {*spec.get("parameters", {})} - {"overrides"} if entry_point in STEPS else ():
            assert translate(entry_point, [f"--{key}", "x"]).flags == []


@pytest.mark.parametrize("flag", ["--cfg=job", "--package=corpus", "--info=defaults"])
def test_a_hydra_flag_may_hold_its_value_after_an_equals_sign(flag):
    given = translate("encode", [flag])
    assert (" ".join(given.flags).replace("=", " "), given.overrides) == (flag.replace("=", " "), [])


def test_info_takes_a_value_or_none():
    given = translate("encode", ["--info", "defaults", "backend.batch_size=2"])
    assert (given.flags, given.overrides) == (["--info", "defaults"], ["backend.batch_size=2"])
    given = translate("encode", ["--info", "backend.batch_size=2"])
    assert (given.flags, given.overrides) == (["--info"], ["backend.batch_size=2"])


def test_a_multirun_runs_the_step_and_help_does_not():
    assert translate("encode", []).runs_the_step
    assert translate("encode", ["-m"]).runs_the_step and translate("encode", ["-m"]).multirun
    assert not translate("encode", ["--help"]).runs_the_step
    assert not translate("encode", ["--cfg", "job"]).runs_the_step
    assert not translate("encode", ["--cfg", "job"]).multirun


@pytest.mark.parametrize(
    "flag", ["--config-name", "-cn", "--config-path", "-cp", "--config-dir", "--experimental-rerun"]
)
def test_another_config_than_that_of_the_step_is_refused(flag):
    for words in ([f"{flag}=x"], [flag, "x"], [flag]):
        assert refusal(translate, "encode", words).startswith(
            f"{flag} is not used here: the config is conf/encode.yaml."
        )


@pytest.mark.parametrize(
    "word, expected",
    [
        ("--info=x", "--info takes one of all, config, defaults, defaults-tree, plugins, searchpath, not 'x'."),
        ("--cfg=x", "--cfg takes one of job, hydra, all, not 'x'."),
        ("-c=", "-c takes one of job, hydra, all, not ''."),
        ("--multirun=3", "--multirun takes no value, and '3' was given. Type --multirun alone."),
        ("--cfg", "--cfg needs a value"),
    ],
)
def test_a_value_that_a_flag_of_hydra_does_not_take_is_refused(word, expected):
    assert refusal(translate, "encode", [word]).startswith(expected)


@pytest.mark.parametrize("words", [["-P", "corpus=x"], ["-Pcorpus=x"]])
def test_a_parameter_typed_as_for_mlflow_run_is_answered_with_what_to_type(words):
    assert refusal(translate, "encode", words) == "-P belongs to mlflow run; type corpus=x here."


@pytest.mark.parametrize("words", [["query=a\udcff"], ["--query", "a\udcff"], ["--overrides", "query='a\udcff'"]])
def test_a_word_that_is_not_utf_8_is_refused(words):
    message = refusal(translate, "search", words)
    assert "a\\xff" in message and "is not UTF-8. Type it in a terminal that is set to UTF-8" in message
    message.encode("utf-8")


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 2000 + "]" * 2000, '{"a": [' * 20_000])
def test_a_long_text_of_brackets_is_taken_as_it_is(text):
    for words in ([f"filter={text}"], ["--filter", text], ["--overrides", f"filter={shlex.quote(text)}"]):
        (override,) = parse(translate("search", words).overrides)
        assert override.value() == text


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 2000 + "]" * 2000, "{a: (" * 20_000])
def test_more_brackets_than_can_be_read_are_refused_in_a_short_line(text):
    message = refusal(composed, "encode", f"corpus.keep_columns={text}")
    assert "brackets, expected at most 200" in message and len(message) < 600
    assert "brackets, expected at most 200" in refusal(translate, "validate", [f"suite={text}"])


def test_many_brackets_in_quotes_are_read():
    assert composed("log_model", "examples=['" + "[" * 500 + "']").examples == ["[" * 500]
