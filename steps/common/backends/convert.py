"""A SentenceTransformer as an OpenVINO model, whole, and as an int8 one; kept beside the model, so that it is made once."""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedConfig, PreTrainedModel

from steps.common.backends import Store
from steps.common.backends.check import PROBES, Unsuitable
from steps.common.backends.tokens import Tokenizer, make_tokenizer
from steps.common.errors import clip

logger = logging.getLogger("steps")

# How much of the activations' range SmoothQuant moves into the weights. Tried on all-MiniLM-L6-v2: 0.8 is nearest to
# float32 (worst cosine 0.985 of 2,000 package summaries, 0.994 of 800 news items); NNCF's 0.95 gives 0.984 and 0.984,
# 0.5 gives 0.960 and 0.981, no SmoothQuant 0.961 and 0.986.
SMOOTH_QUANT_ALPHA = 0.8

# Counted up with every change to how a model is converted: what was kept before is made again.
CONVERSION = 2

FACTS = "facts.json"

MODEL = "model.xml"


class _Whole(torch.nn.Module):
    """Token ids and attention mask in, the vector of the last module out."""

    def __init__(self, model: SentenceTransformer, prompt: str | None):
        super().__init__()
        self.model = model
        features = model.preprocess([PROBES[0]], prompt=prompt)
        self.has_token_types = "token_type_ids" in features
        # What is not a tensor is the same for every batch: the modality, the length of the prompt.
        self.constants = {name: value for name, value in features.items() if not isinstance(value, torch.Tensor)}
        # One conversion for every prompt, but for models that leave the prompt out of their pooling.
        if all(getattr(module, "include_prompt", True) for module in model.modules()):
            self.constants.pop("prompt_length", None)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = dict(self.constants, input_ids=input_ids, attention_mask=attention_mask)
        if self.has_token_types:
            features["token_type_ids"] = torch.zeros_like(input_ids)
        return self.model(features)["sentence_embedding"]


