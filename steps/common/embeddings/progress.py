"""Threads that work beside the one that computes, and how far it has come. Knows neither MLflow nor Hydra."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger("steps")


# Seconds between two progress lines where there is no terminal.
PROGRESS_SECONDS = 5.0

T = TypeVar("T")

_END = object()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items of an iterator, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, items, _END)
            yield item


class Behind:
    """Does one thing after another in a thread; whoever brings the next waits until the last is done."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1, "behind")
        self._last: Future | None = None

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._thread.shutdown()

    def do(self, call: Callable, *arguments) -> None:
        """Raises what the thing before it raised."""
        self._wait()
        self._last = self._thread.submit(call, *arguments)

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
        # A backend reports from its own threads.
        self._lock = threading.Lock()
        # The clock stands still while finished rows go by: _seconds of work until _since.
        self._seconds = 0.0
        self._since = self._last = time.perf_counter()
        self._bar = tqdm(total=total, initial=there, unit="row", unit_scale=True, disable=not sys.stderr.isatty())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
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

    def window_passed(self) -> None:
        """A window that was there before has gone by."""
        with self._lock:
            self._since = time.perf_counter()
            self._bar.unpause()

    def _show(self, rows: int) -> None:
        self._own += rows
        self._bar.update(rows)
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        if self._bar.disable and self.done and now - self._last >= PROGRESS_SECONDS:
            self._last = now
            share = 100 * self.done / self._total
            if not self._own:
                logger.info("%d of %d rows (%.0f %%)", self.done, self._total, share)
                return
            rate = self._own / max(self._seconds, 1e-9)
            logger.info(
                "%d of %d rows (%.0f %%), %.0f rows/s, %.0f s left",
                self.done,
                self._total,
                share,
                rate,
                (self._total - self.done) / rate,
            )
