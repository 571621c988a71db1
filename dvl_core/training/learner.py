"""The model and its objective as one module: a batch in, the loss and its parts by noise level out.

Wrappers for many devices (DDP, FSDP, DeepSpeed) hook into a module's `forward`, so everything that needs gradients
happens inside this one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .answers import masked_token_losses, next_token_losses, row_mean
from .config import ObjectiveConfig
from .flex import Attention
from .noise import masked_positions, noise_levels, spread_over_tokens
from .objective import IGNORE, NoisyBatch
from .options import beta_levels, complementary, effective_mask_ratio_weights, inverse_level_weights, mixed_loss
from .rows import as_draws

QUARTILES = 4


class Learner(nn.Module):
    """Computes the loss of a batch.

    Args:
        model: one of the project's models.
        objective: what to minimise.
        dummy: model inputs of one small picture, for batches without any: every device has to use the vision tower,
            or those that do would wait for those that don't.
        attention: how attention is computed; see `flex.takes_flex`.

    Attributes:
        measured: of the last batch: its loss, and by quartile of the noise level the sum of the token losses and their
            number, float32 [9], without gradient.
    """

    def __init__(
        self, model: nn.Module, objective: ObjectiveConfig, dummy: dict[str, Tensor], attention: Attention = "dense"
    ) -> None:
        super().__init__()
        self.model, self.objective, self.attention = model, objective, attention
        config = model.config
        self.low = config.bd3lm_sampling_eps_min if objective.low is None else objective.low
        self.high = config.bd3lm_sampling_eps_max if objective.high is None else objective.high
        self._no_split_modules = model._no_split_modules  # what FSDP wraps
        self.dummy_names = tuple(dummy)
        for name, value in dummy.items():
            self.register_buffer(f"dummy_{name}", value, persistent=False)

    def forward(self, batch: dict[str, Any], block_size: int, progress: float) -> dict[str, Tensor]:
        """Loss of a batch of `rows.collate`.

        Args:
            batch: on this device.
            block_size: tokens per block.
            progress: share of the run that is over, for what changes on the way.

        Returns:
            loss: scalar; levels: float [4, 2], per quartile of the noise level the sum of the token losses and their
            number (all 0 for next-token prediction, which has no noise).
        """
        result = self._loss(batch, block_size, progress)
        # Kept as they are: FSDP's mixed precision rounds what a forward pass takes and gives to bfloat16.
        self.measured = torch.cat([result["loss"].detach().float().reshape(1), result["levels"].float().flatten()])
        return result

    def _loss(self, batch: dict[str, Any], block_size: int, progress: float) -> dict[str, Tensor]:
        ids, labels = batch["input_ids"], batch["labels"]
        embeds = self.model.embed_inputs(ids, **batch["pictures"])
        if not batch["pictures"]:
            dummy = {name: getattr(self, f"dummy_{name}") for name in self.dummy_names}
            embeds = embeds + 0 * self.model.embed_inputs(**dummy).sum()
        if self.objective.kind == "autoregressive":
            losses = next_token_losses(self.model, embeds, labels, batch["attention_mask"], self.attention)
            return {"loss": row_mean(losses, labels), "levels": torch.zeros(QUARTILES, 2, device=labels.device)}
        return self._diffusion(batch, embeds, block_size, progress)

    def _diffusion(self, batch: dict[str, Any], embeds: Tensor, block_size: int, progress: float) -> dict[str, Tensor]:
        objective, labels = self.objective, batch["labels"]
        noise = self._noise(batch, block_size, progress)
        noises = [noise]
        if objective.complementary:
            noises.append(complementary(noise, labels, self.low))
        loss, levels = torch.zeros((), device=labels.device), torch.zeros(QUARTILES, 2, device=labels.device)
        for noise in noises:
            losses = masked_token_losses(
                self.model, embeds, labels, noise.masked, block_size, batch["attention_mask"],
                batch["turn"] if objective.auto_truncation else None, self.attention,
            )
            loss = loss + row_mean(losses * self._weights(noise, labels, block_size), labels) / len(noises)
            levels = levels + by_level(losses, noise.masked, noise.levels)
        if objective.ar_weight:
            own = torch.arange(labels.shape[1], device=labels.device) < batch["lengths"][:, None]
            words = torch.where(own, labels, IGNORE)  # the padding with ends is the diffusion loss's matter
            losses = next_token_losses(self.model, embeds, words, batch["attention_mask"], self.attention)
            loss = mixed_loss(loss, row_mean(losses, words), objective.ar_weight)
        return {"loss": loss, "levels": levels}

    def _noise(self, batch: dict[str, Any], block_size: int, progress: float) -> NoisyBatch:
        curve = self.objective.beta_noise
        uniform, by_token = (as_draws(batch[f"{kind}_uniform"]) for kind in ("block", "token"))
        published = self.objective.spread == "published"
        if curve.enabled:
            uniform = noise_levels(uniform, 0.0, 1.0, published)
            levels = beta_levels(uniform, progress, curve.mean, curve.concentration, curve.until)
            levels = levels.clamp(self.low, self.high)
        else:
            levels = noise_levels(uniform, self.low, self.high, published)
        levels = spread_over_tokens(levels, block_size, batch["labels"].shape[1])
        return NoisyBatch(levels, masked_positions(by_token, levels, batch["labels"] != IGNORE))

    def _weights(self, noise: NoisyBatch, labels: Tensor, block_size: int) -> Tensor:
        if self.objective.weighting == "effective_mask_ratio":
            return effective_mask_ratio_weights(noise, labels, block_size)
        return inverse_level_weights(noise)


def by_level(losses: Tensor, counted: Tensor, levels: Tensor) -> Tensor:
    """Per quartile of the level: sum of the losses and number of tokens.

    Args:
        losses: of tokens, [B, L].
        counted: which tokens count, bool [B, L].
        levels: noise level of each token, from 0 to 1.

    Returns:
        float [4, 2], without gradient.
    """
    quartile = (levels[counted] * QUARTILES).long().clamp(0, QUARTILES - 1)
    table = torch.zeros(QUARTILES, 2, device=losses.device)
    pairs = torch.stack([losses.detach()[counted], torch.ones_like(losses[counted])], 1)
    return table.index_add(0, quartile, pairs.float().detach())
