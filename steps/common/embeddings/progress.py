"""Threads that work beside the one that computes, and how far it has come."""

import contextlib
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger("steps")

# Seconds between two progress lines where there is no terminal.
PROGRESS_SECONDS = 5.0

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Generator[T, None, None]:
    """The items of an iterator, each made in a background thread while the one before it is used. Closes a generator."""
    source = contextlib.closing(items) if isinstance(items, Generator) else contextlib.nullcontext()
    with source, ThreadPoolExecutor(1, "prefetch") as thread:

        def fetch() -> Future[list[T]]:
            return thread.submit(lambda: list(itertools.islice(items, 1)))

        coming = fetch()
        while fetched := coming.result():
            coming = fetch()
            yield from fetched


class BackgroundWriter:
    """Runs calls one at a time in a background thread; `do` waits for the call before."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "writer")
        self._last: Future | None = None

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._thread.shutdown()

    def do(self, call: Callable[..., object], *arguments: object) -> None:
        """Raises what the call before raised."""
        self._wait()
        self._last = self._thread.submit(call, *arguments)

    def check(self) -> None:
        """Raises what the last call raised, if it has ended."""
        if self._last is not None and self._last.done():
            self._last.result()

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


class Progress:
    """A bar on a terminal, a line in the log every few seconds elsewhere.

    Rows that were there before count as done, and neither in the rate nor in the time left.
    """

    def __init__(self, total: int, there: int = 0):
        """`there`: rows of the total that an earlier encode has finished."""
        self._total, self._there, self._own, self._ahead = total, there, 0, 0
        # Said at the end of a line.
        self.note = ""
        # A backend reports from its own threads.
        self._lock = threading.Lock()
        self._start = self._last = time.perf_counter()
        self._bar = tqdm(total=total, initial=there, unit="row", unit_scale=True, disable=not sys.stderr.isatty())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    @property
    def done(self) -> int:
        """Rows that are done in all."""
        return self._there + self._own

    def advance(self, rows: int) -> None:
        """Some texts of the current window are embedded."""
        with self._lock:
            self._ahead += rows
            self._show(rows)

    def window_done(self, rows: int) -> None:
        """The current window is done, with rows that needed no computing."""
        with self._lock:
            rest, self._ahead = rows - self._ahead, 0
            self._show(rest)

    def _show(self, rows: int) -> None:
        self._own += rows
        self._bar.update(rows)
        now = time.perf_counter()
        if self._bar.disable and self.done and now - self._last >= PROGRESS_SECONDS:
            self._last = now
            line = f"{self.done} of {self._total} rows ({100 * self.done / self._total:.0f} %)"
            if self._own:
                rate = self._own / max(now - self._start, 1e-9)
                line += f", {rate:.0f} rows/s, {(self._total - self.done) / rate:.0f} s left"
            logger.info("%s", line + self.note)
