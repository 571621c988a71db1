"""Noise of block diffusion: one level per block, tokens masked independently at that level."""

from __future__ import annotations

import torch
from torch import Tensor


def noise_levels(uniform: Tensor, low: float = 1e-3, high: float = 1.0, antithetic: bool = True) -> Tensor:
    """Noise level t of every block.

    Antithetic: the k-th of the N blocks of the batch draws from the k-th of N equal slices of [0, 1), so that each
    batch covers all levels evenly (arXiv 2503.09573, low-variance sampling).

    Args:
        uniform: independent draws from U(0, 1), [B, blocks].
        low, high: range of t.
        antithetic: spread the draws over the batch.

    Returns:
        [B, blocks], between `low` and `high`.
    """
    if antithetic:
        slices = torch.arange(uniform.numel(), dtype=uniform.dtype, device=uniform.device).view_as(uniform)
        uniform = (uniform + slices) / uniform.numel()
    return uniform * (high - low) + low


def spread_over_tokens(levels: Tensor, block_size: int, length: int) -> Tensor:
    """[B, blocks] -> [B, length]: every token gets the level of its block."""
    return levels.repeat_interleave(block_size, dim=-1)[..., :length]


def masked_positions(uniform: Tensor, levels: Tensor, labelled: Tensor) -> Tensor:
    """Which tokens become the mask token: labelled ones, each with probability t.

    Args:
        uniform: independent draws from U(0, 1), one per token.
        levels: t per token.
        labelled: bool, tokens that carry a label.
    """
    return (uniform <= levels) & labelled
