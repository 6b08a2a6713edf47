"""Texts -> float32 vectors."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from steps.common.backends.kinds import registered
from steps.common.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from steps.common.backends.tokens import Tokenizer


# OpenVINO and NNCF report their use to their makers if this module can be imported, and do without if not. Here, because
# it has to come before the first import of either.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# Told how many texts were embedded since it was last called.
OnRows = Callable[[int], None]


class TokenizedTexts(Protocol):
    """Texts as a backend's `tokenize` returns them, for its own `embed`."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text before truncation, prompt and special tokens included: int64 [n]."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> "TokenizedTexts":
        """Some of the texts, in the order of `rows`."""
        ...


class Backend(Protocol):
    """What computes embeddings. `encode` is `embed(tokenize(texts))`, for callers who have nothing to overlap."""

    # How this backend was loaded: its name, f32, bf16, fp16 or int8, and where it computes.
    name: str
    precision: str
    device: str
    dim: int
    # Longest text the model reads, in tokens; None where it has no limit.
    max_tokens: int | None

    @property
    def digest(self) -> str | None:
        """SHA-256 of the converted model; None where the model's own weights compute."""
        ...

    @property
    def padding_share(self) -> float | None:
        """Share of the computed tokens that was padding so far, 0 to 1; None where the library makes the batches."""
        ...

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embed texts, prompt included: float32 [len(texts), dim], in the order of `texts`."""
        ...

    def tokenize(self, texts: list[str]) -> TokenizedTexts:
        """The part of `encode` that needs no model; may run in another thread, beside `embed`."""
        ...

    def embed(self, tokens: Any, on_rows: OnRows | None = None) -> np.ndarray:
        """The part of `encode` that computes: float32 [len(tokens), dim]."""
        ...

    def close(self) -> None:
        """Free what the backend holds: memory, processes."""
        ...


def describe_backend(backend: Backend) -> str:
    """What computes, in a few words."""
    return f"{backend.name} {backend.precision} on {backend.device}"


class Precision(StrEnum):
    """Numbers a backend computes in; auto lets it choose."""

    auto = "auto"
    f32 = "f32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


# What `backend.device` may name; whether the machine has it is known once torch is imported.
DEVICES = r"auto|(cpu|mps|cuda(:\d+)?)(\s*,\s*(cpu|mps|cuda(:\d+)?))*"


@dataclass
class Settings:
    """The node `backend` of a config, explained in conf/backend/auto.yaml; None is chosen from the machine."""

    name: str
    precision: Precision
    batch_size: int = field(metadata={"min": 1})
    batch_tokens: int | None = field(metadata={"min": 1})
    device: str = field(metadata={"matches": DEVICES, "such_as": "auto, cpu, cuda, cuda:0,cuda:1 or mps"})
    # More would end the process: the library of threads finds no memory for them.
    threads: int | None = field(metadata={"min": 1, "below": 1025})
    streams: int | None = field(metadata={"min": 1, "below": 1025})

    def of(self, candidate: str) -> "Settings":
        """These settings for another backend, name/precision; one that has the CPU only gets that."""
        name, precision = candidate.split("/")
        device = "cpu" if registered()[name].devices == ("cpu",) else self.device
        return replace(self, name=name, precision=Precision(precision), device=device)


def choose_prompt(prompts: dict[str, str], default: str | None, name: str | None) -> str | None:
    """The text of one of a model's prompts, by name, else of its default; raises UserError for an unknown name."""
    name = name or default
    if name is None:
        return None
    if name not in prompts:
        raise UserError(
            f"the model has no prompt {name!r}; embedding.prompt_name is one of {', '.join(prompts) or 'none'}."
        )
    return prompts[name]


def check_task(tasks: Sequence[str], task: str | None) -> None:
    """Raises UserError for a task that a model has no route for."""
    if task is not None and task not in tasks:
        expected = f"one of {', '.join(tasks)}" if tasks else "null"
        raise UserError(f"the model has no route {task!r}; embedding.task is {expected}.")


@dataclass(frozen=True)
class Passed:
    """Speed and digest that validate recorded of a backend that passed."""

    rows_per_second: float
    digest: str | None = None


class Store:
    """Where converted models are kept, beside the model they were made from; this one keeps none."""

    def find(self, name: str) -> Path | None:
        """The folder that was kept under this name; None where there is none."""
        return None

    def keep(self, name: str, folder: Path) -> Path:
        """Keep a folder; returns where it is from now on."""
        return folder


@dataclass(frozen=True)
class Request:
    """What a backend is loaded with."""

    settings: Settings
    # On the CPU, in float32; it stays as it is.
    model: "SentenceTransformer"
    # None where the model needs the library's own batches: it reads more than token ids of a fast tokenizer, its vectors
    # depend on the texts beside them, or the texts follow a route.
    tokenizer: "Tokenizer | None"
    prompt: str | None
    # The route through the model's Router; None takes its default.
    task: str | None
    # Of torch; at least one.
    devices: list[str]
    store: Store
    # Texts that int8 is calibrated on.
    calibration: Callable[[], Sequence[str]]
