"""What earlier runs left in their caches, for conversations that go on.

Keys and values of a block depend on the tokens up to its end and on nothing else, since later blocks are hidden from
it. So a second question about the same picture, the next turn of a conversation or a branch of a run begins with the
cache of the run before, as far as both say the same; neither those tokens nor those pictures are encoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from .cache import BlockCache


@dataclass(frozen=True)
class Entry:
    """A cache that a run left: `size` of its blocks (1: causal), and a key for every committed position."""

    size: int
    keys: tuple[int, ...]
    cache: BlockCache


class PrefixCache:
    """The caches of the last runs of one model; may be shared by threads.

    Args:
        entries: how many to keep. Each holds keys and values of a whole conversation.
    """

    def __init__(self, entries: int = 4):
        if entries < 1:
            raise ValueError(f"entries must be at least 1; got {entries!r}.")
        self.entries = entries
        self._held: list[Entry] = []
        self._lock = Lock()

    def find(self, size: int, keys: Sequence[int]) -> tuple[BlockCache | None, int]:
        """The cache that shares most with a prompt, and how many whole blocks' positions it shares (0: none)."""
        best, shared = None, 0
        with self._lock:
            for entry in self._held:
                same = _shared(entry.keys, keys) // size * size if entry.size == size else 0
                if same > shared:
                    best, shared = entry, same
            if best is not None:  # used last
                self._held.remove(best)
                self._held.append(best)
        return (best.cache, shared) if best is not None else (None, 0)

    def keep(self, size: int, keys: Sequence[int], cache: BlockCache) -> None:
        """Hold a finished run's cache, to which nothing may be written any more; `keys` of its committed positions."""
        if not keys:
            return
        entry = Entry(size, tuple(keys), cache)
        with self._lock:  # a run that goes on with another replaces it
            self._held = [e for e in self._held if e.size != size or _shared(e.keys, entry.keys) < len(e.keys)]
            self._held = [*self._held, entry][-self.entries :]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)


@dataclass(frozen=True)
class Source:
    """What a single prompt is made of.

    Attributes:
        keys: a number per position; equal ones mean equal embeddings. A token's id, or one of a picture's content.
        pictures: (first position, inputs of that picture alone), in reading order.
    """

    keys: list[int]
    pictures: list[tuple[int, dict[str, Tensor]]]

    def without(self, known: int) -> tuple[int, dict[str, Tensor]]:
        """The most of `known` positions that cut no picture in two, and the inputs of the pictures behind them."""
        for first, _ in self.pictures:
            if first < known < first + self._length(first):
                known = first
        left = [inputs for first, inputs in self.pictures if first >= known]
        return known, {name: torch.cat([inputs[name] for inputs in left]) for name in (left[0] if left else ())}

    def _length(self, first: int) -> int:
        return next((i for i, key in enumerate(self.keys[first:]) if key != self.keys[first]), len(self.keys) - first)


def read_source(model, inputs: dict[str, Any]) -> Source | None:
    """What `inputs` hold; None for a batch, for embeddings, and where pictures can't be told apart."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None or len(ids) != 1 or (mask is not None and not bool(mask.all())):
        return None
    keys = ids[0].tolist()
    parts = model.separate_pictures(**{n: inputs[n] for n in model.vision_inputs if inputs.get(n) is not None})
    places, at = [], 0
    for is_picture, run in groupby(keys, lambda key: key == model.config.image_token_id):
        length = len(list(run))
        if is_picture:
            places.append((at, length))
        at += length
    if len(places) != len(parts):
        return None
    for (first, length), part in zip(places, parts, strict=True):
        keys[first : first + length] = [-1 - _digest(part)] * length
    return Source(keys, [(first, part) for (first, _), part in zip(places, parts, strict=True)])


def _digest(picture: dict[str, Tensor]) -> int:
    """A number of 63 bits that equal pictures have in common."""
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(picture):
        values = picture[name].detach().cpu().contiguous()
        found.update(str(tuple(values.shape)).encode())
        found.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return int.from_bytes(found.digest(), "big") >> 1


class Continuation:
    """One run's use of a `PrefixCache`: what it need not encode, and what it leaves.

    Args:
        prefixes: None = neither.
        model, inputs: of the run.
        size: tokens of a block; 1 for a causal mask.
        least: prompt positions at the end that the run has to compute anyway.

    Attributes:
        inputs: those that the run has to encode; pictures that lie in the known positions are left out.
        known: positions that need no encoding.
    """

    def __init__(self, prefixes: PrefixCache | None, model, inputs: dict[str, Any], size: int, least: int = 0):
        self.prefixes, self.size, self.inputs, self.known = prefixes, size, inputs, 0
        self.source = read_source(model, inputs) if prefixes is not None else None
        if self.source is None:
            return
        keys = self.source.keys
        self.earlier, shared = prefixes.find(size, keys[: len(keys) - least])
        self.known, pictures = self._whole(shared)
        if self.known:
            others = {name: value for name, value in inputs.items() if name not in model.vision_inputs}
            self.inputs = others | pictures

    def _whole(self, known: int) -> tuple[int, dict[str, Tensor]]:
        """Whole blocks that cut no picture in two."""
        while known % self.size or self.source.without(known)[0] < known:
            known = self.source.without(known)[0] // self.size * self.size
        return self.source.without(known)

    def fill(self, cache: BlockCache) -> None:
        """Put what is known into the run's own, empty cache."""
        if self.known:
            cache.begin_with(self.earlier, self.known)

    def keep(self, cache: BlockCache, answer: Sequence[int]) -> None:
        """At the end of the run: `answer` are the ids behind the prompt, as many as were computed."""
        if self.source is not None:
            self.prefixes.keep(self.size, [*self.source.keys, *answer][: cache.length], cache.lasting())
