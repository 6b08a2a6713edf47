"""Command line -> Hydra overrides -> checked config, and the config files themselves."""

import dataclasses
import random
import re
import shlex
from pathlib import Path

import pytest
import yaml
from omegaconf import MISSING, OmegaConf

from steps.common.errors import UserError
from steps.common.launch import arguments
from steps.common.launch.arguments import translate
from steps.common.launch.check import check, describe_type, share_out
from steps.common.launch.config import STEPS
from steps.common.launch.overrides import CHAIN, field_type, groups, known_keys, parse, quote
from steps.common.project import CONF, PROJECT
from steps.main import step_parameters

MLPROJECT = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))

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


def composed(step: str, *argv: str):
    """The config of a step called with these words."""
    given = translate(step, list(argv))
    (config,) = check(step, given.overrides, given.multirun)
    return config


def plain(config) -> dict:
    return OmegaConf.to_container(config, enum_to_str=True)


def refusal(step: str, *argv: str) -> str:
    with pytest.raises(UserError) as caught:
        given = translate(step, list(argv))
        check(step, given.overrides, given.multirun)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# translation


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
    message = refusal("encode", "--corpus")
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
    assert "splits words" in refusal("encode", "--overrides", "'never closed")


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
        "--config-dir /x",
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


@pytest.mark.parametrize("flag", ["--cfg=job", "--config-dir=/x", "--info=defaults"])
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


# strings arrive as they were typed


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
    message = refusal(step, word)
    assert f"Did you mean {nearest!r}?" in message


def test_a_key_like_no_other_is_refused_without_a_guess():
    message = refusal("encode", "zzz=1")
    assert "'zzz'" in message and "Did you mean" not in message and "python -m steps.encode --cfg job" in message


def test_a_key_of_another_step_is_refused():
    assert "'suite.threshold'" in refusal("encode", "suite.threshold=3")


@pytest.mark.parametrize("word", ["~corpus.path", "~backend", "~keep_text"])
def test_a_key_cannot_be_removed(word):
    message = refusal("encode", word)
    assert repr(word[1:]) in message and "cannot be removed" in message


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
    assert expected in refusal(step, word)


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
    ],
)
def test_a_value_out_of_range_says_the_least_one(step, word, expected):
    assert expected in refusal(step, word)


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
    message = refusal(step, word)
    assert f"Did you mean {nearest!r}?" in message
    assert "Choose one of:" in message and nearest in message.partition("Choose one of:")[2]


@pytest.mark.parametrize("word", ["--model=with space", "--model=a,b", "model='../../etc/passwd'", "model="])
def test_a_strange_member_of_a_group_is_refused(word):
    assert "conf/model/" in refusal("log_model", word)


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
    assert f"{key} is required here: give -P {key}=<value>" in refusal(step, *words)


@pytest.mark.parametrize(
    "word",
    ["word", "a b=c", "rows_per_part=$(ls)", "keep_text='open", "corpus.keep_columns={a", "-x", "corpus.quoting=a]"],
)
def test_an_override_that_cannot_be_read_is_shown_and_explained(word):
    message = refusal("encode", word)
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
    message = refusal("encode", word)
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
    assert expected in refusal("encode", "--multirun", *words)


def test_main_sweeps_nothing_and_says_so_with_or_without_multirun():
    assert "one chain at a time" in refusal("main", "-m", "model=local,hub")
    assert "Add --multirun" not in refusal("main", "model=local,hub")


# main


def test_main_gathers_what_is_not_its_own_into_one_list():
    config = composed("main", "model=local", "--model.path", "/a b", "suite.threshold=50", "backend.batch_size=8")
    assert list(config.overrides) == ["model=local", "model.path='/a b'", "suite.threshold=50", "backend.batch_size=8"]


def test_main_leaves_the_settings_of_hydra_to_hydra():
    assert translate("main", ["hydra.verbose=true", "model=local"]).overrides == [
        "hydra.verbose=true",
        "overrides=['model=local']",
    ]


@pytest.mark.parametrize(
    "words, needed",
    [
        (["output=out"], False),
        (["--run", "output=out"], False),
        (["output=hydra.out"], False),
        (["output=out", "hydra.verbose=true"], True),
        (["+hydra/env=x"], True),
        (["--multirun", "output=a,b"], True),
        (["--cfg", "job"], True),
        (["--help"], True),
    ],
)
def test_hydra_is_called_for_a_sweep_for_what_its_flags_show_and_for_its_own_settings(words, needed):
    assert translate("verify", words).needs_hydra is needed


def test_a_plain_run_composes_its_config_once(step, tmp_path, monkeypatch):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    composed, load = [], ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(
        ConfigLoaderImpl, "load_configuration", lambda *given, **named: composed.append(1) or load(*given, **named)
    )
    (tmp_path / "out").mkdir()
    for words in ([], ["hydra.verbose=false"]):
        code, _, err = step("verify", f"output={tmp_path / 'out'}", *words)
        assert code == 1 and "has no manifest.json" in err
    # Hydra's own way composes it for what is checked, for its mode, and for the run.
    assert len(composed) == 1 + 3


