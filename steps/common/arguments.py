"""Command line -> Hydra arguments, checked against the config before anything heavy is imported.

`mlflow run -P key=value` reaches a step as `--key value`; typed by hand, `key=value` and Hydra's own
flags work as well. `translate` turns all of them into what Hydra reads, `check` composes the config
and turns whatever Hydra would refuse into one line that names the key and the nearest existing one.
"""

import contextlib
import dataclasses
import difflib
import re
import shlex
import types
import typing
from enum import Enum
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from steps.common.backends.kinds import registered
from steps.common.errors import UserError
from steps.common.schema import STEPS

PROJECT = Path(__file__).resolve().parents[2]
CONF = PROJECT / "conf"

# Hydra's own flags and whether each takes a value (--info may).
HYDRA_FLAGS = {
    "--help": False, "-h": False, "--hydra-help": False, "--version": False, "--resolve": False,
    "--run": False, "-r": False, "--multirun": False, "-m": False, "--shell-completion": False, "-sc": False,
    "--info": False, "-i": False,
    "--cfg": True, "-c": True, "--package": True, "-p": True, "--config-path": True, "-cp": True,
    "--config-name": True, "-cn": True, "--config-dir": True, "-cd": True, "--experimental-rerun": True,
}  # fmt: skip

# Those with which Hydra uses another config than the step's, or none.
OTHER_CONFIG = {
    "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--hydra-help", "--version", "--shell-completion", "-sc",
}  # fmt: skip

# What --info may be asked about.
INFO_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")

# Parameters of MLproject whose name is not the config key they set.
ALIASES = {step: {"corpus": "corpus.path"} for step in ("encode", "benchmark", "main")}

# Keys that once had another name, which the new one does not resemble: for the line that says what to type.
RENAMED = {"model.known": "model.expected_facts", "tolerance.spearman": "tolerance.score"}

# The steps that `main` runs, in order.
CHAIN = ("log_model", "validate", "encode")
ONE_CHAIN = "main runs one chain at a time. Sweep a step instead: python -m steps.encode --multirun key=a,b. A value that holds commas needs quotes."


@dataclasses.dataclass
class Arguments:
    """A step's command line as Hydra reads it."""

    flags: list[str]
    overrides: list[str]

    @property
    def multirun(self) -> bool:
        return "--multirun" in self.flags or "-m" in self.flags

    @property
    def own_config(self) -> bool:
        """Whether this step's config is not the one that Hydra will use."""
        return bool(OTHER_CONFIG.intersection(self.flags))

    @property
    def runs_the_step(self) -> bool:
        """Whether the step will run, rather than show its help or its config."""
        return not set(self.flags) - {"--multirun", "-m", "--run", "-r"}


def register_schemas() -> None:
    """Tell Hydra the dataclasses of schema.py, as `<step>_schema`, and what `backend=<name>` sets."""
    store = ConfigStore.instance()
    for step, schema in STEPS.items():
        store.store(name=f"{step}_schema", node=schema)
    for kind in registered().values():
        store.store(group="backend", name=kind.name, node={"defaults": ["auto", "_self_"], **kind.choice})


