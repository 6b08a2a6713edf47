"""Command line -> Hydra arguments, checked against the config before anything heavy is imported.

`mlflow run -P key=value` reaches a step as `--key value`; typed by hand, `key=value` and Hydra's own
flags work as well. `translate` turns all of them into what Hydra reads, `check` composes the config
and turns whatever Hydra would refuse into one line that names the key and the nearest existing one.
"""

import contextlib
import dataclasses
import functools
import re
import shlex
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException

from steps.common.backends.kinds import registered
from steps.common.errors import UserError, clip
from steps.common.launch.config import STEPS
from steps.common.launch.overrides import (
    ALIASES,
    CHAIN,
    check_brackets,
    check_member,
    field_type,
    groups,
    parse,
    quote,
    within_dict,
    written,
)
from steps.common.project import CONF

# Hydra's own flags and whether each takes a value (--info may).
HYDRA_FLAGS = {
    "--help": False, "-h": False, "--hydra-help": False, "--version": False, "--resolve": False,
    "--run": False, "-r": False, "--multirun": False, "-m": False, "--shell-completion": False, "-sc": False,
    "--info": False, "-i": False,
    "--cfg": True, "-c": True, "--package": True, "-p": True, "--config-path": True, "-cp": True,
    "--config-name": True, "-cn": True, "--config-dir": True, "-cd": True, "--experimental-rerun": True,
}  # fmt: skip

# Those with which Hydra uses no config.
WITHOUT_CONFIG = {"--hydra-help", "--version", "--shell-completion", "-sc"}

