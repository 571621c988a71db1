"""The forward passes of training: a noisy copy of the answers only, and next-token prediction.

The published form doubles the whole sequence. A noisy block is seen by itself alone, so the noisy copies of blocks
without a label change nothing: leaving them out gives the same loss and the same gradients with fewer tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .flex import Attention, run_under_rule
from .masks import Tokens
from .objective import IGNORE


def noisy_positions(labels: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Positions of all blocks that hold a label.

    Args:
        labels: [B, L].
        block_size: tokens per block.

    Returns:
        positions in order, long [B, N], and which of them are real, bool [B, N] (rows differ in number).
    """
    length = labels.shape[1]
    pad = -length % block_size
    labelled = F.pad(labels != IGNORE, (0, pad)).unflatten(1, (-1, block_size)).any(-1)
    needed = labelled.repeat_interleave(block_size, 1)[:, :length]
    count = needed.sum(1)
    order = needed.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
    return order, torch.arange(order.shape[1], device=labels.device) < count[:, None]


def masked_token_losses(
    model: nn.Module, embeds: Tensor, labels: Tensor, masked: Tensor, block_size: int,
    attention_mask: Tensor | None = None, turn: Tensor | None = None, attention: Attention = "dense",
) -> Tensor:
    """Cross entropy of every masked token, at its own position.

    Args:
        model: one of the project's models (`run_decoder`, `lm_head`).
        embeds: clean embeddings, pictures merged in, [B, L, D].
        labels: [B, L], -100 where a token is not learnt.
        masked: bool [B, L], labelled tokens to replace by the mask token.
        block_size: tokens per block.
        attention_mask: bool [B, L], False = padding, which nobody attends to; None = no padding.
        turn: answers that ended before each token, [B, L], to end blocks with their answer; None to let them be.
        attention: how it is computed; see `flex.takes_flex`.

    Returns:
        float32 [B, L], 0 where nothing was masked.
    """
    batch, length = labels.shape
    index, real = noisy_positions(labels, block_size)
    noisy_count = index.shape[1]
    mask_id = torch.tensor(model.config.mask_token_id, device=embeds.device)
    noisy = torch.where(masked[..., None], model.token_embeds(mask_id).to(embeds.dtype), embeds)
    noisy = noisy.gather(1, index[..., None].expand(-1, -1, embeds.shape[-1]))
    position = torch.cat([index, torch.arange(length, device=index.device).expand(batch, -1)], 1)
    is_noisy = torch.arange(noisy_count + length, device=index.device) < noisy_count
    clean_real = torch.ones_like(masked) if attention_mask is None else attention_mask.bool()
    tokens = Tokens(
        position // block_size, is_noisy.expand(batch, -1),
        turn=None if turn is None else torch.cat([turn.gather(1, index), turn], 1),
        padding=numbered(torch.cat([real & clean_real.gather(1, index), clean_real], 1)),
    )  # fmt: skip
    hidden = run_under_rule(model, torch.cat([noisy, embeds], 1), tokens, position, attention)
    chosen = masked.gather(1, index) & real
    losses = _token_losses(model, hidden[:, :noisy_count][chosen], labels.gather(1, index)[chosen])
    at = torch.zeros_like(masked).scatter(1, index, chosen)
    return torch.zeros(labels.shape, device=labels.device).masked_scatter(at, losses)


def next_token_losses(
    model: nn.Module, embeds: Tensor, labels: Tensor, attention_mask: Tensor | None = None,
    attention: Attention = "dense",
) -> Tensor:
    """Cross entropy of every labelled token given all before it.

    Args:
        embeds, labels, attention_mask, attention: as in `masked_token_losses`.

    Returns:
        float32 [B, L], 0 where a token is not learnt.
    """
    position = torch.arange(labels.shape[1], device=embeds.device).expand(len(labels), -1)
    real = torch.ones_like(position, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    # clean tokens in blocks of one: the rule is then the causal one
    tokens = Tokens(position, torch.zeros_like(real), padding=numbered(real))
    hidden = run_under_rule(model, embeds, tokens, position, attention)
    learnt = labels != IGNORE
    learnt[:, 0] = False  # nothing comes before the first token
    losses = _token_losses(model, hidden[:, :-1][learnt[:, 1:]], labels[learnt])
    return torch.zeros(labels.shape, device=labels.device).masked_scatter(learnt, losses)


def numbered(real: Tensor) -> Tensor:
    """`Tokens.padding` of tokens of which these are real, [B, L]."""
    return torch.arange(1, real.shape[1] + 1, device=real.device).masked_fill(real, 0)


def _token_losses(model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """Logits of these tokens alone: over a large vocabulary they would fill the memory."""
    return F.cross_entropy(model.lm_head(hidden).float(), labels, reduction="none")


def row_mean(losses: Tensor, labels: Tensor) -> Tensor:
    """Weighted token losses [B, L] per labelled token of the row, averaged over rows."""
    return (losses.sum(1) / (labels != IGNORE).sum(1).clamp(min=1)).mean()
