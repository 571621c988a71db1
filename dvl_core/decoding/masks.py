"""The attention masks of inference as pure functions. True = may attend."""

from __future__ import annotations

import torch
from torch import Tensor


def block_causal_mask(length: int, block_size: int, device: torch.device | str | None = None) -> Tensor:
    """Every position sees its own block and all earlier ones, blocks aligned to position 0.

    `block_size` 1 is the ordinary causal mask. Returns bool [length, length] (arXiv 2512.15713, inference mask).
    """
    block = torch.arange(length, device=device) // block_size
    return block[:, None] >= block[None, :]


def copies_mask(clean: int, copies: int, cells: int, device: torch.device | str | None = None) -> Tensor:
    """`clean` finished blocks of `cells` tokens under their own mask, then copies of the open block.

    A copy sees the finished blocks and itself. Returns bool [Q, Q], Q = (clean + copies) * cells.
    """
    group = torch.arange((clean + copies) * cells, device=device) // cells
    return (group[:, None] == group) | ((group[:, None] > group) & (group < clean))


def hide_padding(mask: Tensor, valid: Tensor | None) -> Tensor:
    """`mask` [L, L] for every row of a batch, padding hidden: bool [1 or B, 1, L, L].

    A padded position keeps seeing itself, since a row of the mask with nothing in it has no softmax.

    Args:
        valid: bool [B, L], False at padding; None when there is none.
    """
    if valid is None:
        return mask[None, None]
    itself = torch.eye(mask.shape[0], dtype=torch.bool, device=mask.device)
    return mask & valid[:, None, None, :] | itself
