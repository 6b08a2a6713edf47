"""Configs made of words of a command line, as a step that was called with them would get them."""

import yaml
from omegaconf import OmegaConf

from steps.common.launch.arguments import translate
from steps.common.launch.check import check
from steps.common.project import PROJECT

MLPROJECT = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))


def composed(step: str, *argv: str):
    """The config of a step called with these words."""
    given = translate(step, list(argv))
    (config,) = check(step, given.overrides, given.multirun)
    return config


def plain(config) -> dict:
    return OmegaConf.to_container(config, enum_to_str=True)