def test_main_without_anything_given_has_no_overrides():
    assert translate("main", []).overrides == []
    assert list(composed("main").overrides) == []


def test_each_step_of_the_chain_gets_the_overrides_it_knows():
    shares = share_out(
        [
            "model=local",
            "suite.threshold=5",
            "backend.batch_size=8",
            "corpus.path=a",
            "+model.prompts.q=x",
            "keep_text=false",
        ]
    )
    assert shares == {
        "log_model": ["model=local", "+model.prompts.q=x"],
        "validate": ["suite.threshold=5", "backend.batch_size=8", "corpus.path=a"],
        "encode": ["backend.batch_size=8", "corpus.path=a", "keep_text=false"],
    }


def test_nothing_to_share_leaves_every_step_its_defaults():
    assert share_out([]) == {"log_model": [], "validate": [], "encode": []}


def test_main_refuses_a_run_id():
    message = refusal("main", "--run_id", "abc")
    assert "run_id" in message and "-e encode" in message


def test_main_refuses_a_key_that_no_step_knows():
    assert "no step of main has a config key 'zzz'" in refusal("main", "zzz=1")


def test_declared_parameters_of_a_step_are_told_apart_from_its_other_overrides():
    assert step_parameters(
        "encode", ["corpus.path='a b'", "output=x", "keep_text=false", "embedding.dtype=float16"]
    ) == {
        "corpus": "a b",
        "output": "x",
        "overrides": "keep_text=false embedding.dtype=float16",
    }
    assert step_parameters("log_model", ["+model.prompts.q='a b'"]) == {
        "overrides": shlex.join(["+model.prompts.q='a b'"])
    }
    assert step_parameters("validate", []) == {}


# MLproject and conf/ agree


def default_words(entry_point: str) -> list[str]:
    """The words a step gets when nothing is given: the command of MLproject with its defaults."""
    entry = MLPROJECT["entry_points"][entry_point]
    words = shlex.split(entry["command"])
    assert words[:3] == ["python", "-m", f"steps.{entry_point}"]
    return [
        word.format(**{name: parameter["default"] for name, parameter in entry["parameters"].items()})
        for word in words[3:]
    ]


@pytest.mark.parametrize("step", CHAIN)
def test_the_defaults_of_mlproject_are_those_of_the_config(step):
    assert plain(composed(step, *default_words(step))) == plain(composed(step))


def test_the_defaults_of_main_in_mlproject_are_those_of_the_steps():
    for step, share in share_out(list(composed("main", *default_words("main")).overrides)).items():
        (config,) = check(step, share)
        assert plain(config) == plain(composed(step))


def test_every_step_is_an_entry_point_and_the_tests_and_the_checks_are_one_too():
    assert set(MLPROJECT["entry_points"]) == {*STEPS, "test", "check"}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_a_script_a_config_and_an_entry_point(step):
    """With its entry in STEPS, that is all there is to one; a script has two halves."""
    assert (CONF / f"{step}.yaml").is_file() and step in MLPROJECT["entry_points"]
    text = (PROJECT / "steps" / f"{step}.py").read_text(encoding="utf-8")
    first, launch, second = text.partition(f'launch("{step}", open_inputs, manual=__doc__')
    assert "def open_inputs(call: Call[" in first and launch and "def main(call: Call[" in second


@pytest.mark.parametrize("entry_point", MLPROJECT["entry_points"])
def test_an_entry_point_passes_each_parameter_on_under_its_own_name(entry_point):
    entry = MLPROJECT["entry_points"][entry_point]
    pairs = re.findall(r"--(\w+)[ =]\{(\w+)\}", entry["command"])
    assert pairs == [(name, name) for name in entry.get("parameters", {})]
    assert all(parameter["type"] == "string" for parameter in entry.get("parameters", {}).values())


CONF_FILES = [path.relative_to(CONF).as_posix() for path in sorted(CONF.rglob("*.yaml"))]


def step_with(group: str) -> str:
    return next(step for step, schema in STEPS.items() if field_type(schema, group) is not None)


CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]


@pytest.mark.parametrize("step", STEPS)
def test_the_config_of_a_step_composes(step):
    text = yaml.safe_load((CONF / f"{step}.yaml").read_text(encoding="utf-8"))
    check(step, [f"{key}=x" for key, value in text.items() if value == MISSING])


@pytest.mark.parametrize("group, choice", CHOICES)
def test_every_choice_of_a_group_composes(group, choice):
    step = step_with(group)
    # Spark's workers need an output that they can reach.
    chosen = [f"{group}={choice}", *(["output=embeddings"] if choice == "spark" else [])]
    (config,) = check(step, chosen, complete=False)
    missing = [key for key in OmegaConf.missing_keys(config) if key.startswith(f"{group}.")]
    (config,) = check(step, [*chosen, *(f"{key}=1" for key in missing)])
    assert not OmegaConf.missing_keys(config)


