"""Threads beside the one that computes, and the line that says how far it has come."""

import io
import itertools
import logging
import signal
import sys
import threading
import time

import pytest

from steps.common.embeddings import progress as module
from steps.common.embeddings.progress import BackgroundWriter, Progress, prefetch

# before and behind the one that computes

# Seconds after which a test that waits for another thread has failed.
PATIENCE = 20


def test_items_made_ahead_come_in_their_order():
    assert list(prefetch(iter(range(100)))) == list(range(100))
    assert list(prefetch(iter([]))) == []


def test_an_item_may_be_none_or_false():
    assert list(prefetch(iter([None, 0, None, ""]))) == [None, 0, None, ""]


def test_the_next_item_is_made_while_this_one_is_used():
    made = [threading.Event() for _ in range(3)]

    def items():
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in prefetch(items()):
        assert all(event.wait(PATIENCE) for event in made[: number + 2])


def test_no_more_than_the_next_item_is_made():
    made = []
    for number in prefetch(made.append(i) or i for i in range(50)):
        assert len(made) <= number + 2


def test_an_error_in_making_an_item_comes_after_the_items_before_it():
    error, got = ValueError("line 3"), []

    def items():
        yield from (1, 2)
        raise error

    with pytest.raises(ValueError) as caught:
        for item in prefetch(items()):
            got.append(item)
    assert caught.value is error
    assert got == [1, 2]


def test_leaving_early_stops_the_thread_and_closes_what_makes_the_items():
    closed = threading.Event()

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    before = threading.active_count()
    for item in prefetch(items()):
        if item == 3:
            break
    assert threading.active_count() == before
    assert closed.is_set()


def test_an_error_in_using_an_item_stops_the_thread():
    before = threading.active_count()
    with pytest.raises(KeyError):
        for item in prefetch(itertools.count()):
            raise KeyError(item)
    assert threading.active_count() == before


def fail(error):
    raise error


def test_things_are_done_behind_in_their_order():
    done = []
    with BackgroundWriter() as background:
        for i in range(100):
            background.do(done.append, i)
    assert done == list(range(100))


def test_whoever_brings_the_next_thing_waits_until_the_last_is_done():
    go, done = threading.Event(), []
    timer = threading.Timer(0.05, go.set)
    with BackgroundWriter() as background:
        background.do(lambda: done.append(go.wait(PATIENCE)))
        timer.start()
        background.do(done.append, "second")
        assert done[0] is True
    timer.join()


def test_an_error_behind_meets_whoever_brings_the_next_thing_which_is_not_done():
    error, done = OSError("no space left on device"), []
    with pytest.raises(OSError) as caught, BackgroundWriter() as background:
        background.do(fail, error)
        background.do(done.append, 1)
    assert caught.value is error
    assert done == []


def test_an_error_behind_is_met_again_by_whoever_goes_on():
    error = OSError("no space left on device")
    with pytest.raises(OSError) as last, BackgroundWriter() as background:
        background.do(fail, error)
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                background.do(print)
            assert caught.value is error
    assert last.value is error


def test_an_error_in_the_last_thing_is_met_when_leaving():
    error = OSError("no space left on device")
    with pytest.raises(OSError) as caught, BackgroundWriter() as background:
        background.do(fail, error)
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyError("first"), KeyboardInterrupt()])
def test_leaving_because_of_an_error_does_not_hide_it(error):
    with pytest.raises(type(error)) as caught, BackgroundWriter() as background:
        background.do(fail, OSError("no space left on device"))
        raise error
    assert caught.value is error


def test_leaving_because_of_an_error_waits_for_what_was_begun():
    done = []
    with pytest.raises(KeyError), BackgroundWriter() as background:
        background.do(lambda: done.append(threading.Event().wait(0.05)))
        raise KeyError
    assert done == [False]


@pytest.fixture
def ctrl_c():
    """Heard, as in a terminal: a shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_leaving_waits_for_what_was_begun(ctrl_c):
    done, pause = [], threading.Event()

    def interrupted():
        pause.wait(0.05)
        ctrl_c()
        pause.wait(0.05)
        done.append(True)

    with pytest.raises(KeyboardInterrupt), BackgroundWriter() as background:
        background.do(interrupted)
    assert done == [True]


# progress


def test_progress_is_a_log_line_where_there_is_no_terminal(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(module.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="steps"), Progress(200) as progress:
        progress.advance(50)
    assert "50 of 200 rows (25 %)" in caplog.text


def test_progress_is_quiet_between_its_lines(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(module.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="steps"), Progress(200) as progress:
        progress.advance(50)
    assert caplog.text == ""


def test_progress_counts_what_needed_no_computing_when_the_window_is_done(shown):
    with Progress(10) as progress:
        progress.advance(2)
        progress.advance(1)
        progress.window_done(6)
        progress.advance(4)
        progress.window_done(4)
    assert shown() == [(2, 10), (3, 10), (6, 10), (10, 10), (10, 10)]


def test_progress_can_be_shown_before_the_first_row_is_done(shown):
    with Progress(10) as progress:
        progress.advance(0)
        progress.window_done(10)
    assert shown()[-1] == (10, 10)


def test_progress_from_several_threads_is_added_up(shown):
    class Slow(int):
        """A number that takes long to add."""

        def __radd__(self, other):
            time.sleep(0.001)
            return int(other) + int(self)

    with Progress(100) as progress:
        threads = [threading.Thread(target=lambda: [progress.advance(Slow(1)) for _ in range(10)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        progress.window_done(100)
    assert shown() == [(done, 100) for done in (*range(1, 81), 100)]


def test_rows_that_were_there_count_as_done_and_not_in_the_rate(monkeypatch, caplog):
    clock = iter([1000.0, 1010.0, 1020.0, 1030.0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 5.0)
    monkeypatch.setattr(module.logger, "propagate", True)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    with caplog.at_level(logging.INFO, logger="steps"), Progress(1000, there=800) as progress:
        progress.advance(10)
        progress.window_done(20)
        assert progress.done == 820
        progress.window_done(30)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "810 of 1000 rows (81 %), 1 rows/s, 190 s left",
        "820 of 1000 rows (82 %), 1 rows/s, 180 s left",
        "850 of 1000 rows (85 %), 2 rows/s, 90 s left",
    ]
