"""What main takes, and what of it each step of its chain gets."""

import shlex

import pytest
from helpers.configs import composed
from helpers.errors import refusal

from steps.common.launch.arguments import translate
from steps.common.launch.check import share_out
from steps.main import step_parameters


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
    message = refusal(composed, "main", "--run_id", "abc")
    assert "run_id" in message and "-e encode" in message


def test_main_refuses_a_key_that_no_step_knows():
    assert "no step of main has a config key 'zzz'" in refusal(composed, "main", "zzz=1")


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
