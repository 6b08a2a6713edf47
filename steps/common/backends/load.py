"""Choose a backend, load it, check it."""

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TypeVar

import numpy as np
from sentence_transformers import SentenceTransformer

from steps.common.backends import Backend, Passed, Precision, Request, Settings, Store, check_task, describe_backend
from steps.common.backends.base import BatchedBackend
from steps.common.backends.check import PROBES, TOLERANCE, Refused, Unsuitable, check_against_torch, relative_errors
from steps.common.backends.hardware import pick_devices, why_emulated
from steps.common.backends.kinds import Kind, keys, names, registered
from steps.common.backends.tokens import make_tokenizer
from steps.common.backends.torch import LibraryBackend, find_prompt, find_tasks
from steps.common.errors import UserError

logger = logging.getLogger("steps")

# Why torch in float32 is taken: most often because a step sets it.
SERVED = "what the served model computes with"

T = TypeVar("T")

# Precisions of a GPU, the fastest first.
ON_GPU = ("fp16", "bf16", "f32")


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


def is_served(name: str, precision: str) -> bool:
    """Whether a backend is what a served model computes with, and what the others are compared with."""
    return (name, precision) == ("torch", "f32")


def find_kind(name: str) -> Kind:
    """The backend of a name; raises UserError where there is none."""
    if name not in registered():
        raise UserError(f"there is no backend {name!r}; expected one of {', '.join(names())}.")
    return registered()[name]


def candidates(settings: Settings, *, on_gpu: bool, passed: dict[str, Passed]) -> list[Candidate]:
    """The backends to try, best first; there are several where the name or the precision is auto.

    `passed`: backends that validate has passed for this model, by name/precision. Raises UserError for an unknown
    backend, or a precision it does not have.
    """
    if settings.name == "auto":
        return _candidates_for_gpu(settings) if on_gpu else _candidates_for_cpu(settings, passed)
    kind = find_kind(settings.name)
    if settings.precision not in ("auto", *kind.precisions):
        others = [f"backend={other.name}" for other in registered().values() if settings.precision in other.precisions]
        raise UserError(
            f"backend={kind.name} computes in {', '.join(kind.precisions)}, not in {settings.precision}; {' and '.join(others)} does."
        )
    precisions: Sequence[str] = [settings.precision]
    if settings.precision == "auto":
        precisions = [one for one in ON_GPU if one in kind.precisions] if on_gpu else kind.precisions[:1]
    return [
        Candidate(kind.name, precision, SERVED if is_served(kind.name, precision) else "asked for")
        for precision in precisions
    ]


def _candidates_for_gpu(settings: Settings) -> list[Candidate]:
    found = [
        Candidate(kind.name, precision, "there is a GPU")
        for kind in registered().values()
        if kind.devices != ("cpu",)
        for precision in ON_GPU
        if precision in kind.precisions
    ]
    chosen = [candidate for candidate in found if settings.precision in ("auto", candidate.precision)]
    if not chosen:
        raise UserError(
            f"a GPU computes in {', '.join(reversed(ON_GPU))}, not in {settings.precision}; backend.device=cpu has {settings.precision}."
        )
    return chosen


def _candidates_for_cpu(settings: Settings, passed: dict[str, Passed]) -> list[Candidate]:
    # torch comes last: it can compute every model.
    on_cpu = [kind for kind in registered().values() if "cpu" in kind.devices][::-1]
    if settings.precision != "auto":
        why = "its precision was asked for"
        return [
            Candidate(kind.name, settings.precision, why) for kind in on_cpu if settings.precision in kind.precisions
        ]
    fastest = sorted(passed, key=lambda key: -passed[key].rows_per_second)
    found = [
        Candidate(
            name, precision, "the fastest that validate has passed for this model", passed[f"{name}/{precision}"].digest
        )
        for name, precision in (key.split("/") for key in fastest if key in keys())
    ]
    exact = [Candidate(kind.name, "f32", "equal to torch in float32") for kind in on_cpu if "f32" in kind.precisions]
    # A validated backend may need instructions that this machine lacks, or may have been converted again since: the exact
    # ones follow, and torch cannot fail.
    return found + [one for one in exact if one.key not in passed or passed[one.key].digest is not None]