def translate(step: str, argv: list[str]) -> Arguments:
    """Turn a step's command line into Hydra flags and overrides.

    `--key value` and `--key=value` set a config key; an empty value is nothing given. A key of type
    string takes the value exactly as typed, any other key takes Hydra's grammar for values. Typed by hand,
    `key=value` means the same, but that quotes round a whole value, ${...} and, with --multirun, sweeps are Hydra's.

    Raises:
        UserError: a `--key` without a value, or `overrides` that a shell could not split.
    """
    flags: list[str] = []
    # Whether an override was typed by hand; what its value means depends on flags that may come after it.
    given_words: list[tuple[str, bool]] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        flag, equals, given_value = token.partition("=")
        if flag in HYDRA_FLAGS:
            flags.append(flag)
            if equals:
                flags.append(given_value)
            elif HYDRA_FLAGS[flag] and not rest:
                raise UserError(f"{flag} needs a value; python -m steps.{step} --hydra-help lists Hydra's flags.")
            elif rest and (HYDRA_FLAGS[flag] or (flag in ("--info", "-i") and rest[0] in INFO_TOPICS)):
                flags.append(rest.pop(0))
        elif token.startswith("--"):
            key, given, value = token[2:].partition("=")
            if not given:
                if not rest:
                    raise UserError(f"--{key} needs a value: type --{key} <value>, or {key}=<value>.")
                value = rest.pop(0)
            if key == "overrides":
                rest[:0] = _split(value)
            elif value:
                given_words.append((_override(step, ALIASES.get(step, {}).get(key, key), value), False))
        elif token:
            given_words.append((token, True))
    multirun = Arguments(flags, []).multirun
    overrides = [_typed_by_hand(step, text, multirun) if by_hand else text for text, by_hand in given_words]
    if step in ("validate", "main"):
        overrides = [part for text in overrides for part in _several_suites(text)]
    if step == "main":
        overrides = _gather_for_main(overrides)
    return Arguments(flags, overrides)


def _several_suites(text: str) -> list[str]:
    """`suite=[a,b]` as Hydra would say it: each of them under its own name in `suites`, not merged into one."""
    if not text.startswith("suite="):
        return [text]
    with contextlib.suppress(OverrideParseException):
        override = OverridesParser.create().parse_overrides([text])[0]
        names = override.value()
        if isinstance(names, QuotedString):  # --suite [a,b] arrives as a string
            names = names.text
        if isinstance(names, str) and re.fullmatch(r"\[.*\]", names):
            names = OverridesParser.create().parse_overrides([f"suite={names}"])[0].value()
        if isinstance(names, list) and names and not override.is_sweep_override():
            members = groups()["suite"]
            for name in names:
                _check_member("suite", name, members)
            return [f"+suite@suites.{name}={name}" for name in dict.fromkeys(names)]
    return [text]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"overrides is split as a shell splits words, and {text!r} cannot be: {error}.") from None


def _typed_by_hand(step: str, override: str, multirun: bool) -> str:
    """`corpus=a.csv` means what the parameter means, and a string is what was typed: a/lang=en, ~/texts, 12e45678."""
    match = re.fullmatch(r"(\+{0,2})([^+~=][^=]*)=(.*)", override, re.DOTALL)
    if not match:
        return override
    plus, name, value = match.groups()
    key = ALIASES.get(step, {}).get(name, name)
    kind = _kind(step, key)
    if kind in (str, str | None):
        value = _string_by_hand(value, kind == str | None, multirun)
    return f"{plus}{key}={value}"


def _string_by_hand(value: str, nullable: bool, multirun: bool) -> str:
    """The value of a string key in Hydra's grammar, quoted where Hydra would read something else than was typed.

    What nobody types but for Hydra stays Hydra's: quotes round the whole value, ${...}, and sweeps where there are some.
    """
    if nullable and value in ("", "null"):
        return "null"
    interpolated = re.search(r"\$\{.+?\}", value, re.DOTALL) is not None
    try:
        parsed = OverridesParser.create().parse_overrides([f"key={value}"])[0]
    except OverrideParseException:
        choices = value.split(",")
        if multirun and len(choices) > 1 and not re.search(r"['\"()\[\]{}]", value):
            return ",".join(written(choice) for choice in choices)
        return QuotedString(text=value, quote=Quote.single).with_quotes() if interpolated else quote(value)
    if parsed.is_sweep_override():
        return value if multirun else quote(value)
    read = parsed.value()
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if isinstance(read, str) and (is_quoted or interpolated or read == value):
        return value
    return quote(value)


def _kind(step: str, key: str):
    """The declared type of a key in a step, or in whichever step of main's chain has it."""
    kinds = (field_type(STEPS[name], key) for name in (CHAIN if step == "main" else (step,)))
    return next((kind for kind in kinds if kind is not None), None)


