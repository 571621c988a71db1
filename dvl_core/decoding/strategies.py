"""Unmasking strategies: which masked positions a denoising step reveals. Add one here, nowhere else.

A strategy is a pure function `(proposal, masked, quota, config, noise) -> revealed`:

    proposal: the tokens proposed at every position of the block, with their probabilities.
    masked:   bool [B, N], positions that are still masked; only these may be revealed.
    quota:    least number of positions to reveal in this step (fewer when fewer are masked).
    config:   the `DecodingConfig`; a strategy reads its own parameter from it.
    noise:    callable giving uniform numbers [N], the same for the same seed, block and step.
    revealed: bool [B, N].

The first line of a strategy's docstring is what the page says about it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .config import DecodingConfig


@dataclass
class Proposal:
    """What the model proposes for a block.

    Attributes:
        ids: proposed token per position, long [B, N].
        confidence: the model's probability of the proposed token, float [B, N].
        log_probs: log-probabilities of the whole vocabulary, float [B, N, V]; the model's own, before
            temperature, top-k and top-p.
    """

    ids: Tensor
    confidence: Tensor
    log_probs: Tensor

    def entropy(self) -> Tensor:
        """Entropy of each position's distribution in nats, float [B, N]."""
        probs = self.log_probs.exp()
        return -(probs * self.log_probs.masked_fill(probs == 0, 0.0)).sum(-1)

    def margin(self) -> Tensor:
        """Probability of the likeliest token minus that of the second, float [B, N]."""
        best = self.log_probs.topk(2, dim=-1).values.exp()
        return best[..., 0] - best[..., 1]


Strategy = Callable[[Proposal, Tensor, int, "DecodingConfig", Callable[[], Tensor]], Tensor]
STRATEGIES: dict[str, Strategy] = {}

# The setting that belongs to a strategy alone, for interfaces that show only what applies.
STRATEGY_PARAMETERS = {
    "low_confidence_dynamic": "threshold",
    "entropy_bound": "entropy_bound",
    "factor": "factor",
}


def strategy(function: Strategy) -> Strategy:
    """Register `function` under its own name."""
    STRATEGIES[function.__name__] = function
    return function


def rank(scores: Tensor, masked: Tensor) -> Tensor:
    """Rank of every position by falling score, unmasked positions last: long [B, N], 0 = best. Ties keep order."""
    order = scores.masked_fill(~masked, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)


def best(scores: Tensor, masked: Tensor, count: int | Tensor) -> Tensor:
    """The `count` masked positions with the highest scores, bool [B, N]; `count` is a number or long [B, 1]."""
    return (rank(scores, masked) < count) & masked


@strategy
def low_confidence_static(proposal, masked, quota, config, noise):
    """A fixed number of tokens per step, the surest first (LLaDA, arXiv 2502.09992)."""
    return best(proposal.confidence, masked, quota)


@strategy
def low_confidence_dynamic(proposal, masked, quota, config, noise):
    """Every token above the threshold, but never fewer than the fixed number (Fast-dLLM, arXiv 2505.22618)."""
    sure = (proposal.confidence > config.threshold) & masked
    enough = sure.sum(-1, keepdim=True) >= quota
    return torch.where(enough, sure, best(proposal.confidence, masked, quota))


@strategy
def entropy_bound(proposal, masked, quota, config, noise):
    """As many of the clearest tokens as a bound on their joint entropy allows (EB-Sampler, arXiv 2505.24857).

    The largest k whose lowest entropies satisfy sum(H) - max(H) <= bound, but at least the quota.
    """
    entropy = proposal.entropy()
    ascending, order = entropy.masked_fill(~masked, torch.inf).sort(dim=-1, stable=True)
    joint = ascending.masked_fill(ascending.isinf(), 0.0).cumsum(-1) - ascending.masked_fill(ascending.isinf(), 0.0)
    count = ((joint <= config.entropy_bound) & ascending.isfinite()).sum(-1, keepdim=True)
    return best(-entropy, masked, count.clamp_min(quota))


@strategy
def margin(proposal, masked, quota, config, noise):
    """A fixed number per step, those furthest ahead of their second candidate first (arXiv 2502.06768)."""
    return best(proposal.margin(), masked, quota)


@strategy
def factor(proposal, masked, quota, config, noise):
    """More tokens at once, the surer they are together (Fast-dLLM, arXiv 2505.22618).

    The largest n with (n + 1)(1 - c_n) < factor, c_n the n-th highest confidence, but at least the quota.
    """
    ordered = proposal.confidence.masked_fill(~masked, -torch.inf).sort(dim=-1, descending=True).values
    n = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device)
    allowed = ((n + 1) * (1 - ordered) < config.factor) & ordered.isfinite()
    count = torch.where(allowed, n, 0).amax(-1, keepdim=True)
    return best(proposal.confidence, masked, count.clamp_min(quota))


@strategy
def random(proposal, masked, quota, config, noise):
    """A fixed number per step, at random: the order masked diffusion is trained on."""
    return best(noise().expand(masked.shape), masked, quota)


@strategy
def left_to_right(proposal, masked, quota, config, noise):
    """A fixed number per step, in reading order."""
    positions = torch.arange(masked.shape[-1], device=masked.device, dtype=torch.float32)
    return best(-positions.expand(masked.shape), masked, quota)
