"""Check a command line before anything is imported that takes seconds."""

import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from steps.common.errors import UserError
from steps.common.launch.arguments import choose_suites
from steps.common.launch.config import STEPS
from steps.common.launch.effect import check_effect, check_outputs
from steps.common.launch.overrides import (
    CHAIN,
    ONE_CHAIN,
    check_member,
    field_type,
    groups,
    known_keys,
    nearest,
    nearest_choice,
    parse,
    within_dict,
)
from steps.common.project import CONF


def share_out(overrides: list[str]) -> dict[str, list[str]]:
    """Give each step of the chain the overrides it knows.

    Raises UserError for one that no step knows, or that main sets itself.
    """
    keys = [key for step in CHAIN for key in known_keys(STEPS[step])]
    shares: dict[str, list[str]] = {step: [] for step in CHAIN}
    for text, override in zip(overrides, parse(overrides)):
        key = override.key_or_group
        if override.is_sweep_override():
            raise UserError(ONE_CHAIN)
        takers = [step for step in CHAIN if field_type(STEPS[step], key) is not None]
        if key == "run_id":
            raise UserError(
                "main runs the whole chain and passes run_id on itself. Leave it out, or run one step: mlflow run . -e encode -P run_id=<run ID>."
            )
        if not takers:
            raise UserError(f"no step of main has a config key {key!r}.{nearest(key, keys)}")
        for step in takers:
            shares[step].append(text)
    return shares


def check(step: str, overrides: list[str], multirun: bool = False, complete: bool = True) -> list[DictConfig]:
    """Compose the step's config with these overrides, once for each value of a sweep.

    Args:
        complete: whether keys without a value (???) are refused; to show a config they are not.

    Raises:
        UserError: an unknown key or group member, a value of the wrong type or out of range, a missing required key.
    """
    parsed = parse(choose_suites(overrides) if step == "validate" else overrides)
    for override in parsed:
        _check_key(step, override)
        if override.is_sweep_override() and not multirun:
            raise UserError(
                f"{override.input_line!r} lists several values, which is a sweep. Add --multirun, or quote the "
                "value to use it as it is."
            )
    configs = []
    if step == "main" and multirun:
        raise UserError(ONE_CHAIN)
    with _no_hydra(), initialize_config_dir(str(CONF), version_base="1.3"):
        for choice in _choices(parsed):
            config = _compose(step, choice)
            _check_values(config, STEPS[step], complete)
            check_effect(step, parsed, config)
            configs.append(config)
    if step == "encode":
        check_outputs(parsed, configs)
    if step == "main":
        check_chain(list(configs[0].overrides), complete)
    return configs


def check_chain(overrides: list[str], complete: bool = True) -> dict[str, DictConfig]:
    """The config of each step of the chain with main's overrides, checked."""
    return {step: check(step, share, complete=complete)[0] for step, share in share_out(overrides).items()}


@contextlib.contextmanager
def _no_hydra() -> Iterator[None]:
    """Let another config be composed in a job of Hydra, which has one for the process."""
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = held


def _choices(parsed: list[Override]) -> list[list[str]]:
    """The first value of every sweep together, then each other value of each sweep in its place."""
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in parsed
    ]
    first = [options[0] for options in values]
    others = [first[:i] + [option] + first[i + 1 :] for i, options in enumerate(values) for option in options[1:]]
    return [first, *others]


def _check_key(step: str, override: Override) -> None:
    key = override.key_or_group
    if override.is_hydra_override():
        return
    kind = field_type(STEPS[step], key)
    if kind is None:
        raise UserError(
            f"{step} has no config key {key!r}.{nearest(key, known_keys(STEPS[step]))} All keys: python -m steps.{step} --cfg job"
        )
    is_suite = override.is_delete() and override.package is not None
    if override.is_delete() and not is_suite and not _may_be_missing(step, key, kind):
        raise UserError(f"config key {key!r} is required and cannot be removed; set it with {key}=<value>.")
    members = groups().get(key)
    if members and dataclasses.is_dataclass(kind) and not is_suite:
        values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
        for value in values:
            check_member(key, value, members)


def _may_be_missing(step: str, key: str, kind: Any) -> bool:
    """Whether a key is a mapping, or in one."""
    return typing.get_origin(kind) is dict or within_dict(STEPS[step], key)


