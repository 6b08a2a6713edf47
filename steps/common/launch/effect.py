"""Settings that would have no effect beside the others, or spoil another job: each is refused with a line that says why."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from steps.common.engines.tables import table_name
from steps.common.errors import UserError
from steps.common.launch.config import STEPS
from steps.common.launch.overrides import field_type
from steps.common.quality.kinds import check_key

# Stands for any value but null.
GIVEN = object()


@dataclass(frozen=True)
class Need:
    """Keys, or with a dot at their end nodes, that have an effect only where another key has one of these values."""

    keys: tuple[str, ...]
    other: str
    values: tuple[object, ...]

    def is_met(self, config: DictConfig) -> bool:
        value = OmegaConf.select(config, self.other)
        return value in self.values or (GIVEN in self.values and value is not None)


OWN_TEXT = (Need(("corpus.text_column",), "corpus.template", (None,)),)

NEEDED: dict[str, tuple[Need, ...]] = {
    "encode": (
        Need(("corpus.chunk_pooling", "corpus.chunk_overlap"), "corpus.long_text", ("chunk",)),
        Need(("engine.master", "engine.shared_files", "engine.model_from"), "engine.name", ("spark",)),
        *OWN_TEXT,
    ),
    "benchmark": OWN_TEXT,
    "validate": (
        Need(("serving.port", "serving.start_timeout", "serving.clients", "serving.load_seconds"), "serving.enabled", (True,)),
        Need(("comparison.promote",), "register", (GIVEN,)),
        *OWN_TEXT,
    ),
    "index": (
        Need(("graph.",), "method", ("approximate", "auto")),
        Need(("approximate_above",), "method", ("auto",)),
        Need(("rescore",), "vectors", ("auto", "float16", "int8", "binary")),
    ),
    "search": (
        Need(("queries.",), "queries.path", (GIVEN,)),
        Need(("queries.text_column",), "queries.template", (None,)),
    ),
    "similarity": (Need(("pairs.",), "pairs.path", (GIVEN,)),),
    "explore": (Need(("port", "top_k"), "serve", (True,)),),
}  # fmt: skip

# Of every step with a suite.
OF_HUB = (Need(("suite.hub_id", "suite.revision", "suite.split"), "suite.path", (None,)),)

# Keys of validate that do something only where there is another model to compare with.
COMPARED = ("compatibility.", "tolerance.spread", "comparison.margin", "comparison.max_loss")

# Keys of a suite that say what its score has to be.
DEMANDS = ("threshold", "references", "min_recall", "max_p95_ms", "max_loss_to_published", "max_loss_to_champion")


def check_effect(step: str, parsed: list[Override], config: DictConfig) -> None:
    """Refuse a setting that would have no effect beside the others; raises UserError."""
    typed = {override.key_or_group: None for override in parsed if not override.is_delete()}
    if step == "log_model":
        _check_source(typed, config)
    _check_suites(typed, config)
    for need in (*NEEDED.get(step, ()), *OF_HUB):
        for key in _under(typed, need.keys):
            if key != need.other and not need.is_met(config):
                raise UserError(_explain(key, need, config))
    _check_streams(step, typed, config)
    if step == "encode" and "rows_per_part" in typed and table_name(config.output):
        raise UserError(f"rows_per_part has no effect with output={config.output}, which has no parts. Leave it out.")
    if step == "validate":
        _check_compared(typed, config)
    if step == "index":
        _check_exact(typed, config)
    if step == "encode" and "accept_changes" in typed and config.accept_changes and config.output is None:
        raise UserError("accept_changes works only when an output is resumed. Add -P output=<folder or URI>.")
    if step == "encode" and config.engine.name == "spark" and config.output is None:
        raise UserError(
            "engine=spark needs -P output=<folder or URI> that every worker can write to: the embeddings of a run are uploaded by one process."
        )
    chosen = [key for key in ("backend", "backend.name", "backend.precision") if key in typed]
    if step == "benchmark" and chosen:
        raise UserError(
            f"{chosen[0]} has no effect in a benchmark, which times each of `candidates`. Type candidates=[torch/f32,openvino/int8] to choose them."
        )
    demanded = [key for key in typed if key.startswith("suite.") and key.split(".")[1] in DEMANDS]
    if step == "benchmark" and demanded:
        raise UserError(
            f"{demanded[0]} has no effect in a benchmark, which shows a score and demands none. Leave it out."
        )


def _under(typed: Iterable[str], keys: tuple[str, ...]) -> list[str]:
    """Those of the keys typed that a need is about."""
    return [key for key in typed if key in keys or any(key.startswith(node) for node in keys if node.endswith("."))]


def _explain(key: str, need: Need, config: DictConfig) -> str:
    found, first = _in_yaml(OmegaConf.select(config, need.other)), need.values[0]
    expected = "<value>" if first is GIVEN else _in_yaml(first)
    return f"{key} has no effect with {need.other}={found}. Leave {key} out, or set {need.other}={expected}."


def _check_streams(step: str, typed: Iterable[str], config: DictConfig) -> None:
    """Refuse streams where no backend has any: settings of a backend are those of validate's and benchmark's candidates too."""
    if "backend.streams" not in typed:
        return
    candidates = config.get("candidates")
    own = [] if step == "benchmark" and candidates is not None else [config.backend.name]
    names = {name.split("/")[0] for name in (*own, *(candidates or []))}
    if not names & {"openvino", "auto"}:
        found = ", ".join(sorted(names))
        raise UserError(f"backend.streams has no effect with {found}. Leave backend.streams out, or use openvino.")


def _check_compared(typed: Iterable[str], config: DictConfig) -> None:
    """Refuse keys of validate about another model where none is named, and about candidates where there is none."""
    keys = [*_under(typed, COMPARED), *(key for key in typed if key.endswith(".max_loss_to_champion"))]
    if keys and config.champion is None and config.baseline is None and config.register is None:
        raise UserError(
            f"{keys[0]} has no effect without another model to compare with. Leave it out, or set champion=<run ID> or register=<name>."
        )
    if "candidate_pairs" in typed and not config.candidates:
        raise UserError(
            "candidate_pairs has no effect with candidates=[]. Leave candidate_pairs out, or name candidates."
        )


def _check_exact(typed: Iterable[str], config: DictConfig) -> None:
    """Refuse what is for smaller numbers, or for a graph, where every float32 vector is compared."""
    keys = _under(typed, ("rescore", "measure.min_recall"))
    if keys and config.method == "exact" and config.vectors in ("auto", "float32"):
        raise UserError(
            f"{keys[0]} has no effect in an index that compares every float32 vector. Leave {keys[0]} out, or set vectors=int8 or method=approximate."
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
