"""The prompt of a batch, embedded and aligned: what both decoders start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_TEXT_INPUTS = ("input_ids", "attention_mask", "inputs_embeds")


@dataclass(frozen=True)
class Prompt:
    """A batch of prompts, each row beginning at column 0.

    Attributes:
        embeds: float [B, L, D]; columns at and beyond a row's length hold padding.
        ids: long [B, L], or None when the prompt came as embeddings.
        lengths: tokens of each row.
        picture_columns: columns that hold picture tokens, long [P]; of the only row, empty for a batch.
    """

    embeds: Tensor
    ids: Tensor | None
    lengths: list[int]
    picture_columns: Tensor

    @property
    def rows(self) -> int:
        return self.embeds.shape[0]


def encode_prompt(model, inputs: dict[str, Any], ignore_padding: bool = False, known: int = 0) -> Prompt:
    """Embed a batch of prompts, pictures included, and move left-padded rows to column 0.

    Args:
        inputs: `input_ids` long [B, L] or `inputs_embeds` float [B, L, D], optionally `attention_mask` [B, L] with 0
            at padding on either side, and the model's own picture inputs.
        ignore_padding: treat every column as a token, as the published code does for prompts without pictures.
        known: columns whose embeddings nobody will ask for, left 0; `inputs` then have the pictures behind them alone.

    Raises:
        TypeError: for an input the model does not take.
        ValueError: for an empty prompt or a mask with holes.
    """
    unknown = set(inputs) - {*_TEXT_INPUTS, *model.vision_inputs}
    if unknown:
        takes = ", ".join((*_TEXT_INPUTS, *model.vision_inputs))
        raise TypeError(f"{', '.join(sorted(unknown))}: not an input of this model, which takes {takes}.")
    ids, embeds, mask = (inputs.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
    if (ids is None) == (embeds is None):
        raise ValueError("Give exactly one of input_ids and inputs_embeds.")
    pictures = {name: inputs[name] for name in model.vision_inputs if inputs.get(name) is not None}
    if embeds is None:
        embeds = model.embed_inputs(ids[:, known:], **pictures)
        if known:
            embeds = torch.cat([embeds.new_zeros(len(embeds), known, embeds.shape[-1]), embeds], dim=1)
    if embeds.shape[1] == 0 or embeds.shape[0] == 0:
        raise ValueError("The prompt is empty; give at least one token.")
    columns = torch.empty(0, dtype=torch.long, device=embeds.device)
    if mask is None or (ignore_padding and not pictures):
        lengths = [embeds.shape[1]] * embeds.shape[0]
    else:
        embeds, ids, lengths = _align(embeds, ids, mask.to(embeds.device).bool())
    if ids is not None and len(lengths) == 1:
        columns = (ids[0, : lengths[0]] == model.config.image_token_id).nonzero().flatten()
    return Prompt(embeds, ids, lengths, columns)


def _align(embeds: Tensor, ids: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor | None, list[int]]:
    lengths = mask.sum(-1)
    first = mask.int().argmax(-1)
    column = torch.arange(mask.shape[1], device=mask.device)
    span = (column >= first[:, None]) & (column < (first + lengths)[:, None])
    if not torch.equal(span, mask) or not bool(lengths.all()):
        raise ValueError("attention_mask must be 1 over one unbroken stretch of every row and 0 at its padding.")
    source = ((column + first[:, None]) % mask.shape[1])[:, : int(lengths.max())]
    embeds = embeds.gather(1, source.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))
    return embeds, None if ids is None else ids.gather(1, source), lengths.tolist()
