"""How types are named, and which type a key has."""

import pytest

from steps.common.launch.check import describe_type
from steps.common.launch.config import STEPS
from steps.common.launch.overrides import field_type


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
