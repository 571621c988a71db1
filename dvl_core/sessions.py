"""What a server keeps of its visitors: their runs, for a while, and how their conversation reaches the engine.

A visitor has one run at a time; run ids can't be guessed, so nobody reads another's run.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from .decoding import Canvas
from .engine import Engine, EngineError
from .processing import ImageError, open_image
from .trace import DenoisingTrace, TraceStep

SHOWN_SIDE = 1024  # longest side of a picture as the page shows it, in pixels


@dataclass
class Run:
    """One run.

    Attributes:
        id: its name, which can't be guessed.
        asked: the turns it answers.
        canvas: the template that its answer keeps to, if any.
        stop: set by who wishes it to stop.
        trace: what happened, once it has begun.
        waiting: whether it had to wait.
        over: whether nothing more will happen in it.
    """

    id: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    canvas: Canvas | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    trace: DenoisingTrace | None = None
    waiting: bool = False
    over: bool = False
    _steps: int = field(default=0, init=False, repr=False)  # those that `_bytes` counts
    _bytes: int = field(default=0, init=False, repr=False)

    def rough_bytes(self) -> int:
        """What its trace takes in memory, within a factor of two; every step is looked at once."""
        if self.trace is None:
            return 0
        if not self._bytes:
            self._bytes = sum(len(image.data or "") for image in self.trace.images)
        new = self.trace.steps[self._steps :]
        self._bytes += sum(map(_step_bytes, new))
        self._steps += len(new)
        return self._bytes


class Sessions:
    """The runs of all visitors; the oldest are forgotten.

    Args:
        capacity: runs that are kept.
        memory: bytes, roughly, that their traces may take together; attention over a large picture takes most. The
            newest runs of those who are here stay in any case.
    """

    def __init__(self, capacity: int = 128, memory: int = 2**30):
        self.capacity, self.memory = capacity, memory
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._current: dict[str, Run] = {}
        self._recorded: dict[str, Run] = {}
        self._lock = threading.Lock()

    def open(self, visitor: str, asked: list[dict[str, Any]] | None = None, canvas: Canvas | None = None) -> Run:
        """A new run of `visitor`, answering the turns `asked`; an earlier one that still goes on is told to stop."""
        run = self._remember(Run(secrets.token_urlsafe(12), list(asked or []), canvas))
        with self._lock:
            earlier = self._current.get(visitor)
            self._current[visitor] = run
        if earlier is not None:
            earlier.stop.set()
        return run

    def add(self, trace: DenoisingTrace) -> Run:
        """A run that was recorded elsewhere, kept like any other."""
        return self._remember(Run(secrets.token_urlsafe(12), trace=trace))

    def _remember(self, run: Run) -> Run:
        with self._lock:
            self._runs[run.id] = run
            while len(self._runs) > self.capacity:
                self._runs.popitem(last=False)
            sizes = {id: kept.rough_bytes() for id, kept in self._runs.items()}
            held, here = sum(sizes.values()), {run.id, *(current.id for current in self._current.values())}
            for id, size in sizes.items():  # the oldest first
                if held > self.memory and id not in here:
                    del self._runs[id]
                    held -= size
        return run

    def keep(self, id: str, trace: DenoisingTrace, asked: list[dict[str, Any]] | None = None) -> None:
        """Keep a recorded run, for good, under a name of its own."""
        self._recorded[id] = Run(id, list(asked or []), trace=trace)

    def stop(self, visitor: str) -> None:
        """Ask the visitor's run to stop after its current step."""
        run = self._current.get(visitor)
        if run is not None:
            run.stop.set()

    def is_current(self, visitor: str, run: Run) -> bool:
        """Whether the visitor has not begun another run since, nor left."""
        return self._current.get(visitor) is run

    def going_on(self, visitor: str) -> Run | None:
        """The visitor's run, while it is not over."""
        run = self._current.get(visitor)
        return None if run is None or run.over else run

    def run(self, id: str) -> Run | None:
        """A run that is still kept."""
        return self._runs.get(id) or self._recorded.get(id)

    def trace(self, id: str) -> DenoisingTrace | None:
        """The trace of a run that is still kept and has begun."""
        run = self.run(id)
        return run.trace if run is not None else None

    def leave(self, visitor: str) -> None:
        """The visitor closed the page: stop their run and forget who they were."""
        self.stop(visitor)
        with self._lock:
            self._current.pop(visitor, None)


def _step_bytes(step: TraceStep) -> int:
    numbers = len(step.masked) * (4 + 3 * len(step.candidates[0] if step.candidates else ()))
    return 32 * (numbers + sum(len(row) for rows in (step.attention or {}).values() for row in rows))


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