@pytest.mark.parametrize("file", [file for file in CONF_FILES if "/" in file])
def test_a_file_of_a_group_gives_every_key_of_its_node_or_what_differs_from_the_file_that_does(file):
    node = field_type(STEPS[step_with(Path(file).parent.name)], Path(file).parent.name)
    text = yaml.safe_load((CONF / file).read_text(encoding="utf-8"))
    keys = [field.name for field in dataclasses.fields(node)]
    if "defaults" not in text:
        assert list(text) == keys
        return
    base, itself = text.pop("defaults")
    assert itself == "_self_"
    inherited = yaml.safe_load((CONF / file).with_name(f"{base}.yaml").read_text(encoding="utf-8"))
    assert list(text) == [key for key in keys if key in text and text[key] != inherited[key]]


def test_a_file_that_others_build_on_is_no_choice():
    assert "_base" not in groups()["model"]
    assert "there is no model '_base' in conf/model/" in refusal("log_model", "model=_base")


def test_the_backends_are_choices_without_a_file():
    assert groups()["backend"] == ["auto", "openvino", "torch"]
    assert plain(composed("encode", "backend=openvino"))["backend"] == plain(composed("encode"))["backend"] | {
        "name": "openvino",
        "precision": "f32",
        "device": "cpu",
    }


COMMENTED = [*(file for file in CONF_FILES if "/" not in file), "model/_base.yaml", "backend/auto.yaml"]


@pytest.mark.parametrize("file", COMMENTED)
def test_every_key_has_a_comment_above_it(file):
    lines = (CONF / file).read_text(encoding="utf-8").splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r" *\w+:", line) and line != "defaults:"]
    assert keys and all(lines[number - 1].lstrip().startswith("#") for number in keys)


@pytest.mark.parametrize(
    ("step", "old", "new"),
    [
        ("log_model", "+model.known.pooling", "model.expected_facts.pooling"),
        ("validate", "tolerance.spearman", "tolerance.score"),
        ("validate", "max_cosine", "tolerance.max_cosine"),
        ("validate", "serving.seconds", "serving.load_seconds"),
    ],
)
def test_a_key_that_was_renamed_leads_to_its_new_name(step, old, new):
    assert f"Did you mean {new!r}?" in refusal(step, f"{old}=1")


def leaves(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("step", STEPS)
def test_every_key_of_the_schema_has_its_value_in_yaml(step):
    schema = STEPS[step]
    text = yaml.safe_load((CONF / f"{step}.yaml").read_text(encoding="utf-8"))
    chosen = {name for default in text.pop("defaults") if isinstance(default, dict) for name in default}
    nodes = {key for key in known_keys(schema) if dataclasses.is_dataclass(field_type(schema, key))}
    wanted = {key for key in known_keys(schema) if key not in nodes and key.partition(".")[0] not in chosen}
    # A step may set a key of a group it has chosen anew.
    assert {key for key in leaves(text) if key.partition(".")[0] not in chosen} == wanted


@pytest.mark.parametrize("step", STEPS)
def test_a_config_composes_its_schema_first_and_itself_last(step):
    defaults = yaml.safe_load((CONF / f"{step}.yaml").read_text(encoding="utf-8"))["defaults"]
    assert (defaults[0], defaults[-1]) == (f"{step}_schema", "_self_")


def nodes_of(schema: type):
    yield schema
    for field in dataclasses.fields(schema):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from nodes_of(field.type)


NODES = list(dict.fromkeys(node for schema in STEPS.values() for node in nodes_of(schema)))


@pytest.mark.parametrize("schema", NODES, ids=lambda node: node.__name__)
def test_a_dataclass_of_the_schema_holds_no_default(schema):
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.type):
            assert field.default_factory in (field.type, dataclasses.MISSING)
        else:
            assert field.default in (MISSING, dataclasses.MISSING), f"{schema.__name__}.{field.name}"


def test_every_group_of_the_schema_is_a_folder_of_conf_and_the_other_way_round():
    chosen = {
        entry
        for step in STEPS
        for entry in (
            next(iter(d)).partition("@")[0]
            for d in yaml.safe_load((CONF / f"{step}.yaml").read_text())["defaults"]
            if isinstance(d, dict)
        )
    }
    assert chosen == set(groups())


# small parts


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "an integer"),
        (float, "a number"),
        (bool, "true or false"),
        (str | None, "a string or null"),
        (list[str], "a list such as [a, b]"),
        (dict[str, str], "a mapping such as {a: b}"),
        (None, None),
    ],
)
def test_a_type_is_named_as_a_person_would(kind, words):
    assert describe_type(kind) == words


@pytest.mark.parametrize(
    ("step", "key", "kind"),
    [
        ("encode", "backend.batch_size", int),
        ("encode", "output", str | None),
        ("log_model", "model.prompts.any", str),
        ("encode", "backend.nope", None),
        ("encode", "output.x", None),
        ("encode", "", None),
    ],
)
def test_the_type_of_a_dotted_key(step, key, kind):
    assert field_type(STEPS[step], key) == kind


# settings without effect, and sweeps over one output


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
