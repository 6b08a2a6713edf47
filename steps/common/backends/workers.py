"""Several devices, one process each."""

import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch.multiprocessing

from steps.common.backends import Backend, OnRows, TokenizedTexts
from steps.common.errors import UserError

# The backend of a worker process; _start sets it.
_backend: Backend


class WorkersBackend:
    """Shares texts out over processes that each have a backend on a device of their own; tokenises them itself."""

    digest = None
    padding_share = None

    def __init__(self, load: Callable[[str], Backend], devices: list[str], first: Backend):
        """`load` makes the backend of a device, in a worker. `first` is one like theirs, and tokenises."""
        self.name, self.precision, self.device = first.name, first.precision, ",".join(devices)
        self.dim, self.max_tokens, self.tokenize = first.dim, first.max_tokens, first.tokenize
        context = torch.multiprocessing.get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(load, device))
            for device in devices
        ]

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.embed(self.tokenize(texts))

    def embed(self, tokens: TokenizedTexts, on_rows: OnRows | None = None) -> np.ndarray:
        """float32 [len(tokens), dim]. Every worker gets texts of all lengths, so that all end at about the same time.

        Raises UserError where a worker process died.
        """
        order = np.argsort(tokens.lengths, kind="stable")
        shares = [order[i :: len(self._pools)] for i in range(len(self._pools))]
        vectors = np.empty((len(tokens), self.dim), np.float32)
        try:
            tasks = [(rows, pool.submit(_embed, tokens.take(rows))) for rows, pool in zip(shares, self._pools)]
            for rows, task in tasks:
                vectors[rows] = task.result()
                if on_rows:
                    on_rows(len(rows))
        except BrokenProcessPool:
            raise UserError(
                f"a worker process on {self.device} died, most likely out of memory. Use fewer devices with backend.device=, or a smaller backend.batch_tokens."
            ) from None
        return vectors

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


def _start(load: Callable[[str], Backend], device: str) -> None:
    global _backend
    # Ctrl-C reaches the whole process group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _backend = load(device)


def _embed(tokens: TokenizedTexts) -> np.ndarray:
    return _backend.embed(tokens)
