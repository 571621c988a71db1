"""Training options from the literature, one pure function each. `config.ObjectiveConfig` says which are on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .objective import IGNORE, NoisyBatch


def inverse_level_weights(noise: NoisyBatch) -> Tensor:
    """The published weight: 1 / t at masked tokens, 0 elsewhere. Returns [B, L]."""
    return noise.masked / noise.levels


def effective_mask_ratio_weights(noise: NoisyBatch, labels: Tensor, block_size: int) -> Tensor:
    """1 / t' at masked tokens, t' being the share of a block's tokens that was really masked, not the level drawn.

    Source: SDAR-VL (arXiv 2512.14068), "effective mask ratio scaling". There t' counts all tokens of a block; here
    it counts those that can be masked (labelled ones), the same wherever a block is all answer.

    Args:
        noise: what was masked.
        labels: [B, L], -100 where a token is not learnt.
        block_size: tokens per block.

    Returns:
        [B, L].
    """
    pad = -labels.shape[1] % block_size
    masked = F.pad(noise.masked, (0, pad)).unflatten(1, (-1, block_size)).sum(-1, keepdim=True)
    labelled = F.pad(labels != IGNORE, (0, pad)).unflatten(1, (-1, block_size)).sum(-1, keepdim=True)
    weight = (labelled / masked.clamp(min=1)).expand(-1, -1, block_size).flatten(1)[:, : labels.shape[1]]
    return weight * noise.masked


def beta_levels(uniform: Tensor, progress: float, mean: tuple[float, float], concentration: tuple[float, float],
                until: float = 1.0) -> Tensor:
    """Noise levels from a beta distribution that narrows as training goes on.

    Beta(m c, (1 - m) c), mean m and concentration c rising linearly with progress. Draws go through the inverse of
    the distribution function, so what was evenly spread stays so.

    Source: SDAR-VL (arXiv 2512.14068), "progressive beta noise curriculum". The paper itself could not be read here,
    and public reimplementations differ: one holds the mean at 0.8 and raises the concentration from 2 to 50 (the
    defaults), another takes the mean from 0.5 to 0.7 and the concentration from 4 to 25 or 50.

    Args:
        uniform: draws from U(0, 1), any shape.
        progress: share of the run that is over, 0 to 1.
        mean, concentration: their values at the start and at the end.
        until: share of the run at which the end values are reached.

    Returns:
        levels between 0 and 1, of the shape of `uniform`.
    """
    share = min(1.0, progress / until)
    m, c = (start + (end - start) * share for start, end in (mean, concentration))
    grid = (torch.arange(4096, dtype=torch.float64, device=uniform.device) + 0.5) / 4096
    logarithm = (m * c - 1) * grid.log() + ((1 - m) * c - 1) * (-grid).log1p()
    density = torch.exp(logarithm - logarithm.max())
    reached = density.cumsum(0) / density.sum()
    return grid[torch.searchsorted(reached, uniform.double().contiguous()).clamp(max=4095)].to(uniform.dtype)


def annealed_block_size(progress: float, final: int) -> int:
    """Block size at a point of the run: 2, 4, 8, …, `final`, each for an equal share of the updates.

    Source: Fast-dVLM (arXiv 2604.06832), "block-size annealing": S[min(floor(u |S|), |S| - 1)] of the powers of two.

    Args:
        progress: share of the run that is over, 0 to 1.
        final: block size at the end; where it is no power of two it follows the powers below it.
    """
    sizes = [2**power for power in range(1, final.bit_length()) if 2**power < final] + [final]
    return sizes[min(int(progress * len(sizes)), len(sizes) - 1)]


def complementary(noise: NoisyBatch, labels: Tensor, low: float) -> NoisyBatch:
    """The opposite masking: what was masked is shown, what was shown is masked, so that every token is learnt.

    Source: Fast-dLLM v2 (arXiv 2509.26328). A token is masked here with probability 1 - t, which is therefore the
    level that it is weighted by; whether the paper weights at all could not be found.

    Args:
        noise: the first masking.
        labels: [B, L], -100 where a token is not learnt.
        low: smallest level, which bounds the weight.
    """
    return NoisyBatch((1 - noise.levels).clamp(min=low), (labels != IGNORE) & ~noise.masked)


def mixed_loss(diffusion: Tensor, next_token: Tensor, weight: float) -> Tensor:
    """(1 - weight) of the diffusion loss and `weight` of the next-token loss.

    Source: Fast-dVLM (arXiv 2604.06832), which takes one half of each, the next-token loss on a clean copy that
    attends causally. Here the clean copy is block-causal, so the next-token loss has a causal pass of its own.
    """
    return (1 - weight) * diffusion + weight * next_token
