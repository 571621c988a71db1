"""Block-causal attention masks as pure functions. True = may attend."""

from __future__ import annotations

import torch
from torch import Tensor


def block_causal_mask(length: int, block_size: int, device: torch.device | str | None = None) -> Tensor:
    """Every position sees its own block and all earlier ones, blocks aligned to position 0.

    `block_size` 1 is the ordinary causal mask. Returns bool [length, length] (arXiv 2512.15713, inference mask).
    """
    block = torch.arange(length, device=device) // block_size
    return block[:, None] >= block[None, :]


def as_layer_masks(mask: Tensor | None) -> dict[str, Tensor | None]:
    """The form in which decoder layers of transformers take one mask for all kinds of layer."""
    return {"full_attention": mask, "sliding_attention": mask}
