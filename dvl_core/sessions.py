"""What a server keeps of its visitors: their runs, for a while, and how their conversation reaches the engine.

A visitor has one run at a time; run ids can't be guessed, so nobody reads another's run.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from .engine import Engine, EngineError
from .processing import ImageError, open_image
from .trace import DenoisingTrace

SHOWN_SIDE = 1024  # longest side of a picture as the page shows it, in pixels


@dataclass
class Run:
    """One run: its id, its growing trace once it has begun, whether it had to wait, and the wish to stop it."""

    id: str
    stop: threading.Event = field(default_factory=threading.Event)
    trace: DenoisingTrace | None = None
    waiting: bool = False


class Sessions:
    """The runs of all visitors; the oldest are forgotten.

    Args:
        capacity: runs that are kept.
    """

    def __init__(self, capacity: int = 128):
        self.capacity = capacity
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._current: dict[str, Run] = {}
        self._recorded: dict[str, DenoisingTrace] = {}
        self._lock = threading.Lock()

    def open(self, visitor: str) -> Run:
        """A new run of `visitor`; an earlier one that still goes on is told to stop."""
        run = Run(secrets.token_urlsafe(12))
        with self._lock:
            earlier = self._current.get(visitor)
            self._current[visitor] = self._runs[run.id] = run
            while len(self._runs) > self.capacity:
                self._runs.popitem(last=False)
        if earlier is not None:
            earlier.stop.set()
        return run

    def keep(self, id: str, trace: DenoisingTrace) -> None:
        """Keep a recorded run, for good, under a name of its own."""
        self._recorded[id] = trace

    def stop(self, visitor: str) -> None:
        """Ask the visitor's run to stop after its current step."""
        run = self._current.get(visitor)
        if run is not None:
            run.stop.set()

    def is_current(self, visitor: str, run: Run) -> bool:
        """Whether the visitor has not begun another run since, nor left."""
        return self._current.get(visitor) is run

    def trace(self, id: str) -> DenoisingTrace | None:
        """The trace of a run that is still kept and has begun."""
        run = self._runs.get(id)
        return run.trace if run is not None else self._recorded.get(id)

    def leave(self, visitor: str) -> None:
        """The visitor closed the page: stop their run and forget who they were."""
        self.stop(visitor)
        with self._lock:
            self._current.pop(visitor, None)


def as_message(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn of a page's conversation (`role`, `text`, maybe `picture`, a path) as the processor takes it."""
    parts = [{"type": "image", "image": turn["picture"]}] if turn.get("picture") else []
    return {"role": turn["role"], "content": [*parts, {"type": "text", "text": turn["text"]}]}


def shown_copy(picture: str, engine: Engine) -> str:
    """Path of a copy, beside the upload, that every browser shows: upright and of moderate size.

    Raises:
        EngineError: about "picture", when it can't be used.
    """
    try:
        copy = open_image(picture, engine.processor.image_limits)
    except ImageError as error:
        raise EngineError(str(error), "picture") from error
    copy.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    target = picture + ".shown.png"
    copy.save(target)
    return target
