"""What our decoder is compared with: the block loop as published, and denoising the whole answer without a cache.

`plain_blocks` costs what the published loop costs (arXiv 2512.15713 and the code beside it, as far as its behaviour was
recorded): one pass per step and one more to commit the block, a dense mask over the whole sequence, logits of the whole
prompt, a cache that grows by concatenation and is cut back, masks found in the ids, and a transfer per row and step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from ..decoding import DecodingConfig
from ..decoding.masks import block_causal_mask
from .timing import Outcome


@torch.no_grad()
def plain_blocks(model, input_ids: Tensor, config: DecodingConfig) -> Outcome:
    """Denoise block by block, the published way (`low_confidence_static`, greedy).

    Args:
        input_ids: long [1, L]; L is a multiple of the block size.

    Raises:
        ValueError: when it is not.
    """
    prompt, size = input_ids.shape[1], config.block_size
    if prompt % size:
        raise ValueError(f"input_ids: the prompt's {prompt} tokens must fill whole blocks of {size}.")
    length, mask_id, eos = prompt + config.max_new_tokens, model.config.mask_token_id, set(model.eos_token_ids)
    x = torch.full((1, length), mask_id, device=input_ids.device)
    x[:, :prompt] = input_ids
    dense = block_causal_mask(length, size, x.device)[None, None]
    positions = torch.arange(length, device=x.device)[None]
    cache, transfers = DynamicCache(), config.transfers()

    def forward(start: int, end: int) -> Tensor:
        embeds = model.token_embeds(x[:, start:end])
        hidden = model.run_decoder(embeds, dense[:, :, start:end, :end], positions[:, start:end], cache)
        return model.lm_head(hidden)

    forward(0, prompt)
    forwards = 1
    for start in range(prompt, length, size):
        end = start + size
        for step in range(config.steps + 1):
            masked = x[:, start:end] == mask_id
            if not masked.any().item():
                break
            logits = forward(start, end)
            cache.crop(-size)
            forwards += 1
            logits[..., mask_id] = -torch.inf
            probabilities = logits.float().softmax(-1)
            confidence, ids = probabilities.max(-1)
            confidence = torch.where(masked, confidence, -torch.inf)
            for row in range(len(x)):
                count = min(transfers[min(step, config.steps - 1)], int(masked[row].sum().item()))
                chosen = confidence[row].topk(count).indices
                x[row, start + chosen] = ids[row, chosen]
        forward(start, end)
        forwards += 1
        if eos & set(x[0, prompt:end].tolist()):
            break
    answer = x[0, prompt:].tolist()
    ends = [i for i, token in enumerate(answer) if token in eos]
    answer = answer[: ends[0]] if ends else [token for token in answer if token != mask_id]
    return Outcome(len(answer), forwards, tuple(answer))


@torch.no_grad()
def whole_answer(model, input_ids: Tensor, config: DecodingConfig) -> Outcome:
    """Denoise all answer positions at once, every pass over prompt and answer, no cache, as LLaDA-like models do.

    As many steps as block diffusion takes: `steps` for every `block_size` tokens.
    """
    prompt, mask_id = input_ids.shape[1], model.config.mask_token_id
    length = prompt + config.max_new_tokens
    steps = max(1, config.max_new_tokens * config.steps // config.block_size)
    x = torch.full((1, length), mask_id, device=input_ids.device)
    x[:, :prompt] = input_ids
    masked = torch.ones(1, config.max_new_tokens, dtype=torch.bool, device=x.device)
    positions = torch.arange(length, device=x.device)[None]
    share, extra = divmod(config.max_new_tokens, steps)
    for step in range(steps):
        hidden = model.run_decoder(model.token_embeds(x), None, positions)
        logits = model.lm_head(hidden[:, prompt:])
        logits[..., mask_id] = -torch.inf
        confidence, ids = logits.float().softmax(-1).max(-1)
        chosen = torch.where(masked, confidence, -torch.inf)[0].topk(share + (step < extra)).indices
        x[0, prompt + chosen] = ids[0, chosen]
        masked[0, chosen] = False
    answer = x[0, prompt:].tolist()
    return Outcome(len(answer), steps, tuple(answer))
