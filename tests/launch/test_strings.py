"""A string arrives in the config as it was typed, by either way of giving it."""

import random
import re
import shlex

import pytest
from helpers.configs import composed, plain
from omegaconf import OmegaConf

from steps.common.errors import UserError
from steps.common.launch.arguments import translate
from steps.common.launch.check import check, share_out
from steps.common.launch.overrides import parse, quote
from steps.main import step_parameters

NASTY = [
    "two words",
    " spaces around ",
    "a,b",
    "a=b",
    "=",
    "it's",
    'say "no"',
    "'",
    '"',
    "''",
    "{a: b}",
    "[a, b]",
    "(a)",
    "$(touch /tmp/x)",
    "`ls`",
    "$HOME",
    "${oc.env:HOME}",
    "${nope}",
    "\\${a}",
    "\\\\${a}",
    "a${b}'c'",
    "$${a}",
    "\\",
    "a\\",
    "\\'",
    "C:\\data\\new.csv",
    "two\nlines",
    "tab\there",
    "Grüße 東京 Москва 🚀",
    "Bücher.csv",
    "données/тексты",
    "007",
    "1e5",
    "-5",
    "true",
    "null.csv",
    "nan",
    "~/texts",
    "+x",
    "a#b",
    "a:b",
    "@a",
    "%20",
    "*.csv",
    "a;b & c | d > e < f !",
    "--multirun",
    "choice(a,b)",
    "glob(*)",
]


@pytest.mark.parametrize("text", NASTY)
def test_a_string_arrives_as_it_was_typed(text):
    config = composed("encode", "--corpus", text, f"--output={text}")
    assert (config.corpus.path, config.output) == (text, text)


def arrives(override: str) -> tuple:
    """Key and value of an override as a config would hold them, without the time that composing takes."""
    (parsed,) = parse([override])
    assert not parsed.is_sweep_override()
    return parsed.key_or_group, OmegaConf.create({"value": parsed.value()})["value"]


def through_main(*argv: str) -> list[str]:
    """The overrides that encode gets when main is called with these words."""
    (gathered,) = translate("main", list(argv)).overrides
    _, overrides = arrives(gathered)
    parameters = step_parameters("encode", share_out(list(overrides))["encode"])
    return translate("encode", [word for name, value in parameters.items() for word in (f"--{name}", value)]).overrides


@pytest.mark.parametrize("text", NASTY)
def test_a_string_arrives_as_it_was_typed_through_main(text):
    overrides = through_main("--corpus", text, "--output", text, "--corpus.text_column", text)
    assert dict(map(arrives, overrides)) == {"corpus.path": text, "output": text, "corpus.text_column": text}


def test_a_string_arrives_through_the_composition_of_main_too():
    text = "it's \\${a}, {b}"
    config = composed("main", "--corpus", text, "--suite.name", text)
    shares = share_out(list(config.overrides))
    (encode,), (validate,) = check("encode", shares["encode"]), check("validate", shares["validate"])
    assert (encode.corpus.path, validate.suite.name) == (text, text)


PIECES = [
    *"abc019 ,.:;=+-*/\\\\\\'\"`(){}[]<>|&~!@#$%^_\t\n",
    "${",
    "${a}",
    "\\${",
    "$(",
    "ü",
    "東",
    "🚀",
    "\u2028",
    "'\\",
    "\\'",
    "''",
]


def random_texts(count: int, seed: int):
    chance = random.Random(seed)
    for _ in range(count):
        yield "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 12)))


def test_several_hundred_random_strings_arrive_as_they_were_typed():
    for text in random_texts(800, seed=1):
        (override,) = translate("encode", ["--corpus", text]).overrides
        assert arrives(override) == ("corpus.path", text)
        assert list(arrives(f"list=[{quote(override)}]")[1]) == [override]


def test_random_strings_arrive_as_they_were_typed_through_main():
    for text in random_texts(100, seed=2):
        assert dict(map(arrives, through_main("--corpus", text, "--corpus.text_column", text))) == {
            "corpus.path": text,
            "corpus.text_column": text,
        }


def test_random_strings_arrive_as_they_were_typed_through_the_whole_composition():
    for text in random_texts(15, seed=3):
        assert composed("encode", "--corpus", text).corpus.path == text


def test_quote_keeps_an_empty_string():
    assert parse([f"k={quote('')}"])[0].value() == ""


def test_null_is_given_as_null_where_a_key_may_be_null():
    assert composed("encode", "--output", "a", "--output", "null").output is None
    assert composed("encode", "--corpus", "null").corpus.path == "null"


@pytest.mark.parametrize("name", ["007", "1", "true", "null-ish", "a,b"])
def test_a_name_that_looks_like_something_else_stays_a_string(name):
    config = composed("encode", "--corpus.text_column", name, "--run_id", name)
    assert (config.corpus.text_column, config.run_id) == (name, name)


