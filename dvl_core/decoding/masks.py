"""The attention mask of inference as a pure function. True = may attend."""

from __future__ import annotations

import torch
from torch import Tensor


def block_causal_mask(length: int, block_size: int, device: torch.device | str | None = None) -> Tensor:
    """Every position sees its own block and all earlier ones, blocks aligned to position 0.

    `block_size` 1 is the ordinary causal mask. Returns bool [length, length] (arXiv 2512.15713, inference mask).
    """
    block = torch.arange(length, device=device) // block_size
    return block[:, None] >= block[None, :]