def _override(step: str, key: str, value: str) -> str:
    kind = _kind(step, key)
    is_group = dataclasses.is_dataclass(kind)
    if _within_dict(STEPS[step if step != "main" else "log_model"], key):
        key = f"++{key}"  # a mapping takes new keys
    if (kind is str or is_group) or (kind == str | None and value != "null"):
        return f"{key}={written(value)}"
    return f"{key}={value}"


def written(value: str) -> str:
    """A string in Hydra's grammar: a plain word needs no quotes, and reads better in commands and in error messages."""
    plain = re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_.\-/]*", value)
    return value if plain and value.lower() not in ("null", "true", "false", "nan", "inf") else quote(value)


def quote(text: str) -> str:
    """Write a string in Hydra's override grammar so that it arrives as it is, `${...}` included."""
    escaped = re.sub(r"(\\*)\$\{", lambda match: match.group(1) * 2 + r"\${", text)
    return QuotedString(text=escaped, quote=Quote.single).with_quotes()


def field_type(schema: type, key: str):
    """The declared type of a dotted key, or None where the schema has no such key."""
    for part in key.split("."):
        if typing.get_origin(schema) is dict:
            schema = typing.get_args(schema)[1]
            continue
        if not dataclasses.is_dataclass(schema):
            return None
        schema = typing.get_type_hints(schema).get(part)
    return schema


def _gather_for_main(overrides: list[str]) -> list[str]:
    """Put everything that is not Hydra's own into main's one key, the list `overrides`."""
    own, forwarded = [], []
    for text, override in zip(overrides, parse(overrides)):
        (own if override.is_hydra_override() else forwarded).append(text)
    return [*own, f"overrides=[{','.join(map(quote, forwarded))}]"] if forwarded else own


def share_out(overrides: list[str]) -> dict[str, list[str]]:
    """Give each step of the chain the overrides it knows.

    Raises:
        UserError: an override that no step knows, or that main sets itself.
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
            raise UserError(f"no step of main has a config key {key!r}.{_nearest(key, keys)}")
        for step in takers:
            shares[step].append(text)
    return shares


def parse(overrides: list[str]) -> list[Override]:
    """Read overrides in Hydra's grammar.

    Raises:
        UserError: one of them cannot be read.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except OverrideParseException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot read the override {text!r} ({reason}). Expected key=value, +key=value or ~key, "
                "with quotes round a value that holds spaces, commas, braces or equals signs."
            ) from None
    return parsed


def groups() -> dict[str, list[str]]:
    """The folders of conf/, and what may be chosen of each: a file is a choice, unless its name begins with _.

    Such a file holds every key with its comment, and the others what differs. The backends are choices without a file.
    """
    found = {
        folder.name: {path.stem for path in folder.glob("[!_]*.yaml")}
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    }
    found["backend"] |= set(registered())
    return {group: sorted(choices) for group, choices in found.items()}


def help_template(step: str, manual: str) -> str:
    """What --help shows, for Hydra to fill in: the step's manual, its groups with their choices, and the config."""
    chosen = [f"{name}: {', '.join(choices)}" for name, choices in groups().items() if field_type(STEPS[step], name)]
    lines = [manual.strip(), "", *(["== Groups: type group=choice ==", *chosen, ""] if chosen else [])]
    return "\n".join([*lines, "== Config: type key=value ==", "$CONFIG"])


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Every dotted key of a schema, groups included."""
    keys = []
    for name, kind in typing.get_type_hints(schema).items():
        keys.append(prefix + name)
        if dataclasses.is_dataclass(kind):
            keys += known_keys(kind, f"{prefix}{name}.")
    return keys


def check(step: str, overrides: list[str], multirun: bool = False, complete: bool = True) -> list[DictConfig]:
    """Compose the step's config with these overrides, once for each value of a sweep.

    Args:
        complete: whether keys without a value (???) are refused; to show a config they are not.

    Raises:
        UserError: an unknown key or group member, a value of the wrong type or out of range, a required
            key that is missing.
    """
    parsed = parse(overrides)
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
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for choice in _choices(parsed):
            config = _compose(step, choice)
            _check_values(config, STEPS[step], complete)
            _check_suites(parsed, config)
            _check_effect(step, parsed, config)
            configs.append(config)
    if step == "encode":
        _check_outputs(parsed, configs)
    if step == "main":
        check_chain(list(configs[0].overrides), complete)
    if step == "log_model":
        _check_source(parsed, configs[0])
    return configs


def check_chain(overrides: list[str], complete: bool = True) -> dict[str, DictConfig]:
    """The config of each step of the chain with main's overrides, checked."""
    return {step: check(step, share, complete=complete)[0] for step, share in share_out(overrides).items()}


