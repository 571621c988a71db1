"""A key-value cache whose last block can be overwritten.

A denoising step must see the cache but not stay in it: the block's tokens change with every step. Keys and values
of a forward pass are therefore written behind the committed prefix, and the next forward pass overwrites them,
unless `commit` moved the end of the prefix. Buffers are allocated once and grow by doubling.
"""

from __future__ import annotations

import torch
from torch import Tensor


class BlockCache:
    """Keys and values of all layers, each [B, H_kv, capacity, D], with a committed prefix.

    The decoder layers of transformers ask a cache for `update` alone when masks and positions are given to them,
    which is how this project calls them.

    Args:
        capacity: positions to allocate at first.
    """

    def __init__(self, capacity: int = 256):
        self.capacity = max(1, capacity)
        self.length = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write [B, H_kv, Q, D] behind the prefix; return prefix and new positions, [B, H_kv, length + Q, D]."""
        end = self.length + keys.shape[2]
        buffers = self._buffers(layer_idx, keys, values, end)
        for buffer, new in zip(buffers, (keys, values), strict=True):
            buffer[:, :, self.length : end] = new
        return buffers[0][:, :, :end], buffers[1][:, :, :end]

    def commit(self, count: int) -> None:
        """Keep the first `count` of the positions written last."""
        self.length += count

    def begin_with(self, other: BlockCache, count: int) -> None:
        """Copy the first `count` committed positions of another cache into this empty one."""
        for layer, held in other._layers.items():
            for buffer, old in zip(self._buffers(layer, *held, count), held, strict=True):
                buffer[:, :, :count] = old[:, :, :count]
        self.length = count

    def lasting(self) -> BlockCache:
        """This cache, or a copy of its prefix where its memory belongs to somebody else; for those who keep it."""
        return self

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of committed positions."""
        return self.length

    def _buffers(self, layer: int, keys: Tensor, values: Tensor, end: int) -> tuple[Tensor, Tensor]:
        while self.capacity < end:
            self.capacity *= 2
        held = self._layers.get(layer)
        if held is None or held[0].shape[2] < end:
            grown = tuple(self._grow(old, new) for old, new in zip(held or (None, None), (keys, values), strict=True))
            self._layers[layer] = grown
        return self._layers[layer]

    def _grow(self, old: Tensor | None, like: Tensor) -> Tensor:
        batch, heads, _, width = like.shape
        buffer = torch.empty(batch, heads, self.capacity, width, dtype=like.dtype, device=like.device)
        if old is not None:
            buffer[:, :, : self.length] = old[:, :, : self.length]
        return buffer


class StaticCache(BlockCache):
    """A `BlockCache` whose buffers never move, so that a recorded pass finds them again.

    Attributes:
        columns: where a recorded pass writes, long [Q]; it gets the whole buffers, [1, H_kv, capacity, D]. None = an
            ordinary pass, as in any `BlockCache`.
    """

    def __init__(self, capacity: int):
        super().__init__(capacity)
        self.columns: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if self.columns is None:
            return super().update(keys, values, layer_idx)
        buffers = self._buffers(layer_idx, keys, values, self.capacity)
        for buffer, new in zip(buffers, (keys, values), strict=True):
            buffer.index_copy_(2, self.columns, new)
        return buffers

    def clear(self) -> None:
        """Empty again. What is masked still takes part, times 0, so nothing that isn't finite may stay."""
        self.length = 0
        for buffers in self._layers.values():
            for buffer in buffers:
                buffer.zero_()

    def lasting(self) -> BlockCache:
        kept = BlockCache(self.length)
        kept.begin_with(self, self.length)
        return kept

    def _buffers(self, layer: int, keys: Tensor, values: Tensor, end: int) -> tuple[Tensor, Tensor]:
        if end > self.capacity:
            raise ValueError(f"This cache holds {self.capacity} positions; {end} are too many.")
        return super()._buffers(layer, keys, values, end)

    def _grow(self, old: Tensor | None, like: Tensor) -> Tensor:
        batch, heads, _, width = like.shape
        with torch.inference_mode(False):  # what is made in that mode can't be written to outside of it
            return torch.zeros(batch, heads, self.capacity, width, dtype=like.dtype, device=like.device)
