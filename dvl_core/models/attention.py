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


def training_mask(length: int, block_size: int, device: torch.device | str | None = None) -> Tensor:
    """Mask of the concatenated noisy and clean copies, bool [2 * length, 2 * length], noisy copy first.

    A noisy block sees itself and the clean blocks before it; a clean block sees clean blocks up to its own
    (BD3-LM, arXiv 2503.09573; DiffusionVL, arXiv 2512.15713).
    """
    block = torch.arange(length, device=device) // block_size
    same, before = block[:, None] == block[None, :], block[:, None] > block[None, :]
    nothing = torch.zeros_like(same)
    return torch.cat([torch.cat([same, before], dim=1), torch.cat([nothing, same | before], dim=1)])


def as_layer_masks(mask: Tensor | None) -> dict[str, Tensor | None]:
    """The form in which decoder layers of transformers take one mask for all kinds of layer."""
    return {"full_attention": mask, "sliding_attention": mask}
