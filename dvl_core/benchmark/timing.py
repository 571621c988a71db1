"""Fair timing: variants take turns, so that a machine that warms up or slows down does so for all of them."""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch


@dataclass(frozen=True)
class Outcome:
    """What one run did: tokens of the answer, forward passes with prefill, and the ids."""

    tokens: int
    forwards: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """A variant's runs.

    Attributes:
        name: of the variant.
        outcome: of its last run; a variant does the same in every run.
        seconds: of every counted run.
    """

    name: str
    outcome: Outcome
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds of the median run."""
        return statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """Answer tokens per second of the median run, prefill included."""
        return self.outcome.tokens / self.median

    def to_json(self) -> dict[str, Any]:
        """As plain data, with the spread."""
        return {
            "name": self.name, "tokens": self.outcome.tokens, "forwards": self.outcome.forwards,
            "seconds": round(self.median, 5), "fastest": round(min(self.seconds), 5),
            "slowest": round(max(self.seconds), 5), "runs": len(self.seconds),
            "tokens_per_second": round(self.tokens_per_second, 2),
            "milliseconds_per_forward": round(1000 * self.median / max(1, self.outcome.forwards), 4),
        }  # fmt: skip


def interleaved(
    variants: Mapping[str, Callable[[], Outcome]], repeats: int, device: torch.device, title: str = ""
) -> dict[str, Measurement]:
    """Run every variant `repeats` times in turn, after one uncounted run of each.

    A `title` is shown on standard error with the number of each turn.

    Raises:
        ValueError: when a variant does not do the same every time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    outcomes: dict[str, Outcome] = {}
    for turn in range(repeats + 1):
        if title:
            print(f"{title}: turn {turn} of {repeats}" if turn else f"{title}: warming up", file=sys.stderr, flush=True)
        for name, run in variants.items():
            gc.collect()
            synchronize(device)
            began = perf_counter()
            outcome = run()
            synchronize(device)
            if turn:
                seconds[name].append(perf_counter() - began)
            if outcomes.setdefault(name, outcome) != outcome:
                raise ValueError(f"{name} gave another answer in its run {turn}; it can't be timed.")
    return {name: Measurement(name, outcomes[name], tuple(seconds[name])) for name in variants}


def synchronize(device: torch.device) -> None:
    """Wait for the device; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, megabytes: int = 256, repeats: int = 9) -> float:
    """Bytes per second that the memory gives a plain read: half of what a copy, which reads and writes, moves."""
    source = torch.ones(megabytes * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(repeats):
        synchronize(device)
        began = perf_counter()
        target.copy_(source)
        synchronize(device)
        times.append(perf_counter() - began)
    return 2 * source.numel() * 4 / statistics.median(times)
