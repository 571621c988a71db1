"""Exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, in float32, after every update.

    Args:
        named: (name, parameter) pairs; those that are not trained are passed over. Sharded parameters are averaged
            shard by shard.
        decay: close to 1.
    """

    def __init__(self, named: list[tuple[str, nn.Parameter]], decay: float) -> None:
        self.decay = decay
        self.parameters = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.average = {name: _local(p).float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(_local(parameter).float(), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights for a while."""
        kept = {name: _local(parameter).clone() for name, parameter in self.parameters.items()}
        self._set(self.average)
        try:
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            _local(parameter).copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """The average, by parameter name."""
        return dict(self.average)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved average."""
        for name, value in state.items():
            self.average[name].copy_(value)


def _local(parameter: Tensor) -> Tensor:
    """The values that this process holds: all of them, or its shard of a distributed tensor."""
    value = parameter.detach()
    return value.to_local() if hasattr(value, "to_local") else value