# By hand these are Hydra's: quotes round the whole value, and interpolations.
def is_hydras(text: str) -> bool:
    return bool(re.search(r"\$\{.+?\}", text, re.DOTALL)) or text in ("''", '"a"')


BY_HAND = [text for text in NASTY if not is_hydras(text)] + [
    "a/lang=en",
    "year=2024/lang=en/*.parquet",
    "~",
    "~/x=y",
    "'open",
    "{a",
    "a]",
    "$(ls)",
    "it's, or isn't",
    "NULL",
    "Null",
    "a\\,b",
    "range(1,3)",
    "s3://bucket/a b/lang=en/?endpoint_override=http://localhost:9000",
    "file:///a%20b",
    "${",
    "$",
    "-",
    ",",
    "a=${",
]


@pytest.mark.parametrize("text", BY_HAND)
def test_a_string_typed_by_hand_is_the_one_that_a_parameter_gives(text):
    by_hand = translate("encode", [f"corpus={text}", f"output={text}", f"++run_id={text}"]).overrides
    as_parameter = translate("encode", ["--corpus", text, "--output", text, "--run_id", text]).overrides
    assert list(map(arrives, by_hand)) == list(map(arrives, as_parameter))
    assert dict(map(arrives, by_hand)) == {"corpus.path": text, "output": text, "run_id": text}


@pytest.mark.parametrize("text", ["a/lang=en", "~/x", "it's", "a,b", "null", "$HOME {x}"])
def test_both_ways_compose_the_same_config(text):
    by_hand = composed("encode", f"corpus.path={text}", f"output={text}", f"corpus.id_column={text}")
    assert plain(by_hand) == plain(composed("encode", "--corpus", text, "--output", text, "--corpus.id_column", text))
    assert by_hand.corpus.path == text


def test_random_strings_typed_by_hand_are_those_that_a_parameter_gives():
    for text in random_texts(800, seed=4):
        if not is_hydras(text) and text[0] not in "'\"":
            (override,) = translate("encode", [f"corpus.path={text}"]).overrides
            assert arrives(override) == ("corpus.path", text)


@pytest.mark.parametrize("text", ["a/lang=en", "~/x", "it's", "a,b"])
def test_a_string_typed_by_hand_arrives_through_main_and_in_overrides(text):
    assert dict(map(arrives, through_main(f"corpus={text}", f"output={text}")))["corpus.path"] == text
    assert composed("encode", "--overrides", shlex.quote(f"corpus.path={text}")).corpus.path == text


def test_nothing_typed_by_hand_is_null_where_a_key_may_be_null():
    assert composed("encode", "output=").output is None
    assert composed("encode", "output=a", "output=null").output is None
    assert composed("encode", "corpus.path=null").corpus.path == "null"


def test_quotes_typed_by_hand_are_those_of_hydra():
    assert composed("encode", "corpus.path='a, b'", 'output="c=d"').corpus.path == "a, b"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a,b", ["a", "b"]),
        ("'a,b',c", ["a,b", "c"]),
        ("a/lang=en,~/b", ["a/lang=en", "~/b"]),
        ("choice(a,b)", ["a", "b"]),
    ],
)
def test_with_multirun_a_string_is_swept(text, expected):
    for words in (["-m", f"corpus.path={text}"], [f"corpus.path={text}", "--multirun"]):
        given = translate("encode", words)
        configs = check("encode", given.overrides, given.multirun)
        assert [config.corpus.path for config in configs] == expected


def test_interpolations_work_in_an_override_of_hydra():
    assert composed("encode", "corpus.text_column=${run_id}").corpus.text_column == "latest"
    assert composed("encode", "output=~/lang=en/${run_id}").output == "~/lang=en/latest"


def test_numbers_switches_and_lists_take_the_grammar_of_hydra():
    config = composed(
        "encode",
        "--backend.batch_size",
        "64",
        "--keep_text",
        "false",
        "--embedding.truncate_dim",
        "null",
        "--corpus.format",
        "jsonl",
    )
    assert (config.backend.batch_size, config.keep_text, config.embedding.truncate_dim, config.corpus.format) == (
        64,
        False,
        None,
        "jsonl",
    )
    assert composed("log_model", "--examples", "['a, b', c]").examples == ["a, b", "c"]


@pytest.mark.parametrize(
    "word", ["model.prompts.q=find", "--model.prompts.q=find", "model.prompts={q: find}", "+model.prompts.q=find"]
)
def test_a_prompt_of_a_new_name_can_be_given_or_the_error_says_how(word):
    try:
        config = composed("log_model", word)
    except UserError as error:
        assert "+model.prompts.q=" in str(error)
    else:
        assert config.model.prompts == {"q": "find"}


def test_a_prompt_that_the_config_has_can_be_changed():
    assert (
        composed("log_model", "model=bge-small-en-v1.5", "--model.prompts.query", "Find: a, b").model.prompts["query"]
        == "Find: a, b"
    )
