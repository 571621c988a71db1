"""From logits to proposed tokens: excluded ids, temperature, top-k, top-p, reproducible noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .config import DecodingConfig
from .strategies import Proposal

Noise = Callable[..., Tensor]


def propose(logits: Tensor, config: DecodingConfig, noise: Noise) -> Proposal:
    """Propose a token at every position.

    The confidence is the model's own probability of the proposal, whatever the temperature.

    Args:
        logits: float [B, N, V]; -inf at ids that must not be proposed.
        noise: gives uniform numbers in (0, 1), [N, V] when asked for V a position; asked only when sampling.
    """
    log_probs = logits.float().log_softmax(-1)
    if config.temperature == 0:
        ids = log_probs.argmax(-1)
    else:
        kept = keep_likely(log_probs / config.temperature, config.top_k, config.top_p)
        gumbel = -torch.log(-torch.log(noise(kept.shape[-1])))
        ids = (kept + gumbel).argmax(-1)
    confidence = log_probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1).exp()
    return Proposal(ids, confidence, log_probs)


def keep_likely(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """`scores` [..., V] with -inf outside the `top_k` likeliest ids and the nucleus of probability `top_p`.

    The likeliest id is always kept. 0 and 1.0 switch the two off (Holtzman et al., arXiv 1904.09751).
    """
    if 0 < top_k < scores.shape[-1]:
        least = scores.topk(top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p < 1:
        ordered, order = scores.sort(dim=-1, descending=True)
        probs = ordered.softmax(-1)
        beyond = probs.cumsum(-1) - probs >= top_p
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return scores


def seeded_noise(seed: int, block: int, step: int, cells: int, device: torch.device) -> Noise:
    """Uniform numbers in (0, 1) that depend on nothing but seed, block and step, so that resuming is exact.

    Every row of a batch gets the same numbers: each row samples exactly what it samples alone.

    Args:
        cells: N, positions of the block.

    Returns:
        `draw(*width)`, float [N, *width].
    """

    def draw(*width: int) -> Tensor:
        generator = torch.Generator(device=device)
        generator.manual_seed(((seed * 1_000_003 + block) * 1_000_003 + step) % 2**63)
        return torch.rand(cells, *width, generator=generator, device=device).clamp_min_(1e-20)

    return draw
