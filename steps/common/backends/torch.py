"""The model on PyTorch: on a GPU in our own batches, on a CPU as well, or all by the library where it must."""

import contextlib
import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tokenizers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule, Router
from torch.nn.attention import SDPBackend, sdpa_kernel

from steps.common.backends import Backend, OnRows, Request, Settings, choose_prompt
from steps.common.backends.base import BatchedBackend
from steps.common.backends.check import PROBES, Unsuitable
from steps.common.backends.hardware import cpu_quota, usable_cores
from steps.common.backends.tokens import Tokenizer, Tokens, without_limits
from steps.common.backends.unpadded import Unpadded, make_unpadded
from steps.common.backends.workers import WorkersBackend
from steps.common.errors import UserError

logger = logging.getLogger("steps")

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Tokens in a batch. A CPU's caches like few; a GPU needs many to be busy, and out of memory they are halved.
CPU_BATCH_TOKENS = 512

GPU_BATCH_TOKENS = 65_536

# The same where the transformer gets no padding: what it would have been, so many texts may differ in length.
UNPADDED_BATCH_TOKENS = 262_144

# How attention to padded texts is computed on a GPU. Not by cuDNN, which plans each shape of batch anew.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

# Most texts in a batch there: `batch_size` is meant for a CPU.
GPU_BATCH_ROWS = 8_192

# Texts the library sorts by length together, and embeds between two progress reports.
LIBRARY_ROWS = 512


def check(precision: str, devices: list[str]) -> None:
    """Raises Unsuitable for float16 on a CPU."""
    if precision == "fp16" and "cpu" in devices:
        raise Unsuitable("fp16 is for a GPU; a CPU computes it more slowly than f32")


def load(request: Request) -> Backend:
    """The model on one device, or on several with a process each."""
    names = ("model", "tokenizer", "settings", "prompt", "task")
    given: dict[str, Any] = {name: getattr(request, name) for name in names}
    if len(request.devices) == 1:
        return load_on(request.devices[0], **given)
    # On the CPU: it only tokenises, and gives name, precision and dimensions.
    first = load_on("cpu", **given)
    return WorkersBackend(partial(load_on, **given), request.devices, first)


def load_on(
    device: str,
    *,
    model: SentenceTransformer,
    tokenizer: Tokenizer | None,
    settings: Settings,
    prompt: str | None,
    task: str | None,
) -> Backend:
    """The backend of one device: in our batches, or in the library's where there is no tokenizer."""
    if tokenizer is None:
        return LibraryBackend(model, settings, device, prompt, task)
    return TorchBackend(model, tokenizer, settings, device, prompt)


class TorchBackend(BatchedBackend):
    """The model's own modules, in our batches."""

    name = "torch"

    def __init__(
        self, model: SentenceTransformer, tokenizer: Tokenizer, settings: Settings, device: str, prompt: str | None
    ):
        on_gpu = not device.startswith("cpu")
        super().__init__(
            model,
            tokenizer,
            batch_size=max(settings.batch_size, GPU_BATCH_ROWS) if on_gpu else settings.batch_size,
            batch_tokens=settings.batch_tokens or (GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS),
        )
        self.precision, self.device = settings.precision, device
        features = model.preprocess([PROBES[0]], prompt=prompt)
        self._has_token_types = "token_type_ids" in features
        self._constants = {name: value for name, value in features.items() if not isinstance(value, torch.Tensor)}
        self._model = move(model, settings.precision, device)
        limit_threads(settings)
        self._unpadded: Unpadded | None = None
        if device.startswith("cuda") and settings.precision != "f32":
            self._unpad(settings)

    def _unpad(self, settings: Settings) -> None:
        """Do without padding from now on, where the model can."""
        expected = self.encode(list(PROBES))
        self._unpadded = make_unpadded(
            *(self._model, self.tokenize, expected),
            precision=self.precision,
            device=self.device,
            constants=self._constants,
        )
        if self._unpadded is not None:
            self._pads = False
            self._batch_tokens = settings.batch_tokens or UNPADDED_BATCH_TOKENS

    def _run(self, tokens: Tokens, batches: list[np.ndarray], on_rows: OnRows) -> np.ndarray:
        with (
            torch.inference_mode(),
            contextlib.nullcontext() if self.device.startswith("cpu") else sdpa_kernel(ATTENTION),
        ):
            # The device works on while the next batch is made: only the last step waits for it.
            computed: list[tuple[np.ndarray, torch.Tensor]] = []
            for rows in batches:
                computed += self._compute(tokens, rows)
                on_rows(len(rows))
            vectors = torch.empty(len(tokens), computed[0][1].shape[1], device=self.device)
            for rows, found in computed:
                vectors[torch.from_numpy(rows).to(self.device)] = found.float()
            return vectors.cpu().numpy()

    def _compute(self, tokens: Tokens, rows: np.ndarray) -> list[tuple[np.ndarray, torch.Tensor]]:
        """One batch; where memory runs out two of half its size, and from then on smaller batches.

        Raises UserError where one text alone does not fit.
        """
        width, half = max(1, int(tokens.widths[rows].max())), len(rows) // 2
        if half and len(rows) * width > self._batch_tokens:
            # Planned before memory ran out.
            return self._compute(tokens, rows[:half]) + self._compute(tokens, rows[half:])
        try:
            return [(rows, self._forward(tokens, rows))]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Out of the except clause: what it holds keeps the memory of the batch that failed.
        free_memory(self.device)
        if not half:
            raise UserError(
                f"{self.device} is out of memory for a single text of {width} tokens. Take backend.precision=fp16 or bf16, a smaller model, or backend.device=cpu."
            )
        self._batch_tokens = half * width
        logger.warning(
            "%s is out of memory with %d tokens in a batch; continuing with at most %d",
            self.device,
            len(rows) * width,
            self._batch_tokens,
        )
        return self._compute(tokens, rows[:half]) + self._compute(tokens, rows[half:])

    def _forward(self, tokens: Tokens, rows: np.ndarray) -> torch.Tensor:
        if self._unpadded is not None:
            return self._unpadded(tokens, rows)
        ids, mask = self.tokenize.pad(tokens, rows)
        input_ids = torch.from_numpy(ids).to(self.device, non_blocking=True)
        features = dict(
            self._constants,
            input_ids=input_ids,
            attention_mask=torch.from_numpy(mask).to(self.device, non_blocking=True),
        )
        if self._has_token_types:
            features["token_type_ids"] = torch.zeros_like(input_ids)
        return self._model(features)["sentence_embedding"]

    def close(self) -> None:
        del self._model, self._unpadded
        free_memory(self.device)


