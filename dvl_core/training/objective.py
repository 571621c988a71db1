"""The training objective: weighted cross entropy at masked positions, as DiffusionVL publishes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import doubled_mask
from .noise import masked_positions, noise_levels, spread_over_tokens

IGNORE = -100  # label of a token that is not learnt


@dataclass(frozen=True)
class NoisyBatch:
    """What one draw of noise made of a batch; all [B, L]."""

    levels: Tensor  # t of the token's block
    masked: Tensor  # bool: replaced by the mask token


def add_noise(labels: Tensor, rand_block: Tensor, rand_token: Tensor, block_size: int, low: float = 1e-3,
              high: float = 1.0, antithetic: bool = True) -> NoisyBatch:
    """Noise from two recorded uniform draws.

    Args:
        labels: [B, L], -100 where a token is not learnt.
        rand_block: U(0, 1) per block, [B, ceil(L / block_size)].
        rand_token: U(0, 1) per token, [B, L].
        block_size: tokens per block.
        low, high, antithetic: see `noise_levels`.
    """
    levels = noise_levels(rand_block, low, high, antithetic)
    levels = spread_over_tokens(levels, block_size, labels.shape[1])
    return NoisyBatch(levels, masked_positions(rand_token, levels, labels != IGNORE))


def block_diffusion_loss(logits: Tensor, labels: Tensor, noise: NoisyBatch) -> Tensor:
    """Cross entropy of the masked tokens at their own positions, each weighted 1 / t, per labelled token of its row,
    averaged over rows.

    Args:
        logits: of the noisy half, [B, L, V].
        labels: [B, L].
        noise: what was masked, and at which level.
    """
    token = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=IGNORE)
    weighted = token.view_as(labels) * noise.masked / noise.levels
    return (weighted.sum(1) / (labels != IGNORE).sum(1).clamp(min=1)).mean()


def diffusion_forward(model: nn.Module, embeds: Tensor, noise: NoisyBatch, block_size: int,
                      attention_mask: Tensor | None = None) -> Tensor:
    """Logits of the noisy half of the doubled sequence.

    Args:
        model: one of the project's models (`run_decoder`, `lm_head`).
        embeds: clean embeddings, pictures merged in, [B, L, D].
        noise: which positions to replace by the mask token.
        block_size: tokens per block.
        attention_mask: bool [B, L], False = padding, which nobody attends to; None = no padding.

    Returns:
        [B, L, V].
    """
    length = embeds.shape[1]
    mask_id = torch.tensor(model.config.mask_token_id, device=embeds.device)
    noisy = torch.where(noise.masked[..., None], model.token_embeds(mask_id), embeds)
    positions = torch.arange(length, device=embeds.device).repeat(2)[None]
    allowed = doubled_mask(length, block_size).to(embeds.device)[None, None]
    if attention_mask is not None:  # a token always sees itself, so that no row of the softmax is empty
        real = attention_mask.bool().repeat(1, 2)[:, None, None, :]
        allowed = allowed & (real | torch.eye(2 * length, dtype=torch.bool, device=embeds.device))
    hidden = model.run_decoder(torch.cat([noisy, embeds], 1), allowed, positions)
    return model.lm_head(hidden[:, :length])


def align_to_blocks(embeds: Tensor, labels: Tensor, eos_embed: Tensor, eos_id: int, block_size: int,
                    lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Pad every row with labelled end-of-sequence tokens to a multiple of the block ("block-aligned EOS").

    Args:
        embeds, labels: [B, L, D] and [B, L]; what lies beyond a row's length is overwritten.
        eos_embed: embedding of the end-of-sequence token, [D].
        eos_id: its id.
        block_size: tokens per block.
        lengths: real tokens per row, [B].

    Returns:
        embeds and labels of the longest row's aligned length, shorter rows padded with EOS to the same length.
    """
    target = -(-int(lengths.max()) // block_size) * block_size
    pad = max(0, target - embeds.shape[1])
    embeds = F.pad(embeds, (0, 0, 0, pad))[:, :target]
    labels = F.pad(labels, (0, pad), value=IGNORE)[:, :target]
    index = torch.arange(target, device=labels.device)
    ends = index >= lengths[:, None]
    labels = torch.where(ends, eos_id, labels)
    return torch.where(ends[..., None], eos_embed, embeds), labels
