"""Settings that would change nothing beside the others, or spoil another job: each is refused with a line that says why."""

import dataclasses
from collections.abc import Iterable

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from steps.common.errors import UserError
from steps.common.launch.config import STEPS
from steps.common.launch.overrides import field_type
from steps.common.quality.kinds import check_key

# By step: a key, and what it is for, another key and the values with which it does something.
NEEDED: dict[str, tuple[tuple[str, str, tuple], ...]] = {
    "encode": (
        ("corpus.chunk_pooling", "corpus.long_text", ("chunk",)),
        ("corpus.chunk_overlap", "corpus.long_text", ("chunk",)),
        ("corpus.text_column", "corpus.template", (None,)),
        ("backend.streams", "backend.name", ("openvino", "auto")),
        *((f"engine.{key}", "engine.name", ("spark",)) for key in ("master", "shared_files", "model_from")),
    ),
    "benchmark": (("corpus.text_column", "corpus.template", (None,)),),
    "validate": tuple(
        (f"serving.{key}", "serving.enabled", (True,)) for key in ("port", "start_timeout", "clients", "load_seconds")
    ),
}

# The same of every step with a suite.
OF_HUB = tuple((f"suite.{key}", "suite.path", (None,)) for key in ("hub_id", "revision", "split"))

# Keys of a suite that say what its score has to be.
DEMANDS = ("threshold", "references", "min_recall", "max_p95_ms", "max_loss_to_published", "max_loss_to_champion")


def check_effect(step: str, parsed: list[Override], config: DictConfig) -> None:
    """Refuse a setting that would change nothing beside the others."""
    typed = {override.key_or_group: None for override in parsed if not override.is_delete()}
    if step == "log_model":
        _check_source(typed, config)
    _check_suites(typed, config)
    for key, other, values in (*NEEDED.get(step, ()), *OF_HUB):
        value = OmegaConf.select(config, other)
        if key in typed and value not in values:
            found, expected = _in_yaml(value), _in_yaml(values[0])
            raise UserError(f"{key} changes nothing with {other}={found}; it is for {other}={expected}. Leave one out.")
    if step == "encode" and "accept_changes" in typed and config.accept_changes and config.output is None:
        raise UserError(
            "accept_changes is for an output that was begun before; give -P output=<folder or URI> with it."
        )
    if step == "encode" and config.engine.name == "spark" and config.output is None:
        raise UserError(
            "engine=spark needs -P output=<folder or URI> that every worker can write to: the embeddings of a run are uploaded by one process."
        )
    chosen = [key for key in ("backend", "backend.name", "backend.precision") if key in typed]
    if step == "benchmark" and chosen:
        raise UserError(
            f"{chosen[0]} changes nothing in a benchmark, which times each of `candidates`. Type candidates=[torch/f32,openvino/int8] to choose them."
        )
    demanded = [key for key in typed if key.startswith("suite.") and key.split(".")[1] in DEMANDS]
    if step == "benchmark" and demanded:
        raise UserError(
            f"{demanded[0]} changes nothing in a benchmark, which shows a score and demands none. Leave it out."
        )


def _check_source(typed: Iterable[str], config: DictConfig) -> None:
    """Refuse another name for weights that an installed package carries: the lineage would be wrong."""
    renamed = [key for key in typed if key in ("model.name", "model.revision")]
    if renamed and not OmegaConf.is_missing(config.model, "package") and config.model.package is not None:
        raise UserError(
            f"{renamed[0]} cannot be changed for a model whose weights are installed with the project. For another model: model=hub model.name=<org/model> model.revision=<commit>."
        )


def _check_suites(typed: Iterable[str], config: DictConfig) -> None:
    """Refuse a key of a suite that its kind does not read, or of the one suite where several take its place."""
    suites = config.get("suites")
    for words in (key.split(".") for key in typed):
        if words[0] == "suite" and len(words) > 1 and suites:
            given, name = ".".join(words), next(iter(suites))
            raise UserError(
                f"{given} is for a single suite, and several are scored here ({', '.join(suites)}). Say which: suites.{name}.{'.'.join(words[1:])}=<value>."
            )
        if words[0] == "suite" and len(words) > 1:
            check_key(config.suite.kind, words[1])
        if words[0] == "suites" and len(words) > 2:
            check_key(suites[words[1]].kind, words[2], f"suites.{words[1]}")


def _in_yaml(value: object) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def check_outputs(parsed: list[Override], configs: list[DictConfig]) -> None:
    """Refuse a sweep whose jobs would write to one output: the second would find that of the first."""
    outputs = [config.output for config in configs if config.output is not None]
    if len(set(outputs)) == len(outputs):
        return
    typed = next((str(o.input_line).partition("=")[2] for o in parsed if o.key_or_group == "output"), outputs[0])
    swept = [
        f"{key}.name" if dataclasses.is_dataclass(field_type(STEPS["encode"], key)) else key
        for key in (o.key_or_group for o in parsed if o.is_sweep_override() and o.key_or_group != "output")
    ]
    missing = [key for key in swept if f"${{{key}}}" not in typed]
    name = "-".join([typed.strip("'\""), *(f"${{{key}}}" for key in missing)])
    raise UserError(
        f"jobs of this sweep share one output ({typed}); expected one for each. Give output='{name}', or leave output out."
    )
