"""Choose a backend, load it, check it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sentence_transformers import SentenceTransformer

from steps.common.backends import NAMES, Backend, Settings, Store, check_task
from steps.common.backends.base import BatchedBackend
from steps.common.backends.check import PROBES, TOLERANCE, Refused, Unsuitable, check_against_torch, relative_errors
from steps.common.backends.hardware import pick_devices, why_emulated
from steps.common.backends.tokens import Tokenizer, make_tokenizer
from steps.common.backends.torch import DTYPES, LibraryBackend, TorchBackend, find_prompt, find_tasks
from steps.common.backends.workers import WorkersBackend
from steps.common.errors import UserError

logger = logging.getLogger("steps")


@dataclass(frozen=True)
class Candidate:
    """A backend that may be used, and why; `digest` is what its converted model has to be."""

    name: str
    precision: str
    why: str
    digest: str | None = None

    @property
    def key(self) -> str:
        return f"{self.name}/{self.precision}"


@dataclass(frozen=True)
class Passed:
    """What validate has found out about a backend that passed."""

    rows_per_second: float
    digest: str | None = None


def candidates(settings: Settings, *, on_gpu: bool, passed: dict[str, Passed]) -> list[Candidate]:
    """The backends to try, best first. Only with `auto` there are several.

    Args:
        passed: backends that validate has passed for this model, by name/precision.

    Raises:
        UserError: an unknown backend, or a precision it does not have.
    """
    if settings.name not in NAMES:
        raise UserError(f"there is no backend {settings.name!r}; expected one of {', '.join(NAMES)}.")
    if settings.name == "openvino" or (settings.name == "torch" and settings.precision != "auto"):
        asked = "f32" if settings.precision == "auto" else settings.precision
        if settings.name == "torch" and asked not in DTYPES:
            raise UserError(
                f"backend=torch computes in {', '.join(DTYPES)}, not in {asked}; backend=openvino computes in int8."
            )
        return [Candidate(settings.name, asked, "asked for")]
    if on_gpu:
        halves = [Candidate("torch", precision, "there is a GPU") for precision in ("fp16", "bf16", "f32")]
        if settings.precision != "auto" and settings.precision not in DTYPES:
            raise UserError(
                f"a GPU computes in {', '.join(DTYPES)}, not in {settings.precision}; backend.device=cpu has int8."
            )
        return [c for c in halves if settings.precision in ("auto", c.precision)]
    if settings.name == "torch":
        return [Candidate("torch", "f32", "asked for")]
    if settings.precision != "auto":
        names = ["openvino"] + ["torch"] * (settings.precision in DTYPES)
        return [Candidate(name, settings.precision, "its precision was asked for") for name in names]
    fastest = sorted(passed, key=lambda key: -passed[key].rows_per_second)
    found = [
        Candidate(*key.split("/"), "the fastest that validate has passed for this model", passed[key].digest)
        for key in fastest
    ]
    exact = [Candidate(name, "f32", "equal to torch in float32") for name in ("openvino", "torch")]
    # One that was validated may need what this machine lacks, or be converted anew since; the exact ones, which are
    # checked against torch as they are, come last, and torch cannot fail.
    return found + [one for one in exact if one.key not in passed or passed[one.key].digest is not None]


def check_asked(settings: Settings) -> None:
    """Find out before a model is loaded what no model changes: a device or precision that this machine does not have.

    Raises:
        UserError: as load_backend.
    """
    devices = pick_devices(settings.device)
    asked = candidates(settings, on_gpu=devices[0] != "cpu", passed={})
    if settings.name == settings.precision == "auto":
        return
    reasons = []
    for candidate in asked:
        try:
            _check_machine(candidate.name, candidate.precision, devices)
            return
        except Unsuitable as reason:
            if settings.name != "auto":
                raise Refused(candidate.name, candidate.precision, reason) from None
            reasons.append(f"{candidate.key}: {reason}")
    raise _none_left(reasons)


def _check_machine(name: str, precision: str, devices: list[str]) -> None:
    """Raises Unsuitable where a backend cannot compute in a precision on these devices, whatever the model."""
    if name == "openvino":
        if devices != ["cpu"]:
            raise Unsuitable(f"OpenVINO computes on the CPU, not on {','.join(devices)}")
        try:
            from steps.common.backends.openvino import check_precision
        except ImportError as error:
            raise Unsuitable(f"OpenVINO is not installed here ({error})") from None
        check_precision(precision)
    elif precision == "fp16" and "cpu" in devices:
        raise Unsuitable("fp16 is for a GPU; a CPU computes it more slowly than f32")


def _none_left(reasons: list[str]) -> UserError:
    return UserError(
        f"no backend can compute with this model here: {'; '.join(reasons)}. backend=torch backend.precision=f32 always works."
    )


def load_backend(
    settings: Settings,
    model: SentenceTransformer,
    *,
    store: Store,
    calibration: Callable[[], Sequence[str]],
    prompt_name: str | None = None,
    task: str | None = None,
    passed: dict[str, Passed] | None = None,
) -> Backend:
    """Load the backend that was asked for, or with `auto` the best that can compute here, and check it against torch.

    Args:
        model: on the CPU, in float32; it stays as it is.
        store: where converted models are kept.
        calibration: texts that int8 is calibrated on; called if there is no int8 model yet.
        task: the route through the model's Router; None takes its default.
        passed: backends that validate has passed for this model, by name/precision.

    Raises:
        UserError: an unknown backend or device, a prompt or a route the model does not have, or what was asked for cannot
            compute with this model or on this machine.
    """
    prompt = find_prompt(model, prompt_name)
    check_task(find_tasks(model), task)
    devices = pick_devices(settings.device)
    expected = model.encode(list(PROBES), prompt=prompt, task=task, show_progress_bar=False)
    # A vector that depends on the texts beside it is defined by the library's own batches alone.
    alone = model.encode([PROBES[0]], prompt=prompt, task=task, show_progress_bar=False)
    independent = relative_errors(alone, expected[:1])[0] <= TOLERANCE["f32"]
    # Only the library follows a route.
    tokenizer = make_tokenizer(model, prompt) if independent and task is None else None

    reasons = []
    for candidate in candidates(settings, on_gpu=devices[0] != "cpu", passed=passed or {}):
        chosen = replace(settings, name=candidate.name, precision=candidate.precision)
        try:
            emulated = why_emulated(candidate.precision, devices[0]) if candidate.name == "torch" else None
            if emulated and settings.precision == "auto" and settings.name == "auto":
                # The machine that validated it had the instructions.
                raise Unsuitable(emulated)
            backend = _load(chosen, model, tokenizer, prompt, task, devices, store, calibration)
            if candidate.digest not in (None, backend.digest):
                raise Unsuitable("its converted model is not the one that was validated; run validate again")
            # The library in float32 is what the others are compared with.
            is_library = isinstance(backend, LibraryBackend) and candidate.precision == "f32"
            error = 0.0 if is_library else check_against_torch(backend.encode, expected, candidate.precision)
        except Unsuitable as reason:
            if settings.name != "auto":
                raise Refused(candidate.name, candidate.precision, reason) from None
            reasons.append(f"{candidate.key}: {reason}")
            continue
        if isinstance(backend, BatchedBackend):
            backend.start_counting()
        if reasons:
            logger.warning("backend=auto leaves out %s", "; ".join(reasons))
        logger.info(
            "backend %s %s on %s (%s); off from torch in float32 by at most %.1e",
            candidate.name,
            candidate.precision,
            backend.device,
            candidate.why,
            error,
        )
        return backend
    raise _none_left(reasons)


def _load(
    settings: Settings,
    model: SentenceTransformer,
    tokenizer: Tokenizer | None,
    prompt: str | None,
    task: str | None,
    devices: list[str],
    store: Store,
    calibration: Callable[[], Sequence[str]],
) -> Backend:
    if settings.name == "openvino":
        if devices != ["cpu"]:
            raise Unsuitable(f"OpenVINO computes on the CPU, not on {','.join(devices)}")
        return _load_openvino(settings, model, tokenizer, prompt, store, calibration)
    if len(devices) == 1:
        return load_torch(settings, model, tokenizer, prompt, task, devices[0])
    # On the CPU: only for what it says of itself and how it tokenises.
    first = load_torch(replace(settings, device="cpu"), model, tokenizer, prompt, task, "cpu")
    load = partial(load_torch, settings, model, tokenizer, prompt, task)
    return WorkersBackend(load, devices, first.tokenize, first)


def load_torch(
    settings: Settings,
    model: SentenceTransformer,
    tokenizer: Tokenizer | None,
    prompt: str | None,
    task: str | None,
    device: str,
) -> Backend:
    """The torch backend of one device.

    Raises:
        Unsuitable: float16 on a CPU, which has it only in name.
    """
    _check_machine("torch", settings.precision, [device])
    if tokenizer is None:
        return LibraryBackend(model, settings, device, prompt, task)
    return TorchBackend(model, tokenizer, settings, device, prompt)


def _load_openvino(
    settings: Settings,
    model: SentenceTransformer,
    tokenizer: Tokenizer | None,
    prompt: str | None,
    store: Store,
    calibration: Callable[[], Sequence[str]],
) -> Backend:
    if tokenizer is None:
        raise Unsuitable(
            "the model needs the library's own batches: it reads more than token ids of a fast tokenizer, or its vectors depend on the texts beside them"
        )
    try:
        from steps.common.backends.convert import converted
        from steps.common.backends.openvino import OpenVinoBackend, check_precision
    except ImportError as error:
        raise Unsuitable(f"OpenVINO is not installed here ({error})") from None
    check_precision(settings.precision)
    path, digest = converted(
        model, tokenizer, prompt, int8=settings.precision == "int8", calibration=calibration, store=store
    )
    return OpenVinoBackend(path, digest, model, tokenizer, settings)
