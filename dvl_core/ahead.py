"""A generator that works on while its consumer is busy.

Sending a step to a page takes a few milliseconds, in which the next one can be computed. What piles up meanwhile is
handed over together, so that a slow reader gets fewer and larger messages instead of holding up the model, and a page
no more of them than a screen can show.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator, Iterator
from time import monotonic
from typing import TypeVar

T = TypeVar("T")


def ahead(
    events: Generator[T], after: Callable[[T], bool] = lambda event: False, every: float = 0.0
) -> Iterator[list[T]]:
    """Run `events` in a thread of its own, with the caller's context variables.

    Args:
        events: closed in that thread, whatever happens; what it raises is raised here, after what came before.
        after: called in that thread with every event; True ends the run.
        every: least seconds between two batches, while there is more to come.

    Yields:
        what has come since the last time, in order, at least one. Closing ends the run after its present event.
    """
    arrived: list[T] = []
    changed = threading.Condition()
    halt, over = threading.Event(), threading.Event()
    error: list[BaseException] = []

    def work() -> None:
        try:
            for event in events:
                with changed:
                    arrived.append(event)
                    changed.notify()
                if after(event) or halt.is_set() or not threading.main_thread().is_alive():
                    break
        except BaseException as raised:
            error.append(raised)
        finally:
            events.close()
            with changed:
                over.set()
                changed.notify()

    # No daemon: torch aborts a process that ends while one computes.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="run")
    thread.start()
    told = -every
    try:
        while True:
            with changed:
                changed.wait_for(lambda: arrived or over.is_set())
                changed.wait_for(over.is_set, timeout=max(0.0, told + every - monotonic()))
                batch, arrived[:] = list(arrived), []
            if batch:
                told = monotonic()
                yield batch
            elif error:
                raise error[0]
            else:
                return
    finally:
        halt.set()
        thread.join()