def converted(
    model: SentenceTransformer,
    tokenizer: Tokenizer,
    prompt: str | None,
    *,
    int8: bool,
    calibration: Callable[[], Sequence[str]],
    store: Store,
) -> tuple[Path, str]:
    """The OpenVINO form of a model, from the store or made and kept there: its path and digest.

    `calibration`: texts that int8 ranges are measured on, called if needed. Raises Unsuitable where conversion fails.
    """
    whole = _Whole(model, prompt)
    # Nothing at all and rare scripts have ranges of their own.
    texts = [*calibration(), *PROBES] if int8 else []
    recipe = {
        "conversion": CONVERSION,
        "versions": {name: importlib.metadata.version(name) for name in ("openvino", "nncf", "torch", "transformers")},
        "prompt_length": whole.constants.get("prompt_length"),
        "calibration": hashlib.sha256("\0".join(texts).encode()).hexdigest() if int8 else None,
        "smooth_quant_alpha": SMOOTH_QUANT_ALPHA if int8 else None,
    }
    suffix = f"-prompt{recipe['prompt_length']}" if recipe["prompt_length"] is not None else ""
    name = f"openvino-{'int8' if int8 else 'f32'}{suffix}"
    held = store.find(name)
    if held is not None:
        digest = _digest_of(held, recipe)
        if digest is not None:
            return held / MODEL, digest
        logger.warning("the %s kept with the model was made with other versions, or is damaged; making it again", name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        folder.mkdir()
        logger.info("converting the model (%s), once%s", name, f", on {len(texts)} texts" if int8 else "")
        # Without a prompt: what is kept serves every prompt.
        _convert(whole, make_tokenizer(model, None) or tokenizer, texts, folder / MODEL)
        files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        (folder / FACTS).write_text(json.dumps({"recipe": recipe, "files": files}, indent=2) + "\n")
        kept = store.keep(name, folder)
    return kept / MODEL, _joint(files)


def _digest_of(folder: Path, recipe: dict) -> str | None:
    """The digest of a kept model; None where it is not what the recipe gives, or not what was kept."""
    try:
        facts = json.loads((folder / FACTS).read_text())
        whole = facts["recipe"] == recipe and all(_sha256(folder / name) == sha for name, sha in facts["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _joint(facts["files"]) if whole else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _joint(files: dict[str, str]) -> str:
    return hashlib.sha256("".join(files[name] for name in sorted(files)).encode()).hexdigest()


@contextlib.contextmanager
def traceable(module: torch.nn.Module) -> Iterator[None]:
    """Let transformers compute as a trace can hold it; afterwards it computes as before.

    A decoder's cache of keys and values is an object, and torch's fused attention, as OpenVINO reads it, makes NaN of a
    padded token that may look at nothing but padding (decoders padded left, sliding windows).
    """
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    configs = [config for model in models for config in _configs(model.config)]
    before = [(config, config._attn_implementation, getattr(config, "use_cache", None)) for config in configs]
    try:
        for model in models:
            model.set_attn_implementation("eager")
        for config, _, use_cache in before:
            if use_cache:
                config.use_cache = False
        yield
    finally:
        # Setting a configuration sets those within it, which come after it.
        for config, attention, use_cache in before:
            config._attn_implementation = attention
            if use_cache:
                config.use_cache = use_cache


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep what the libraries warn of from the screen: a trace reads every property of a model, the deprecated ones too."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels):
            one.setLevel(level)


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration, then those within it."""
    yield config
    for name in config.sub_configs:
        if (within := getattr(config, name, None)) is not None:
            yield from _configs(within)


def _convert(whole: _Whole, tokenizer: Tokenizer, texts: Sequence[str], path: Path) -> None:
    # Two texts of different lengths: a trace of one alone may leave the mask out.
    ids, mask = tokenizer.pad(tokenizer(PROBES[:2]), np.arange(2))
    example = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    try:
        with warnings.catch_warnings(), _hushed(), torch.inference_mode(False), torch.no_grad(), traceable(whole):
            # The trace holds for any shape, and the check of the backend says whether it does.
            warnings.simplefilter("ignore")
            # Not traced a second time to see that the traces agree: the check compares vectors, with torch's.
            decoder = TorchScriptPythonDecoder(
                whole.eval(), example_input=example, trace_kwargs={"check_trace": False}, shared_memory=True
            )
            graph = ov.convert_model(decoder)
            for port in graph.inputs:
                port.get_node().set_partial_shape(ov.PartialShape([-1, -1]))
            graph.validate_nodes_and_infer_types()
    except Exception as error:  # noqa: BLE001 - whatever a model's code makes of being traced, it cannot be converted
        raise Unsuitable(f"it cannot be converted ({type(error).__name__}: {_first_line(error)})") from error
    if len(graph.inputs) != 2 or len(graph.outputs) != 1 or graph.output(0).partial_shape.rank.get_length() != 2:
        raise Unsuitable(f"its conversion has inputs {graph.inputs} and outputs {graph.outputs}")
    if not graph.output(0).partial_shape[1].is_static:
        raise Unsuitable("its conversion does not know its dimension")
    if texts:
        graph = _quantize(graph, tokenizer, texts)
    # Names are numbered through a process, and the digest is that of the model.
    graph.set_friendly_name("model")
    for number, operation in enumerate(graph.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    ov.save_model(graph, path, compress_to_fp16=False)


def _quantize(graph: ov.Model, tokenizer: Tokenizer, texts: Sequence[str]) -> ov.Model:
    """Weights and activations of the matrix products in 8 bits (NNCF's post-training quantisation, SmoothQuant included)."""
    # Here: it takes seconds to import, and only this needs it.
    import nncf

    nncf.set_log_level(logging.ERROR)

    def batch(text: str) -> dict[int, np.ndarray]:
        return dict(enumerate(tokenizer.pad(tokenizer([text]), np.arange(1))))

    try:
        # Its progress bars go to stdout, which is for what a step was asked to show.
        with contextlib.redirect_stdout(io.StringIO()):
            return nncf.quantize(
                graph,
                nncf.Dataset(list(texts), batch),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(texts),
                # Quantising the products within the attention takes longer than it saves: 3 % of the whole on
                # all-MiniLM-L6-v2 and short texts or news; on 128 tokens it makes no difference.
                ignored_scope=nncf.IgnoredScope(names=products_of_activations(graph)),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTH_QUANT_ALPHA)
                ),
            )
    except Exception as error:  # noqa: BLE001 - as above
        raise Unsuitable(f"it cannot be quantised ({type(error).__name__}: {_first_line(error)})") from error


def products_of_activations(graph: ov.Model) -> list[str]:
    """Names of the matrix products of which neither side is the weights: those within the attention, fused or not."""
    constant: set[str] = set()
    found: list[str] = []
    for operation in graph.get_ordered_ops():
        name = operation.get_friendly_name()
        sides = [port.get_node().get_friendly_name() in constant for port in operation.input_values()]
        if operation.get_type_name() == "Constant" or (sides and all(sides)):
            constant.add(name)
        elif operation.get_type_name() in ("MatMul", "ScaledDotProductAttention") and not any(sides[:2]):
            found.append(name)
    return found


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO says first where in its own code it gave up.
    told = [line for line in lines if line.startswith("Conversion is failed for:")]
    return clip((told or lines or ["no message"])[0])
