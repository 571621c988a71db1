"""Batches for a device that learns faster than pictures can be drawn."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread

import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Replay:
    """New batches as they come, moved to a device; while none is ready, one of the earlier ones once more.

    A thread takes the new ones from where they are made, so that the device never waits for more than the first.

    Args:
        fresh: endless batches.
        device: where they go.
        keep: how many to keep for another time; on CUDA no more than fit into a third of the memory that is free.
        seed: of the choice among them.

    Attributes:
        drawn: how many new batches were given out.
    """

    def __init__(self, fresh: Iterable[Batch], device: torch.device, keep: int = 500, seed: int = 0) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep} must be at least 1")
        self.fresh, self.device, self.drawn = fresh, device, 0
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._held: deque[Batch] = deque(maxlen=keep)
        self._choice, self._queue, self._over = random.Random(seed), Queue(maxsize=4), Event()

    def __iter__(self) -> Iterator[Batch]:
        thread = Thread(target=self._fetch, daemon=True)
        thread.start()
        try:
            while True:
                yield self._next()
        finally:
            self._over.set()
            thread.join()

    def _next(self) -> Batch:
        try:
            batch = self._queue.get(block=not self._held)
        except Empty:
            return self._choice.choice(self._held)
        if isinstance(batch, BaseException):
            raise batch
        if not self._held:
            self._held = deque(maxlen=min(self._held.maxlen, _fitting(batch, self.device)))
        self.drawn += 1
        self._held.append(batch)
        return batch

    def _fetch(self) -> None:
        """Fill the queue until the iteration is over; what goes wrong here is raised there."""
        try:
            for batch in self.fresh:
                if not self._put(self._moved(batch)):
                    return
        except BaseException as error:
            self._put(error)

    def _moved(self, batch: Batch) -> Batch:
        """The batch on the device. On CUDA by a stream of its own: on the one that trains, every tensor would wait for
        all the passes that were launched before it."""
        if self._copying is None:
            return {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.cuda.stream(self._copying):
            moved = {name: tensor.to(self.device) for name, tensor in batch.items()}
        self._copying.synchronize()
        for tensor in moved.values():  # memory is not given away while a pass still reads it
            tensor.record_stream(torch.cuda.default_stream(self.device))
        return moved

    def _put(self, item: Batch | BaseException) -> bool:
        while not self._over.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except Full:
                continue
            return True
        return False


def _fitting(batch: Batch, device: torch.device) -> int:
    """How many such batches a device can hold beside what it has to do."""
    if device.type != "cuda":
        return 10**9
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(free / 3 / sum(tensor.nbytes for tensor in batch.values())))
