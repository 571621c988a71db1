"""Muon for weight matrices, AdamW for everything else, as one optimizer.

Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon) orthogonalises the momentum of a matrix with a
quintic Newton-Schulz iteration before it becomes the update. It needs far fewer samples than AdamW to train a
model of this size, which is what makes two CPU cores enough.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from ..models.precision import fast_dtype

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that pushes singular values towards 1


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearly orthogonal matrices with the same singular vectors: [N, rows, columns] -> the same, in `fast_dtype`."""
    a, b, c = _COEFFICIENTS
    x = matrices.to(fast_dtype(matrices.device))
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class MuonAdamW:
    """Two parameter groups that share one learning-rate factor.

    Args:
        named: (name, parameter) pairs to train.
        muon_lr: learning rate of matrices inside blocks, scaled by sqrt(max(1, rows / columns)); also of SigLIP's
            patch embedding, a matrix in the form of a convolution, that learns faster so.
        adam_lr: learning rate of embeddings, norms, biases and heads.
        vision_scale: factor on both for parameters whose name contains "visual".
        weight_decay: of the matrices.
    """

    def __init__(self, named: list[tuple[str, nn.Parameter]], muon_lr: float, adam_lr: float,
                 vision_scale: float = 1.0, weight_decay: float = 0.01) -> None:
        self.muon_lr, self.weight_decay = muon_lr, weight_decay
        self.groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)  # same shape: one batched iteration
        adam: dict[float, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in named:
            scale = vision_scale if "visual" in name else 1.0
            inside = parameter.ndim == 2 and ("layers." in name or "blocks." in name or "merger." in name)
            if inside or name.endswith("patch_embedding.weight"):
                self.groups[(tuple(parameter.flatten(1).shape), scale)].append(parameter)
            else:
                adam[scale].append(parameter)
        self.adam = torch.optim.AdamW(
            [{"params": p, "scale": s} for s, p in adam.items()], lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0,
            foreach=True,
        )
        self.adam_lr = adam_lr
        self.momentum = {key: torch.zeros(len(p), *key[0], device=p[0].device) for key, p in self.groups.items()}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.adam.zero_grad(set_to_none=True)
        for parameters in self.groups.values():
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update; `factor` multiplies both learning rates (the schedule)."""
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * factor * group["scale"]
        self.adam.step()
        for key, parameters in self.groups.items():
            (rows, columns), scale = key
            if parameters[0].grad is None:
                continue
            gradient = torch.stack([p.grad.flatten(1) for p in parameters])
            momentum = self.momentum[key].lerp_(gradient, 0.05)
            update = orthogonalise(gradient.lerp_(momentum, 0.95))
            rate = self.muon_lr * factor * scale * max(1.0, rows / columns) ** 0.5
            changes = [change.view_as(p).to(p.dtype) for p, change in zip(parameters, update, strict=True)]
            torch._foreach_mul_(parameters, 1 - rate * self.weight_decay)
            torch._foreach_add_(parameters, changes, alpha=-rate)