@dataclass(frozen=True)
class Texts:
    """Texts that the library tokenises itself, and their token counts."""

    texts: list[str]
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "Texts":
        return Texts([self.texts[row] for row in rows], self.lengths[rows])


class LibraryBackend:
    """`SentenceTransformer.encode` itself, for models whose inputs are more than a fast tokenizer's ids."""

    name = "torch"
    precision: str
    digest = None
    padding_share = None

    def __init__(
        self, model: SentenceTransformer, settings: Settings, device: str, prompt: str | None, task: str | None
    ):
        self.precision, self.device = settings.precision, device
        self.dim, self.max_tokens = model.get_embedding_dimension() or 0, find_input(model, task).max_seq_length
        self._batch_size, self._prompt, self._task = settings.batch_size, prompt, task
        self._count = token_counter(model, task)
        self._model = move(model, settings.precision, device)
        limit_threads(settings)

    def tokenize(self, texts: list[str]) -> Texts:
        return Texts(texts, self._count([f"{self._prompt or ''}{text}" for text in texts]))

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.embed(Texts(texts, np.zeros(len(texts), np.int64)))

    def embed(self, tokens: Texts, on_rows: OnRows | None = None) -> np.ndarray:
        vectors = np.empty((len(tokens), self.dim), np.float32)
        for start in range(0, len(tokens), LIBRARY_ROWS):
            texts = tokens.texts[start : start + LIBRARY_ROWS]
            vectors[start : start + len(texts)] = self._model.encode(
                texts, prompt=self._prompt, task=self._task, batch_size=self._batch_size, show_progress_bar=False
            )
            if on_rows:
                on_rows(len(texts))
        return vectors

    def close(self) -> None:
        del self._model
        free_memory(self.device)


def move(model: SentenceTransformer, precision: str, device: str) -> SentenceTransformer:
    """A model on a device in a precision; the one that was given stays as it is."""
    if precision == "f32" and device == "cpu":
        return model.eval()
    return copy.deepcopy(model).to(device=device, dtype=DTYPES[precision]).eval()


def limit_threads(settings: Settings) -> None:
    """Let torch keep as many cores busy as this process may use; it counts those of its affinity, not of its quota."""
    if settings.threads or cpu_quota() is not None:
        torch.set_num_threads(settings.threads or usable_cores())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device ran out of memory: CUDA raises an error of its own, MPS a RuntimeError that says so."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def free_memory(device: str) -> None:
    """Free the memory that torch keeps reserved on a device."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def find_prompt(model: SentenceTransformer, name: str | None) -> str | None:
    """The text of one of the model's prompts, by name, else of its default; raises UserError for an unknown name."""
    return choose_prompt(model.prompts, model.default_prompt_name, name)


def find_tasks(model: SentenceTransformer) -> list[str]:
    """The tasks for which a model's Router has routes (query, document); none without a Router."""
    router = model[0]
    if not isinstance(router, Router):
        return []
    named = [task for task, _ in router.route_mappings if task is not None]
    return list(dict.fromkeys([*router.sub_modules, *named]))


def find_input(model: SentenceTransformer, task: str | None) -> SentenceTransformer | InputModule:
    """The module that reads the texts of a task, with its tokenizer and longest input: the first of a Router's route."""
    router = model[0]
    if not isinstance(router, Router):
        return model
    return router.sub_modules[router._resolve_route(task=task, modality="text")][0]


def token_counter(model: SentenceTransformer, task: str | None = None) -> Callable[[list[str]], np.ndarray]:
    """A function that counts the tokens of texts before truncation, special tokens included: int64 [n].

    It has a copy of the tokenizer, so it may run while the model does: the library sets truncation with every call.
    """
    tokenizer = find_input(model, task).tokenizer
    # Hugging Face keeps the fast tokenizer inside its own; a static model has only that one, and no special tokens.
    special = hasattr(tokenizer, "backend_tokenizer")
    fast = tokenizer.backend_tokenizer if special else tokenizer
    if isinstance(fast, tokenizers.Tokenizer):
        fast = without_limits(fast)
        return lambda texts: np.fromiter(
            map(len, fast.encode_batch_fast(texts, add_special_tokens=special)), np.int64, len(texts)
        )
    if hasattr(tokenizer, "tokenize") and not callable(tokenizer):
        # The word tokenizers of the library's own bag-of-words and word-vector modules.
        return lambda texts: np.fromiter((len(tokenizer.tokenize(text)) for text in texts), np.int64, len(texts))
    slow = copy.deepcopy(tokenizer)
    return lambda texts: np.fromiter(
        map(len, slow(texts, truncation=False)["input_ids"]) if texts else [], np.int64, len(texts)
    )
