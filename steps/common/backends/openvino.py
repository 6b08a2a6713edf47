"""The whole model, from token ids to the last module's vector, compiled by OpenVINO for the CPU."""

import functools
from pathlib import Path

import numpy as np
import openvino as ov
from sentence_transformers import SentenceTransformer

from steps.common.backends import Backend, OnRows, Request, Settings
from steps.common.backends.base import BatchedBackend
from steps.common.backends.batches import rounded_widths
from steps.common.backends.check import Unsuitable
from steps.common.backends.convert import converted
from steps.common.backends.hardware import ruled_out, usable_cores
from steps.common.backends.tokens import Tokenizer, Tokens

# Tokens in a batch. On cores of 1 MB of level 2 cache, all-MiniLM-L6-v2 is as fast at 512 and 1,024, slower beyond 2,048.
BATCH_TOKENS = 768

# Rows of a window's last batch are made a multiple of this.
ROWS_STEP = 16


@functools.cache
def core() -> ov.Core:
    """The one Core of this process, never freed.

    The first Core gives the thread that makes it another stack for signal handlers (AMX needs a large one), and the last
    one to go takes it back in the thread that lets it go. Where these are two threads, the first keeps a stack that is
    unmapped, and its next signal, such as Ctrl-C, ends the process with a segmentation fault.
    """
    return ov.Core()


def check(precision: str, devices: list[str]) -> None:
    """Raises Unsuitable for another device than the CPU, or a precision for which OpenVINO would quietly take float32."""
    if devices != ["cpu"]:
        raise Unsuitable(f"OpenVINO computes on the CPU, not on {','.join(devices)}")
    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities:
        raise Unsuitable(f"this CPU has no bfloat16 instructions (OpenVINO finds {', '.join(capabilities)})")
    if precision == "bf16" and (variable := ruled_out(precision)):
        raise Unsuitable(f"{variable} rules out the instructions for bf16")


def load(request: Request) -> Backend:
    """The model, converted now or kept before; raises Unsuitable where that, or making batches of our own, fails."""
    if request.tokenizer is None:
        raise Unsuitable(
            "the model needs the library's own batches: it reads more than token ids of a fast tokenizer, or its vectors depend on the texts beside them"
        )
    path, digest = converted(
        request.model,
        request.tokenizer,
        request.prompt,
        int8=request.settings.precision == "int8",
        calibration=request.calibration,
        store=request.store,
    )
    return OpenVinoBackend(path, digest, request.model, request.tokenizer, request.settings)


class OpenVinoBackend(BatchedBackend):
    """One inference stream a core, each with batches of its own: cores that do not wait for each other."""

    name = "openvino"
    device = "cpu"

    def __init__(self, path: Path, digest: str, model: SentenceTransformer, tokenizer: Tokenizer, settings: Settings):
        super().__init__(
            model, tokenizer, batch_size=settings.batch_size, batch_tokens=settings.batch_tokens or BATCH_TOKENS
        )
        self.precision, self.digest = settings.precision, digest
        self._threads = settings.threads or usable_cores()
        self._streams = min(settings.streams or self._threads, self._threads)
        self._compiled = core().compile_model(
            path,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                # The little that int8 leaves in floating point stays exact.
                "INFERENCE_PRECISION_HINT": "bf16" if settings.precision == "bf16" else "f32",
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": self._streams,
                # OpenVINO's compiler of fused operations ("snippets") is slow with what a row of attention has beyond a
                # multiple of 16. all-MiniLM-L6-v2 on rows of 15 tokens takes 9 % less time without it; on rows of 16 bf16
                # takes as much and int8 7 % more.
                "SNIPPETS_MODE": "DISABLE",
            },
        )

        # Two a stream: one computes, the other waits with its batch. Not an AsyncInferQueue: its callbacks take Python's
        # lock in OpenVINO's threads, and a model that is freed at that moment deadlocks.
        self._requests = [self._compiled.create_infer_request() for _ in range(2 * self._streams)]

    def _padded(self, widths: np.ndarray) -> np.ndarray:
        # OpenVINO keeps 2 to 5 MB for every shape it has seen: there may be only so many.
        return rounded_widths(widths, int(widths.max()) if self.max_tokens is None else self.max_tokens)

    def _budget(self, total: int) -> int:
        # Few texts are shared among the streams.
        return max(1, min(self._batch_tokens, -(-total // self._streams)))

    def _run(self, tokens: Tokens, batches: list[np.ndarray], on_rows: OnRows) -> np.ndarray:
        vectors = np.empty((len(tokens), self._compiled.output(0).partial_shape[1].get_length()), np.float32)
        planned = self._padded(tokens.widths)
        running: list[np.ndarray | None] = [None] * len(self._requests)

        def collect(slot: int) -> None:
            rows, running[slot] = running[slot], None
            if rows is not None:
                self._requests[slot].wait()
                vectors[rows] = self._requests[slot].get_output_tensor(0).data[: len(rows)]
                on_rows(len(rows))

        try:
            # In turns: batches of one budget take about one time.
            for number, rows in enumerate(batches):
                slot = number % len(self._requests)
                collect(slot)
                given = rows
                if number == len(batches) - 1 and number >= len(self._requests):
                    # The last batch of a window may have any number of rows; repeating its last text rounds that up.
                    given = np.pad(rows, (0, min(-len(rows) % ROWS_STEP, self._batch_size - len(rows))), mode="edge")
                batch = self.tokenize.pad(tokens, given, max(1, int(planned[rows[0]])))
                self._requests[slot].start_async(dict(enumerate(batch)))
                running[slot] = rows
            for slot in range(len(batches), len(batches) + len(self._requests)):
                collect(slot % len(self._requests))
        finally:
            # After Ctrl-C what was started still runs.
            for request, started in zip(self._requests, running):
                if started is not None:
                    request.wait()
        return vectors

    def close(self) -> None:
        self._requests.clear()
        del self._compiled