def _check_source(parsed: list[Override], config: DictConfig) -> None:
    """Refuse another name for weights that an installed package carries: the lineage would be wrong."""
    renamed = [
        override.key_or_group for override in parsed if override.key_or_group in ("model.name", "model.revision")
    ]
    if renamed and not OmegaConf.is_missing(config.model, "package") and config.model.package is not None:
        raise UserError(
            f"{renamed[0]} cannot be changed for a model whose weights are installed with the project. For another model: model=hub model.name=<org/model> model.revision=<commit>."
        )


def _check_suites(parsed: list[Override], config: DictConfig) -> None:
    """Refuse a setting of the one suite where several take its place: it would change nothing."""
    lost = [override.key_or_group for override in parsed if override.key_or_group.startswith("suite.")]
    if lost and config.get("suites"):
        name = next(iter(config.suites))
        raise UserError(
            f"{lost[0]} is for a single suite, and several are scored here ({', '.join(config.suites)}). Say which: {lost[0].replace('suite.', f'suites.{name}.', 1)}=<value>."
        )


# By step: a key, and what it is for, another key and the values with which it does something.
NEEDED: dict[str, tuple[tuple[str, str, tuple], ...]] = {
    "encode": (
        ("corpus.chunk_pooling", "corpus.long_text", ("chunk",)),
        ("corpus.chunk_overlap", "corpus.long_text", ("chunk",)),
        ("corpus.text_column", "corpus.template", (None,)),
        ("backend.streams", "backend.name", ("openvino", "auto")),
    ),
    "validate": tuple(
        (f"serving.{key}", "serving.enabled", (True,)) for key in ("port", "start_timeout", "clients", "load_seconds")
    ),
}


def _check_effect(step: str, parsed: list[Override], config: DictConfig) -> None:
    """Refuse a setting that would change nothing beside the others."""
    typed = {override.key_or_group for override in parsed if not override.is_delete()}
    for key, other, values in NEEDED.get(step, ()):
        value = OmegaConf.select(config, other)
        if key in typed and value not in values:
            found, expected = _in_yaml(value), _in_yaml(values[0])
            raise UserError(f"{key} changes nothing with {other}={found}; it is for {other}={expected}. Leave one out.")
    if step == "encode" and "accept_changes" in typed and config.accept_changes and config.output is None:
        raise UserError(
            "accept_changes is for an output that was begun before; give -P output=<folder or URI> with it."
        )
    chosen = typed.intersection(("backend", "backend.name", "backend.precision"))
    if step == "benchmark" and chosen:
        raise UserError(
            f"{min(chosen)} changes nothing in a benchmark, which times each of `candidates`. Type candidates=[torch/f32,openvino/int8] to choose them."
        )