# Those with which Hydra would use another config than the step's, which nothing has checked.
OTHER_CONFIG = {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun"}

# What --info may be asked about.
INFO_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")

# What flags take.
TOPICS = {"--info": INFO_TOPICS, "-i": INFO_TOPICS, **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all"))}

# Letters of a value that is taken as it is: Hydra's parser takes minutes for a long one with brackets.
LONG = 1000


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
        """Whether Hydra will use no config of this step."""
        return bool(WITHOUT_CONFIG.intersection(self.flags))

    @property
    def runs_the_step(self) -> bool:
        """Whether the step will run, rather than show its help or its config."""
        return not set(self.flags) - {"--multirun", "-m", "--run", "-r"}

    @property
    def needs_hydra(self) -> bool:
        """Whether Hydra has more to do than to compose the step's config: a sweep, what a flag shows, a setting of its own."""
        own = any(text.lstrip("+~").startswith(("hydra.", "hydra/")) for text in self.overrides)
        return own or self.multirun or not self.runs_the_step


def register_schemas() -> None:
    """Tell Hydra the dataclasses of STEPS, as `<step>_schema`, and what `backend=<name>` sets."""
    _register_steps()
    store = ConfigStore.instance()
    for kind in registered().values():
        store.store(group="backend", name=kind.name, node={"defaults": ["auto", "_self_"], **kind.choice})


@functools.cache
def _register_steps() -> None:
    store = ConfigStore.instance()
    for step, schema in STEPS.items():
        store.store(name=f"{step}_schema", node=schema)


def translate(step: str, argv: list[str]) -> Arguments:
    """Turn a step's command line into Hydra flags and overrides.

    `--key value` and `--key=value` set a config key; an empty value counts as not given. A key of type string takes the
    value exactly as typed, any other key takes Hydra's grammar for values. Typed by hand, `key=value` means the same,
    but quotes round a whole value, ${...} and, with --multirun, sweeps are Hydra's.

    Raises UserError for a `--key` without a value, a word that is not UTF-8, `overrides` that a shell could not split, and
    a flag that does not do here what it says.
    """
    for word in argv:
        _check_word(word)
    flags: list[str] = []
    # Whether an override was typed by hand; what its value means depends on flags that may come after it.
    given_words: list[tuple[str, bool]] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        flag, equals, given_value = token.partition("=")
        if flag in HYDRA_FLAGS and not (_is_key(step, flag) and (equals or rest)):
            if not equals and rest and (HYDRA_FLAGS[flag] or (flag in ("--info", "-i") and rest[0] in INFO_TOPICS)):
                equals, given_value = "=", rest.pop(0)
            flags += _hydra_flag(step, flag, given_value if equals else None)
        elif token.startswith("-P"):
            typed = token.removeprefix("-P") or next(iter(rest), "key=value")
            raise UserError(f"-P belongs to mlflow run; type {typed} here.")
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
    if step == "validate":
        overrides = choose_suites(overrides)
    if step == "main":
        overrides = _gather_for_main(overrides)
    return Arguments(flags, overrides)


def _check_word(word: str) -> None:
    """Raises UserError for a word of a command line that is not UTF-8. A path is none either: a run notes it as text."""
    bad = next((letter for letter in word if "\ud800" <= letter <= "\udfff"), None)
    if bad is not None:
        # Python reads a byte that is not UTF-8 as such a letter.
        shown = "".join(f"\\x{ord(one) - 0xDC00:02x}" if "\udc80" <= one <= "\udcff" else one for one in clip(word))
        raise UserError(
            f"{shown.encode('utf-8', 'backslashreplace').decode()} is not UTF-8. Type it in a terminal that is set to UTF-8; rename a file that has such a name."
        )


def _hydra_flag(step: str, flag: str, value: str | None) -> list[str]:
    """A flag of Hydra's with its value, as words; raises UserError for one that cannot be used."""
    if flag in OTHER_CONFIG:
        raise UserError(f"{flag} is not used here: the config is conf/{step}.yaml. Leave it out, and type key=value.")
    if value is None:
        if HYDRA_FLAGS[flag]:
            raise UserError(f"{flag} needs a value; python -m steps.{step} --hydra-help lists Hydra's flags.")
        return [flag]
    topics = TOPICS.get(flag)
    if topics and value not in topics:
        raise UserError(f"{flag} takes one of {', '.join(topics)}, not {value!r}.")
    if not topics and not HYDRA_FLAGS[flag]:
        raise UserError(f"{flag} takes no value, and {value!r} was given. Type {flag} alone.")
    return [flag, value]


def _is_key(step: str, flag: str) -> bool:
    """Whether a flag of Hydra is also how mlflow writes a key of the step: `--version` of promote."""
    return field_type(STEPS[step], flag.removeprefix("--")) is not None


def choose_suites(overrides: list[str]) -> list[str]:
    """Take the suites that are named in place of those that validate scores by default.

    `suite=[a,b]` becomes what Hydra would say it by: each of them under its own name in `suites`. Idempotent.
    """
    if not any(text.startswith(("suite=", "suite.")) for text in overrides):
        return overrides
    defaults = yaml.safe_load((CONF / "validate.yaml").read_text(encoding="utf-8"))["defaults"]
    shipped = [key for entry in defaults if isinstance(entry, dict) for key in entry if key.startswith("suite@suites.")]
    parts = [part for text in overrides for part in _several_suites(text, shipped)]
    named = {part.partition("=")[0].lstrip("~") for part in parts}
    return [*(f"~{key}" for key in shipped if key not in named), *parts]


def _several_suites(text: str, shipped: list[str]) -> list[str]:
    """`suite=[a,b]` as an override for each of them; `shipped` are in the config already."""
    if not text.startswith("suite="):
        return [text]
    check_brackets(text)
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
                check_member("suite", name, members)
            keys = {name: f"suite@suites.{name}" for name in names}
            return [f"{'' if key in shipped else '+'}{key}={name}" for name, key in keys.items()]
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

    What is typed for Hydra alone stays Hydra's: quotes round the whole value, ${...}, and sweeps with --multirun.
    """
    if nullable and value in ("", "null"):
        return "null"
    interpolated = re.search(r"\$\{.+?\}", value, re.DOTALL) is not None
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if len(value) > LONG and not (interpolated or is_quoted or multirun):
        return quote(value)
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
    if isinstance(read, str) and (is_quoted or interpolated or read == value):
        return value
    return quote(value)


def _schemas(step: str) -> list[type]:
    """The config of a step; those of the whole chain for main, which passes its keys on."""
    return [STEPS[name] for name in (CHAIN if step == "main" else (step,))]


def _kind(step: str, key: str) -> Any:
    """The declared type of a key in a step, or in whichever step of main's chain has it."""
    kinds = (field_type(schema, key) for schema in _schemas(step))
    return next((kind for kind in kinds if kind is not None), None)


def _override(step: str, key: str, value: str) -> str:
    kind = _kind(step, key)
    is_group = dataclasses.is_dataclass(kind)
    if any(within_dict(schema, key) for schema in _schemas(step)):
        key = f"++{key}"  # a mapping takes new keys
    if (kind is str or is_group) or (kind == str | None and value != "null"):
        return f"{key}={written(value)}"
    return f"{key}={value}"


def _gather_for_main(overrides: list[str]) -> list[str]:
    """Put everything that is not Hydra's own into main's one key, the list `overrides`."""
    own: list[str] = []
    forwarded: list[str] = []
    for text, override in zip(overrides, parse(overrides)):
        (own if override.is_hydra_override() else forwarded).append(text)
    return [*own, f"overrides=[{','.join(map(quote, forwarded))}]"] if forwarded else own


def help_template(step: str, manual: str) -> str:
    """What --help shows, for Hydra to fill in: the step's manual, its groups with their choices, and the config."""
    chosen = [f"{name}: {', '.join(choices)}" for name, choices in groups().items() if field_type(STEPS[step], name)]
    lines = [manual.strip(), "", *(["== Groups: type group=choice ==", *chosen, ""] if chosen else [])]
    return "\n".join([*lines, "== Config: type key=value ==", "$CONFIG"])
