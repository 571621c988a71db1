"""The order of training: an endless row of slots, each of which knows its sample, its noise and its block size.

A slot depends on the run's seed and its own number alone. So any number of processes deal the slots among
themselves and see the same batches together, and a run resumes at the exact sample by knowing how many updates it
has done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..tinyworld import draw, sample
from .config import DataConfig, ObjectiveConfig
from .llava import LlavaSamples
from .options import annealed_block_size
from .rows import Row, RowEncoder, collate, draw_noise
from .settings import ConfigError

_TRIES = 100  # unusable samples in a row before it is called a mistake in the configuration
TINYWORLD_HELD_OUT = 900_000_000  # first test seed of the held-out loss; benchmarks use smaller ones


class Source(Protocol):
    """Where messages come from; without `__len__` it has no end."""

    def messages(self, index: int) -> list[dict[str, Any]]: ...

    def name(self, index: int) -> str: ...


class TinyWorldSamples:
    """One conversation about one drawn picture per index.

    Args:
        split: "train" or "test".
        first_seed: of index 0.
        picture_size: pixels on the longer side of the pictures drawn.
    """

    def __init__(self, split: str, first_seed: int, picture_size: int) -> None:
        self.split, self.first_seed, self.picture_size = split, first_seed, picture_size

    def messages(self, index: int) -> list[dict[str, Any]]:
        """The conversation as chat messages."""
        drawn = sample(self.split, self.first_seed + index, conversations=1)
        messages: list[dict[str, Any]] = []
        for question, answer in drawn.conversations[0]:
            text = {"type": "text", "text": question}
            messages += [{"role": "user", "content": [text]}, {"role": "assistant", "content": answer}]
        picture = {"type": "image", "image": draw(drawn.picture, self.picture_size)}
        messages[0]["content"].insert(0, picture)
        return messages

    def name(self, index: int) -> str:
        """Split and seed."""
        return f"tinyworld {self.split} {self.first_seed + index}"


@dataclass(frozen=True)
class Order:
    """Which sample stands in which slot.

    Attributes:
        indices: samples to choose from; None for all whole numbers.
        seed: of the shuffling, anew for every pass. None for no shuffling.
    """

    indices: np.ndarray | None
    seed: int | None

    def index(self, slot: int) -> int:
        """The sample of a slot."""
        if self.indices is None:
            return slot
        turn, place = divmod(slot, len(self.indices))
        if self.seed is None:
            return int(self.indices[place])
        return int(self.indices[_permutation(len(self.indices), self.seed, turn)[place]])

    def substitute(self, slot: int, attempt: int) -> int:
        """The sample that takes the place of one that can't be used."""
        rng = np.random.default_rng([self.seed or 0, slot, 3, attempt])
        return int(rng.integers(1 << 40)) if self.indices is None else int(rng.choice(self.indices))


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, turn: int) -> np.ndarray:
    return np.random.default_rng([seed, turn, 0]).permutation(count)


@dataclass(frozen=True)
class Plan:
    """What a slot needs to know about the run: rows per update, updates, seed, final block size and objective."""

    batch: int
    updates: int
    seed: int
    block_size: int
    objective: ObjectiveConfig

    def progress(self, update: int) -> float:
        """Share of the run that is over before this update."""
        return update / self.updates

    def block_at(self, update: int) -> int:
        """Block size of an update."""
        if self.objective.block_annealing:
            return annealed_block_size(self.progress(update), self.block_size)
        return self.block_size


class SlotRows(Dataset):
    """Rows by slot; a sample that can't be used is replaced by another, and named in the row.

    Raises:
        ValueError: when `_TRIES` samples in a row can't be used.
    """

    def __init__(self, source: Source, order: Order, encode: RowEncoder, plan: Plan) -> None:
        self.source, self.order, self.encode, self.plan = source, order, encode, plan

    def __getitem__(self, slot: int) -> Row:
        plan, skipped = self.plan, []
        block = plan.block_at(min(slot // plan.batch, plan.updates - 1))
        index = self.order.index(slot)
        for attempt in range(_TRIES):
            try:
                row = self.encode(self.source.messages(index), block if plan.objective.kind == "diffusion" else None)
            except (ValueError, OSError) as error:
                skipped.append((self.source.name(index), str(error)))
                index = self.order.substitute(slot, attempt)
                continue
            draw_noise(row, block, plan.objective.spread, plan.seed, slot, plan.batch)
            row.skipped = skipped
            return row
        name, reason = skipped[-1]
        hint = "" if "data.max_length" in reason else " Check data.files and data.image_folder."
        raise ValueError(f"{_TRIES} samples in a row can't be used, the last one {name}: {reason}{hint}")


class SlotBatches(Sampler):
    """The slots of one process, micro-batch by micro-batch, from an update on.

    Slots of one update are dealt in stretches of `micro_batch`: first every process's first, then its second.
    """

    def __init__(self, first_update: int, last_update: int, batch: int, micro_batch: int, rank: int,
                 processes: int) -> None:
        self.updates, self.batch, self.micro = range(first_update, last_update), batch, micro_batch
        self.rank, self.processes = rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        for update in self.updates:
            for start in range(self.rank * self.micro, self.batch, self.micro * self.processes):
                yield [update * self.batch + start + row for row in range(self.micro)]

    def __len__(self) -> int:
        return len(self.updates) * self.batch // (self.micro * self.processes)


@dataclass(frozen=True)
class DataSet:
    """Training and held-out samples. `size`: samples per pass, None where there is no end."""

    train: Source
    train_order: Order
    held_out: Source | None
    held_out_order: Order | None
    size: int | None


def open_data(config: DataConfig, seed: int) -> DataSet:
    """The samples that a configuration names. Raises ConfigError for files that can't be used."""
    if config.kind == "tinyworld":
        indices = None if config.samples is None else np.arange(config.samples)
        train = TinyWorldSamples("train", config.first_seed, config.picture_size)
        test = TinyWorldSamples("test", TINYWORLD_HELD_OUT, config.picture_size)
        return DataSet(train, Order(indices, seed), test, Order(None, None), config.samples)
    samples = LlavaSamples(config.files, config.image_folder)
    shuffled = np.random.default_rng([seed, 4]).permutation(len(samples))
    if config.held_out >= len(samples):
        raise ConfigError("data.held_out", config.held_out, f"must be below the number of samples, {len(samples)}")
    kept, train = np.split(shuffled, [config.held_out])
    train = train[: config.samples]
    held_out = (samples, Order(kept, None)) if len(kept) else (None, None)
    return DataSet(samples, Order(train, seed), *held_out, len(train))


def batches(rows: SlotRows, slots: Sampler, pad_id: int, workers: int, pin: bool) -> DataLoader:
    """A loader of collated micro-batches, read and encoded by `workers` processes.

    It draws a seed for them whenever it is begun: from a generator of its own, so that dropout after a resume is what
    it would have been.
    """
    gather: Callable = partial(collate, pad_id=pad_id)
    return DataLoader(rows, batch_sampler=slots, collate_fn=gather, num_workers=workers, pin_memory=pin,
                      generator=torch.Generator().manual_seed(0))
