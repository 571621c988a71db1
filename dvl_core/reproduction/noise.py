"""Noise on packed rows. Each block of an answer becomes a row of its own, so that the pure functions of training
(`training.objective`, `training.options`) apply to packed rows as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..training.noise import masked_positions, noise_levels
from ..training.objective import IGNORE, NoisyBatch
from ..training.options import beta_levels, complementary, effective_mask_ratio_weights, inverse_level_weights

LOWEST = 0.1  # noise level; it bounds the weight 1 / t
CURVE = {"mean": (0.8, 0.8), "concentration": (2.0, 50.0)}  # of the beta noise curriculum, its defaults


@dataclass(frozen=True)
class AnswerBlocks:
    """The labelled tokens of a batch of packed rows, gathered by block.

    labels: [N, block], -100 where a block holds no answer; block, slot: of every labelled token, in row order.
    """

    labels: Tensor
    block: Tensor
    slot: Tensor


def answer_blocks(batch: dict[str, Tensor], size: int) -> AnswerBlocks:
    """Gather the answers of a packed batch by block."""
    block = batch["positions"] // size
    key = (torch.arange(len(block))[:, None] * 64 + batch["segment"].clamp(min=0)) * 1024 + block
    labelled = batch["labels"] != IGNORE
    found, which = key[labelled].unique(return_inverse=True)
    slot = batch["positions"][labelled] % size
    labels = torch.full((len(found), size), IGNORE)
    labels[which, slot] = batch["labels"][labelled]
    return AnswerBlocks(labels, which, slot)


def draw_noise(blocks: AnswerBlocks, generator: torch.Generator, beta_at: float | None = None) -> NoisyBatch:
    """One level per block, spread evenly over the batch, and the tokens masked at it.

    Args:
        beta_at: share of the run that is over, for the beta noise curriculum; None for uniform levels.
    """
    count, size = blocks.labels.shape
    uniform = noise_levels(torch.rand(1, count, generator=generator), 0.0, 1.0)[0]
    uniform = uniform[torch.randperm(count, generator=generator)]  # strata are dealt out at random
    if beta_at is None:
        levels = LOWEST + (1 - LOWEST) * uniform
    else:
        levels = beta_levels(uniform, beta_at, **CURVE).clamp(LOWEST, 1.0)
    levels = levels[:, None].expand(-1, size)
    rand_token = torch.rand(count, size, generator=generator)
    return NoisyBatch(levels, masked_positions(rand_token, levels, blocks.labels != IGNORE))


def opposite(blocks: AnswerBlocks, noise: NoisyBatch) -> NoisyBatch:
    """The complementary masking."""
    return complementary(noise, blocks.labels, LOWEST)


def noisy_batch(batch: dict[str, Tensor], blocks: AnswerBlocks, noise: NoisyBatch, mask_id: int,
                by_mask_ratio: bool = False) -> dict[str, Tensor]:
    """Hide the masked tokens of a packed batch; adds `weight` [B, L], which sums to about 1 per answer."""
    if by_mask_ratio:
        weights = effective_mask_ratio_weights(noise, blocks.labels, blocks.labels.shape[1])
    else:
        weights = inverse_level_weights(noise)
    labelled = batch["labels"] != IGNORE
    weight, hidden = torch.zeros(labelled.shape), torch.zeros_like(labelled)
    weight[labelled] = weights[blocks.block, blocks.slot] * batch["share"][labelled]
    hidden[labelled] = noise.masked[blocks.block, blocks.slot]
    return batch | {"ids": torch.where(hidden, mask_id, batch["ids"]), "weight": weight}