def check_asked(settings: Settings) -> None:
    """Raises UserError, as load_backend, before a model is loaded, where the machine lacks the device or precision."""
    devices = pick_devices(settings.device)
    asked = candidates(settings, on_gpu=devices[0] != "cpu", passed={})
    if settings.name == settings.precision == "auto":
        return
    _take_first(settings, asked, lambda candidate: _module(candidate).check(candidate.precision, devices))


def _take_first(
    settings: Settings, found: Sequence[Candidate], take: Callable[[Candidate], T]
) -> tuple[Candidate, T, list[str]]:
    """The first candidate that `take` accepts, with its result, and the reasons against those before it.

    Raises UserError where none can, or the one that was asked for cannot.
    """
    reasons: list[str] = []
    for candidate in found:
        try:
            return candidate, take(candidate), reasons
        except Unsuitable as reason:
            if settings.name != "auto":
                raise Refused(candidate.name, candidate.precision, reason) from None
            reasons.append(f"{candidate.key}: {reason}")
    raise UserError(
        f"no backend can compute with this model here: {'; '.join(reasons)}. backend=torch backend.precision=f32 always works."
    )


def _module(candidate: Candidate) -> ModuleType:
    """The module that checks and loads a backend; raises Unsuitable where a library of its is not installed."""
    try:
        return importlib.import_module(find_kind(candidate.name).module)
    except ImportError as error:
        raise Unsuitable(f"{candidate.name} is not installed here ({error})") from None


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
        calibration: texts that int8 is calibrated on; called if there is no int8 model yet.
        task: the route through the model's Router; None takes its default.
        passed: backends that validate has passed for this model, by name/precision.

    Raises:
        UserError: an unknown backend, device, prompt or route, or one that cannot compute with this model here.
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
    request = Request(
        settings,
        model,
        tokenizer,
        prompt=prompt,
        task=task,
        devices=devices,
        store=store,
        calibration=calibration,
    )
    return _load_best(request, expected, passed or {})


def _load_best(request: Request, expected: np.ndarray, passed: dict[str, Passed]) -> Backend:
    """The first candidate that agrees with `expected`, PROBES by torch in float32; raises UserError where none does."""
    found = candidates(request.settings, on_gpu=request.devices[0] != "cpu", passed=passed)
    candidate, (backend, error), reasons = _take_first(
        request.settings, found, lambda candidate: _load_checked(candidate, request, expected)
    )
    if reasons:
        logger.warning("backend=auto leaves out %s", "; ".join(reasons))
    shown = "" if is_served(candidate.name, candidate.precision) else f"; {_describe_error(error)}"
    logger.info("backend %s (%s)%s", describe_backend(backend), candidate.why, shown)
    return backend


def _describe_error(error: float) -> str:
    """The largest relative error of PROBES, in words."""
    share = f"at most {error:.1%}" if error >= 0.001 else "less than 0.1%"
    return f"vectors of {len(PROBES)} test texts differ from torch's in float32 by {share} of their length"


def _load_checked(candidate: Candidate, request: Request, expected: np.ndarray) -> tuple[Backend, float]:
    """A candidate, and its largest relative error beside `expected`, PROBES by torch in float32: [len(PROBES), dim].

    Raises Unsuitable where it cannot compute with this model or on this machine.
    """
    asked, devices = request.settings, request.devices
    emulated = why_emulated(candidate.precision, devices[0]) if candidate.name == "torch" else None
    if emulated and asked.precision == "auto" and asked.name == "auto":
        # The machine that validated it had the instructions.
        raise Unsuitable(emulated)
    module = _module(candidate)
    module.check(candidate.precision, devices)
    settings = replace(asked, name=candidate.name, precision=Precision(candidate.precision))
    backend = module.load(replace(request, settings=settings))
    if candidate.digest not in (None, backend.digest):
        raise Unsuitable("its converted model is not the one that was validated; run validate again")
    # The library in float32 is what the others are compared with.
    is_library = isinstance(backend, LibraryBackend) and candidate.precision == "f32"
    error = 0.0 if is_library else check_against_torch(backend.encode, expected, candidate.precision)
    if isinstance(backend, BatchedBackend):
        backend.start_counting()
    return backend, error
