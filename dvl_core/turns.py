"""Whose turn it is: a lock that is handed on in order, and a line with a limited number of places."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class LineFull(Exception):
    """No place is left in the line; the message is a sentence for the visitor."""


class FairLock:
    """A lock that is handed on in the order it was asked for; a generator that holds it may take it again."""

    def __init__(self) -> None:
        self._asking: deque[list[int]] = deque()  # [thread, how often it holds the lock]
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        me = [threading.get_ident(), 1]
        with self._changed:
            if self._asking and self._asking[0][0] == me[0]:
                self._asking[0][1] += 1
                return
            self._asking.append(me)
            self._changed.wait_for(lambda: self._asking[0] is me)

    def __exit__(self, *_: Any) -> None:
        with self._changed:
            self._asking[0][1] -= 1
            if not self._asking[0][1]:
                self._asking.popleft()
                self._changed.notify_all()


class Line:
    """Who is here: the first `open_runs` are being served, up to `waiting_runs` wait behind them."""

    def __init__(self, open_runs: int, waiting_runs: int):
        self.open_runs, self.waiting_runs = open_runs, waiting_runs
        self._tickets: list[object] = []
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._tickets)

    def join(self) -> object:
        """A ticket at the end of the line. Raises `LineFull` when there is no place left."""
        ticket = object()
        with self._changed:
            if len(self._tickets) >= self.open_runs + self.waiting_runs:
                raise LineFull(f"{len(self._tickets)} runs are being served or waiting already: try again in a moment.")
            self._tickets.append(ticket)
        return ticket

    def wait(self, ticket: object, seconds: float) -> int:
        """How many tickets must leave before this one is served, after waiting up to `seconds`; 0 = served now."""
        with self._changed:
            self._changed.wait_for(lambda: self._tickets.index(ticket) < self.open_runs, timeout=seconds)
            return max(0, self._tickets.index(ticket) - self.open_runs + 1)

    def leave(self, ticket: object) -> None:
        with self._changed:
            self._tickets.remove(ticket)
            self._changed.notify_all()
