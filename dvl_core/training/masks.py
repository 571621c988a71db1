"""Attention masks of training: who may look at whom when noisy and clean copies lie side by side."""

from __future__ import annotations

import torch
from torch import Tensor


def block_diffusion_mask(block: Tensor, noisy: Tensor, segment: Tensor | None = None) -> Tensor:
    """The block-diffusion training mask over any layout of clean and noisy tokens.

    A clean token sees clean tokens of its own and earlier blocks (block-causal); a noisy token sees the noisy
    tokens of its own block (block diagonal) and clean tokens of earlier blocks (offset block-causal); nobody sees
    the noisy copy of another block. Source: BD3-LM (arXiv 2503.09573), as used by DiffusionVL (arXiv 2512.15713).

    Segments let several conversations share one picture: segment 0 is the shared beginning, the others see it and
    themselves. Negative segments are padding, which sees only its own kind.

    Args:
        block: absolute position // block size, int [..., L].
        noisy: whether a token belongs to the noisy copy, bool [..., L].
        segment: int [..., L], or None for a single conversation.

    Returns:
        bool [..., L, L], row = query, True = may attend.
    """
    q_block, k_block = block[..., :, None], block[..., None, :]
    q_noisy, k_noisy = noisy[..., :, None], noisy[..., None, :]
    clean_to_clean = ~q_noisy & ~k_noisy & (k_block <= q_block)
    noisy_to_noisy = q_noisy & k_noisy & (k_block == q_block)
    noisy_to_clean = q_noisy & ~k_noisy & (k_block < q_block)
    allowed = clean_to_clean | noisy_to_noisy | noisy_to_clean
    return allowed if segment is None else allowed & _same_tree(segment)


def doubled_mask(length: int, block_size: int) -> Tensor:
    """The published 2L x 2L mask: first half noisy, second half clean. Returns bool [2L, 2L]."""
    block = torch.arange(length) // block_size
    noisy = torch.arange(2 * length) < length
    return block_diffusion_mask(block.repeat(2), noisy)


def tree_causal_mask(segment: Tensor) -> Tensor:
    """Causal mask for conversations that share a beginning. `segment` int [..., L] -> bool [..., L, L]."""
    length = segment.shape[-1]
    return torch.ones(length, length, dtype=torch.bool, device=segment.device).tril() & _same_tree(segment)


def _same_tree(segment: Tensor) -> Tensor:
    query, key = segment[..., :, None], segment[..., None, :]
    return (key == query) | ((key == 0) & (query > 0))


def additive(mask: Tensor) -> Tensor:
    """Boolean mask [B, L, L] -> float32 [B, 1, L, L] to add to attention scores (0 or a large negative)."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -1e4)[:, None]
