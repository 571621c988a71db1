"""A generator that works on in its own thread: order, errors, stopping, context."""

import contextvars
import threading
import time
from itertools import pairwise

import pytest

from dvl_core.ahead import ahead


class Worker:
    """Counts up, and knows who ran and closed it."""

    def __init__(self, until, fails_at=None, waits=0.0):
        self.closed_in, self.made = None, 0
        self.until, self.fails_at, self.waits = until, fails_at, waits

    def events(self):
        try:
            for number in range(self.until):
                if number == self.fails_at:
                    raise ValueError(f"broken at {number}")
                time.sleep(self.waits)
                self.made += 1
                yield number
        finally:
            self.closed_in = threading.current_thread().name


def test_everything_arrives_in_order_and_piles_up_for_a_slow_reader():
    batches = []
    for batch in ahead(Worker(60, waits=0.002).events()):
        batches.append(batch)
        time.sleep(0.03)
    assert [number for batch in batches for number in batch] == list(range(60))
    assert len(batches) < 30 and all(batches)


def test_batches_keep_their_distance_but_the_end_does_not_wait():
    times, got = [], []
    for batch in ahead(Worker(40, waits=0.004).events(), every=0.05):
        times.append(time.monotonic())
        got += batch
    gaps = [after - before for before, after in pairwise(times)]
    assert got == list(range(40)) and len(times) < 10 and all(gap > 0.045 for gap in gaps[:-1])
    began = time.monotonic()
    assert list(ahead(Worker(1).events(), every=30)) == [[0]] and time.monotonic() - began < 10


def test_what_came_before_an_error_is_told_before_it():
    worker, got = Worker(9, fails_at=5), []
    with pytest.raises(ValueError, match="broken at 5"):
        for batch in ahead(worker.events()):
            got += batch
    assert got == [0, 1, 2, 3, 4] and worker.closed_in == "run"


def test_closing_ends_the_work_after_its_present_event():
    worker = Worker(10_000, waits=0.001)
    batches = ahead(worker.events())
    next(batches)
    batches.close()
    made = worker.made
    time.sleep(0.02)
    assert worker.made == made < 1000 and worker.closed_in == "run"


def test_the_callback_paces_and_ends_the_run():
    seen = []

    def after(number):
        seen.append(number)
        return number == 3

    assert [n for batch in ahead(Worker(99).events(), after) for n in batch] == [0, 1, 2, 3] == seen


def test_the_callers_context_goes_along():
    who = contextvars.ContextVar("who", default="nobody")
    who.set("a visitor")

    def events():
        yield who.get()

    assert list(ahead(events())) == [["a visitor"]]
