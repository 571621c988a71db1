"""The ordinary autoregressive decoder of a parent model, yielding the same kind of steps as the block decoder."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..models.attention import block_causal_mask
from .cache import BlockCache
from .config import DecodingConfig
from .observe import AttentionProbe, Observe, observed_attention
from .prompt import encode_prompt
from .sampling import propose, seeded_noise
from .step import DenoisingStep


@torch.no_grad()
def autoregress(
    model, inputs: dict[str, Any], config: DecodingConfig, observe: Observe | None = None
) -> Iterator[DenoisingStep]:
    """Decode left to right under a causal mask, one token per forward pass, with a key-value cache.

    Of `config` it uses `max_new_tokens`, `temperature`, `top_k`, `top_p` and `seed`. Each step is a block of one
    cell. The first token comes out of the prefill.

    Yields:
        a `DenoisingStep` per token; rows that have ended stay inactive until all have.
    """
    observe = observe or Observe()
    started = perf_counter()
    layers = observe.resolve_layers(model.config.get_text_config().num_hidden_layers)
    prompt = encode_prompt(model, inputs)
    if layers and prompt.rows > 1:
        raise ValueError("attention_layers: attention can be observed for one conversation at a time.")
    device, longest = prompt.embeds.device, max(prompt.lengths)
    lengths = torch.tensor(prompt.lengths, device=device)[:, None]
    valid = torch.arange(longest, device=device) < lengths  # [B, P]
    padded = min(prompt.lengths) < longest
    cache = BlockCache(longest + config.max_new_tokens)
    eos_ids = torch.tensor(model.eos_token_ids, device=device)

    def forward(embeds: Tensor, mask: Tensor | None, positions: Tensor) -> tuple[Tensor, AttentionProbe | None]:
        probe = AttentionProbe(layers, 1, prompt.picture_columns) if layers and len(prompt.picture_columns) else None
        if probe is None:
            return model.run_decoder(embeds, mask, positions, cache), None
        with observed_attention(model.decoder.config):
            return model.run_decoder(embeds, mask, positions, cache, attention_probe=probe), probe

    itself = torch.eye(longest, dtype=torch.bool, device=device)
    mask = block_causal_mask(longest, 1, device)[None, None] & valid[:, None, None] | itself
    hidden, probe = forward(prompt.embeds, mask, torch.arange(longest, device=device)[None])
    cache.commit(longest)
    hidden = hidden.gather(1, (lengths - 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    prefill_seconds = perf_counter() - started

    active = [True] * prompt.rows
    for index in range(config.max_new_tokens):
        started = perf_counter()
        if index > 0:
            mask = None
            if padded:
                grown = torch.ones(prompt.rows, index, dtype=torch.bool, device=device)
                mask = torch.cat([valid, grown], dim=1)[:, None, None, :]
            hidden, probe = forward(model.get_input_embeddings()(tokens), mask, lengths + index - 1)  # noqa: F821
            cache.commit(1)
        logits = model.lm_head(hidden)
        logits[..., model.config.mask_token_id] = -torch.inf
        proposal = propose(logits, config, seeded_noise(config.seed, index, 0, device))
        tokens = proposal.ids
        alive = torch.tensor(active, device=device)[:, None]
        last = index + 1 == config.max_new_tokens
        ends = torch.isin(tokens, eos_ids)[:, 0].tolist()
        now_active = [row and not end and not last for row, end in zip(active, ends, strict=True)]
        extra: dict[str, Any] = {"attention": probe.weights} if probe is not None else {}
        if observe.candidates:
            log_probs, ids = proposal.log_probs.topk(min(observe.candidates, logits.shape[-1]), dim=-1)
            extra.update(candidate_ids=ids, candidate_probabilities=log_probs.exp())
        if observe.entropy:
            extra["entropies"] = proposal.entropy()
        yield DenoisingStep(
            block=index,
            step=0,
            spans=[(index, index + 1)] * prompt.rows,
            masked=alive,
            proposals=proposal.ids,
            confidences=proposal.confidence,
            revealed=alive,
            tokens=tokens,
            active=active,
            ended=[not row for row in now_active],
            forwards=1 + index,
            seconds=perf_counter() - started,
            prefill_seconds=prefill_seconds,
            **extra,
        )
        active = now_active
        if not any(active):
            return
