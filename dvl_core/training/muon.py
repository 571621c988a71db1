"""Muon and AdamW as one torch optimizer, so that it can be wrapped, saved and resumed like any other."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from .config import OptimizerConfig
from .optimizer import orthogonalise

MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """AdamW, except for groups marked `muon`, whose matrices move by their orthogonalised momentum.

    Source: https://kellerjordan.github.io/posts/muon (Nesterov momentum 0.95; the update of a matrix is scaled by
    sqrt(max(1, rows / columns))).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update."""
        held = []
        for group in self.param_groups:
            if group["muon"]:
                held += [(parameter, parameter.grad) for parameter in group["params"]]
                self._muon(group)
        for parameter, _ in held:
            parameter.grad = None  # AdamW passes over what has no gradient
        super().step(closure)
        for parameter, gradient in held:
            parameter.grad = gradient

    def _muon(self, group: dict[str, Any]) -> None:
        same_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                same_shape[tuple(parameter.shape)].append(parameter)
        for (rows, columns), parameters in same_shape.items():
            for parameter in parameters:
                if "momentum" not in self.state[parameter]:
                    self.state[parameter]["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["momentum"] for parameter in parameters]
            gradients = [parameter.grad for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            update = orthogonalise(torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM)))
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, [u.to(p.dtype) for u, p in zip(update, parameters, strict=True)],
                                alpha=-rate)


def build_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a configuration over groups of `parts.parameter_groups`."""
    kind = Muon if config.name == "muon" else torch.optim.AdamW
    return kind(groups, lr=config.lr.language, betas=config.betas, eps=config.eps)
