"""What is known of weights, what was recorded of a model, and what another model has otherwise."""

import json

import pytest
from helpers.steps import last_json

from steps.common.model.facts import facts
from steps.common.validation.checks import failed
from steps.common.validation.identity import (
    COMPARED,
    FactChange,
    check_known,
    check_unchanged,
    compare_facts,
    find_known,
    known_models,
)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def minilm_facts(**others: str) -> tuple[dict[str, str], dict[str, str]]:
    """Tags under a name of one's own, and facts by which the weights are known all the same."""
    known = next(known for name, _, known in known_models() if name == MINILM)
    return {"hub_id": "local"}, dict(known) | others


def stopped(tags: dict[str, str], found: dict[str, str]) -> dict[str, str]:
    """Each fact of known weights that fails, with what its check says."""
    return {check.name: check.threshold for check in failed(check_known(*find_known(tags, found), found))}


def test_empty_prompts_are_none_and_the_others_stand_in_the_order_of_their_names(own_tiny_model):
    assert facts(own_tiny_model)["prompts"] == '{"query": "the cat: "}'
    assert facts(own_tiny_model)["default_prompt"] == "none"
    own_tiny_model.prompts = {"z": "zé: ", "query": "", "a": "a: "}
    own_tiny_model.default_prompt_name = "z"
    assert facts(own_tiny_model)["prompts"] == '{"a": "a: ", "z": "zé: "}'
    assert facts(own_tiny_model)["default_prompt"] == "zé: "
    own_tiny_model.default_prompt_name = "query"
    assert facts(own_tiny_model)["default_prompt"] == "none"


def test_known_weights_as_they_are_known_pass():
    assert stopped(*minilm_facts()) == {}


@pytest.mark.parametrize(
    "fact, found, typed",
    [
        ("max_seq_length", "16", "-P model.expected_facts.max_seq_length=16"),
        ("default_prompt", "query: ", "-P 'model.expected_facts.default_prompt=query: '"),
        ("prompts", '{"query": "query: "}', """-P 'model.expected_facts.prompts={"query": "query: "}'"""),
    ],
)
def test_known_weights_with_another_input_are_stopped_and_the_line_says_what_to_type(fact, found, typed):
    tags, changed = minilm_facts(**{fact: found})
    (line,) = stopped(tags, changed).items()
    assert line[0] == f"known/{fact}"
    assert line[1].endswith(f"if {found} is meant, log the model again with {typed}")
    declared = tags | {"expected_facts": json.dumps({fact: found})}
    assert stopped(declared, changed) == {}


def test_other_weights_under_a_known_name_are_not_to_be_declared():
    tags, found = minilm_facts(parameters_sha256="0" * 64)
    line = stopped(tags | {"hub_id": MINILM}, found)["known/parameters_sha256"]
    assert "-P" not in line


def test_declared_prompts_may_be_written_in_any_order_and_with_empty_ones(own_tiny_model):
    declared = {"prompts": '{"query":"the cat: ","document":""}'}
    assert not failed(check_known("local", declared, facts(own_tiny_model)))
    assert failed(check_known("local", {"prompts": "the cat"}, facts(own_tiny_model)))


def test_every_model_of_the_project_declares_its_input():
    for name, _, known in known_models():
        assert {"max_seq_length", "prompts", "default_prompt"} <= known.keys(), name


def test_what_an_older_version_did_not_record_is_not_compared(own_tiny_model):
    recorded = {
        name: value for name, value in facts(own_tiny_model).items() if name not in ("prompts", "default_prompt")
    }
    assert len(check_unchanged(recorded, facts(own_tiny_model))) == len(COMPARED) - 2
    own_tiny_model.default_prompt_name = "query"
    assert compare_facts(facts(own_tiny_model), recorded, "champion") == []


def test_facts_that_differ_from_the_champion_are_named_with_both_values(own_tiny_model):
    recorded = facts(own_tiny_model)
    own_tiny_model.max_seq_length = 16
    own_tiny_model.default_prompt_name = "query"
    assert compare_facts(facts(own_tiny_model), recorded, "champion") == [
        FactChange("max_seq_length", "16", "64", "champion"),
        FactChange("default_prompt", "the cat: ", "none", "champion"),
    ]


def test_a_declared_prompt_reaches_validate_as_it_was_typed(step, tiny_model_folder):
    """The line that a failed check says to type, with the prompts of the model."""
    import mlflow

    code, out, err = step(
        *("log_model", "model=local", "--model.path", str(tiny_model_folder)),
        *("--model.expected_facts.prompts", '{"query": "the cat: "}', "--model.expected_facts.default_prompt", "none"),
    )
    assert code == 0, err
    tags = mlflow.get_logged_model(last_json(out)["model_id"]).tags
    assert tags["prompts"] == '{"query": "the cat: "}'
    assert not failed(check_known(*find_known(tags, tags), tags))
