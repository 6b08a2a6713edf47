"""MLproject, the files of conf/ and the dataclasses of the schema say the same."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import yaml
from helpers.configs import MLPROJECT, composed, plain
from helpers.errors import refusal
from omegaconf import MISSING, OmegaConf

from steps.common.launch.check import check, share_out
from steps.common.launch.config import STEPS
from steps.common.launch.overrides import CHAIN, field_type, groups, known_keys
from steps.common.project import CONF, PROJECT


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
    assert "there is no model '_base' in conf/model/" in refusal(composed, "log_model", "model=_base")


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
    assert f"Did you mean {new!r}?" in refusal(composed, step, f"{old}=1")


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