def _in_yaml(value: object) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _check_outputs(parsed: list[Override], configs: list[DictConfig]) -> None:
    """Refuse a sweep whose jobs would write to one output: the second would find that of the first."""
    outputs = [config.output for config in configs if config.output is not None]
    if len(set(outputs)) == len(outputs):
        return
    typed = next((o.input_line.partition("=")[2] for o in parsed if o.key_or_group == "output"), outputs[0])
    swept = [
        f"{key}.name" if dataclasses.is_dataclass(field_type(STEPS["encode"], key)) else key
        for key in (o.key_or_group for o in parsed if o.is_sweep_override() and o.key_or_group != "output")
    ]
    missing = [key for key in swept if f"${{{key}}}" not in typed]
    name = "-".join([typed.strip("'\""), *(f"${{{key}}}" for key in missing)])
    raise UserError(
        f"jobs of this sweep share one output ({typed}); expected one for each. Give output='{name}', or leave output out."
    )


def _choices(parsed: list[Override]) -> list[list[str]]:
    """The first value of every sweep together, then each other value of each sweep in its place."""
    values = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line]
        for o in parsed
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
            f"{step} has no config key {key!r}.{_nearest(key, known_keys(STEPS[step]))} All keys: python -m steps.{step} --cfg job"
        )
    if override.is_delete() and typing.get_origin(kind) is not dict and not _within_dict(STEPS[step], key):
        raise UserError(f"config key {key!r} is required and cannot be removed; set it with {key}=<value>.")
    members = groups().get(key)
    if members and dataclasses.is_dataclass(kind):
        values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
        for value in values:
            _check_member(key, value, members)


def _within_dict(schema: type, key: str) -> bool:
    return typing.get_origin(field_type(schema, key.rpartition(".")[0])) is dict if "." in key else False


def _check_member(group: str, member, members: list[str]) -> None:
    if member not in members:
        raise UserError(
            f"there is no {group} {str(member)!r} in conf/{group}/.{_nearest(str(member), members)} Choose one of: {', '.join(members)}."
        )


def _nearest(word: str, known: list[str]) -> str:
    near = [word.replace(old, new) for old, new in RENAMED.items() if f"{word}.".startswith(f"{old}.")]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not near:
        # The right leaf under the wrong node (batch_size for backend.batch_size).
        leaf = word.rpartition(".")[2]
        leaves = {key.rpartition(".")[2]: key for key in known}
        near = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    return f" Did you mean {near[0]!r}?" if near else ""


def _compose(step: str, overrides: list[str]) -> DictConfig:
    try:
        return compose(step, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        key = getattr(cause, "full_key", None)
        if key and _within_dict(STEPS[step], key) and "not in struct" in str(cause):
            raise UserError(
                f"{key.rpartition('.')[0]} has no {key.rpartition('.')[2]!r} yet. Add it with a plus sign: +{key}=<value>."
            ) from error
        expected = describe_type(field_type(STEPS[step], key)) if key else None
        if expected:
            found = next((text for text in reversed(overrides) if text.lstrip("+").startswith(f"{key}=")), None)
            value = found.partition("=")[2] if found else "a value of another type"
            remedy = "" if expected.startswith("one of") else f" Type {key}=<{expected}>."
            raise UserError(f"{key} takes {expected}, not {value}.{remedy}") from error
        raise UserError(" ".join(str(error).split())) from error


def describe_type(kind) -> str | None:
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


def _check_values(config: DictConfig, schema: type, complete: bool, prefix: str = "") -> None:
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
            least, below = field.metadata.get("min"), field.metadata.get("below")
            try:
                value = config[field.name]
            except OmegaConfBaseException as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"{key} cannot be resolved: {reason}. To give the characters themselves, type -P {key}=... or quote them as \\${{...}}."
                ) from error
            if least is None:
                continue
            if isinstance(value, ListConfig):
                if len(value) < least:
                    raise UserError(f"{key} has {len(value)} entries; expected {least} or more.")
            elif value is not None and not value >= least:  # nan is no number to compare with
                raise UserError(f"{key} is {value}; expected {least} or more.")
            elif below is not None and value is not None and not value < below:
                raise UserError(f"{key} is {value}; expected less than {below}.")
