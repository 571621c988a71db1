"""Attention masks of training: who may look at whom when noisy and clean copies lie side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """What the mask of training looks at: one entry per token, all of one shape [..., L].

    Attributes:
        block: absolute position // block size, int.
        noisy: whether a token belongs to the noisy copy, bool.
        segment: int, 0 for the beginning that several conversations share, which the others see besides themselves;
            negative for padding, which sees only its own kind. None for a single conversation.
        turn: answers that ended before the token, int, to end blocks with their answer; None to let them be.
        padding: 0 for a real token; padding has numbers of its own, one each, so that it is seen by itself alone (a
            row of the mask with nothing in it has no softmax). None when there is no padding.
    """

    block: Tensor
    noisy: Tensor
    segment: Tensor | None = None
    turn: Tensor | None = None
    padding: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Tokens:
        """The same with every field that is there changed."""
        return Tokens(*(None if field is None else change(field) for field in self))


def may_attend(query: Tokens, key: Tokens) -> Tensor:
    """The block-diffusion rule, the only place that states it: dense masks and FlexAttention's kernels evaluate it.

    A clean token sees clean tokens of its own and earlier blocks (block-causal); a noisy token sees the noisy
    tokens of its own block (block diagonal) and clean tokens of earlier blocks (offset block-causal); nobody sees
    the noisy copy of another block. Source: BD3-LM (arXiv 2503.09573), as used by DiffusionVL (arXiv 2512.15713).

    Args:
        query, key: fields that broadcast against each other, the same ones present in both.

    Returns:
        bool, of the broadcast shape; True = may attend.
    """
    clean_to_clean = ~query.noisy & ~key.noisy & (key.block <= query.block)
    noisy_to_noisy = query.noisy & key.noisy & (key.block == query.block)
    noisy_to_clean = query.noisy & ~key.noisy & (key.block < query.block)
    if query.turn is not None:
        noisy_to_noisy = noisy_to_noisy & within_turn(query.turn, key.turn)
    allowed = clean_to_clean | noisy_to_noisy | noisy_to_clean
    if query.segment is not None:
        allowed = allowed & _same_tree(query.segment, key.segment)
    if query.padding is not None:
        allowed = allowed & ((key.padding == 0) | (key.padding == query.padding))
    return allowed


def within_turn(query_turn: Tensor, key_turn: Tensor) -> Tensor:
    """Which noisy tokens a noisy token may see when blocks end with the answer: none of a later turn.

    A block can hold the end of an answer and the beginning of the next question, which inference has not seen yet.

    Source: Fast-dVLM (arXiv 2604.06832), "auto-truncation".

    Args:
        query_turn, key_turn: answers that ended before each token, int, of shapes that broadcast.

    Returns:
        bool, of the broadcast shape.
    """
    return key_turn <= query_turn


def dense_mask(queries: Tokens, keys: Tokens | None = None) -> Tensor:
    """The rule over all pairs of tokens, of queries and keys or of tokens among themselves.

    Returns:
        bool [..., Q, K], row = query, True = may attend.
    """
    keys = queries if keys is None else keys
    return may_attend(queries.map(lambda field: field[..., :, None]), keys.map(lambda field: field[..., None, :]))


def block_diffusion_mask(
    block: Tensor, noisy: Tensor, segment: Tensor | None = None, turn: Tensor | None = None
) -> Tensor:
    """The dense mask of `may_attend` over any layout of clean and noisy tokens.

    Args:
        block, noisy, segment, turn: see `Tokens`, [..., L].

    Returns:
        bool [..., L, L], row = query, True = may attend.
    """
    return dense_mask(Tokens(block, noisy, segment, turn))


def doubled_mask(length: int, block_size: int) -> Tensor:
    """The published 2L x 2L mask: first half noisy, second half clean. Returns bool [2L, 2L]."""
    block = torch.arange(length) // block_size
    noisy = torch.arange(2 * length) < length
    return block_diffusion_mask(block.repeat(2), noisy)


def tree_causal_mask(segment: Tensor) -> Tensor:
    """Causal mask for conversations that share a beginning. `segment` int [..., L] -> bool [..., L, L]."""
    length = segment.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    return causal & _same_tree(segment[..., :, None], segment[..., None, :])


def _same_tree(query: Tensor, key: Tensor) -> Tensor:
    return (key == query) | ((key == 0) & (query > 0))


def additive(mask: Tensor) -> Tensor:
    """Boolean mask [B, L, L] -> float32 [B, 1, L, L] to add to attention scores (0 or a large negative)."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -1e4)[:, None]