def _compose(step: str, overrides: list[str]) -> DictConfig:
    try:
        return compose(step, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        # Of an entry of a list, the key of the list.
        key = re.sub(r"\[\d+\]$", "", getattr(cause, "full_key", None) or "")
        if key and within_dict(STEPS[step], key) and "not in struct" in str(cause):
            raise _explain_missing(step, key, getattr(cause, "parent_node", None)) from error
        kind = field_type(STEPS[step], key) if key else None
        if describe_type(kind):
            found = next((text for text in reversed(overrides) if text.lstrip("+").startswith(f"{key}=")), None)
            value = found.partition("=")[2] if found else "a value of another type"
            raise UserError(f"{key} takes {describe_type(kind)}, not {value}.{_advise(key, kind, value)}") from error
        raise UserError(" ".join(str(error).split())) from error


def _explain_missing(step: str, key: str, node: Any) -> UserError:
    """The error of an entry that a mapping does not have; `node` is the mapping."""
    mapping, _, name = key.rpartition(".")
    if dataclasses.is_dataclass(field_type(STEPS[step], key)):
        known = [str(one) for one in node] if node else []
        if known:
            return UserError(f"{mapping} has no {name!r}.{nearest(name, known)} It has {', '.join(known)}.")
        return UserError(
            f"{mapping} has no {name!r}: a single suite is scored here, whose keys are suite.<key>. Several are named with suite=[a,b]."
        )
    return UserError(f"{mapping} has no {name!r} yet. Add it with a plus sign: +{key}=<value>.")


def _advise(key: str, kind: Any, value: str) -> str:
    """What to type in place of a value of another type; for a word that is nearly one of a choice, that one."""
    expected = str(describe_type(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        near = nearest_choice(value, [member.name for member in kind])
        return f" Did you mean {near}?" if near else ""
    if _is_list(kind):
        is_plain = re.fullmatch(r"[\w./-]+(,\s*[\w./-]+)*", value) and value != "null"
        return f" Type {key}=[{value}]." if is_plain else ""
    return f" Type {key}=<{expected}>."


def _is_list(kind: Any) -> bool:
    return any(typing.get_origin(one) is list for one in (kind, *typing.get_args(kind)))


def describe_type(kind: Any) -> str | None:
    """Name a config type as a person would."""
    if kind is None:
        return None
    if isinstance(kind, types.UnionType):
        kinds = [describe_type(k) for k in typing.get_args(kind) if k is not type(None)]
        return " or ".join([*filter(None, kinds), "null"])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(member.name for member in kind)
    if dataclasses.is_dataclass(kind):
        return "a group of keys"
    if typing.get_origin(kind) is list:
        return "a list such as [a, b]"
    if typing.get_origin(kind) is dict:
        return "a mapping such as {a: b}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "a string"}.get(kind)


def _check_values(config: DictConfig, schema: Any, complete: bool, prefix: str = "") -> None:
    for field in dataclasses.fields(schema):
        key = prefix + field.name
        kind = typing.get_type_hints(schema)[field.name]
        if dataclasses.is_dataclass(kind):
            _check_values(config[field.name], kind, complete, f"{key}.")
        elif typing.get_origin(kind) is dict and dataclasses.is_dataclass(typing.get_args(kind)[1]):
            for name, node in config[field.name].items():
                _check_values(node, typing.get_args(kind)[1], complete, f"{key}.{name}.")
        elif OmegaConf.is_missing(config, field.name):
            if complete:
                raise UserError(f"{key} is required here: give -P {key}=<value>.")
        else:
            try:
                value = config[field.name]
            except OmegaConfBaseException as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"{key} cannot be resolved: {reason}. To give the characters themselves, type -P {key}=... or quote them as \\${{...}}."
                ) from error
            nested = isinstance(value, ListConfig) and any(isinstance(one, (ListConfig, DictConfig)) for one in value)
            if nested:
                raise UserError(f"{key} takes {describe_type(kind)}, not {value}.")
            _check_value(key, value, field.metadata)


def _check_value(key: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Raises UserError for a value that the metadata of its field (launch.config) does not allow."""
    if "one_of" in limits and value not in limits["one_of"]():
        raise UserError(f"{key} takes one of {', '.join(limits['one_of']())}, not {value}.")
    if "matches" in limits and not re.fullmatch(limits["matches"], value):
        raise UserError(f"{key} takes a value such as {limits['such_as']}, not {value!r}.")
    least, below = limits.get("min"), limits.get("below")
    if least is None or value is None:
        return
    if isinstance(value, ListConfig):
        if len(value) < least:
            raise UserError(f"{key} has {len(value)} entries; expected {least} or more.")
    elif not value >= least:  # nan is no number to compare with
        raise UserError(f"{key} is {value}; expected {least} or more.")
    elif below is not None and not value < below:
        raise UserError(f"{key} is {value}; expected less than {below}.")
