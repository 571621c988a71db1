"""`generate`: consumes the steps of a decoder, drives a streamer, returns the sequences and what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .canvas import Canvas
from .config import DecodingConfig
from .observe import Observe
from .step import DenoisingStep


@dataclass(frozen=True)
class GenerateOutput:
    """Answers of a batch.

    Attributes:
        sequences: prompt and answer, long [B, L + A]; the answer alone when the prompt came as embeddings. Shorter
            answers are followed by padding. An end-of-sequence token that was reached is included.
        answers: per row, the ids of the answer without its end-of-sequence token.
        finish_reasons: per row, "eos" or "length".
        forwards: forward passes, prefill included.
        denoising_steps: how often tokens were proposed and revealed.
        tokens_per_forward: answer tokens of the longest row per denoising forward; a step that had been guessed needs
            none.
        seconds: time spent computing; prefill_seconds: the part of it before the first step.
    """

    sequences: Tensor
    answers: list[list[int]]
    finish_reasons: list[str]
    forwards: int
    denoising_steps: int
    tokens_per_forward: float
    seconds: float
    prefill_seconds: float


class AnswerBuilder:
    """Assembles the answers of a batch from the steps of a decoder.

    Args:
        rows: rows of the batch.
        length: answer positions per row.
        fill: id at positions no step settled.
        given: ids that were there before the first step, None where masked.
    """

    def __init__(self, rows: int, length: int, fill: int, given: tuple[int | None, ...] = ()):
        start = [fill if token is None else token for token in given] + [fill] * (length - len(given))
        self.tokens = torch.tensor([start] * rows)
        self.length = length

    def add(self, step: DenoisingStep) -> None:
        """Take over what the step settled. One transfer to the host."""
        tokens, revealed = step.tokens.cpu(), step.revealed.cpu()
        for row, (start, _) in enumerate(step.spans):
            cells = revealed[row].nonzero().flatten()
            cells = cells[(cells + start >= 0) & (cells + start < self.length)]
            self.tokens[row, cells + start] = tokens[row, cells]

    def answer(self, row: int, eos_ids: Iterable[int]) -> tuple[list[int], str]:
        """Ids up to the first end-of-sequence token, and why the answer ended."""
        ids = self.tokens[row].tolist()
        ends = [i for i, token in enumerate(ids) if token in eos_ids]
        return (ids[: ends[0]], "eos") if ends else (ids, "length")


@torch.no_grad()
def generate(
    model,
    input_ids: Tensor | None = None,
    streamer=None,
    config: DecodingConfig | None = None,
    observe: Observe | None = None,
    canvas: Canvas | None = None,
    **kwargs: Any,
) -> GenerateOutput:
    """Answer a batch of prompts.

    Args:
        input_ids: long [B, L]; or `inputs_embeds` among the keywords.
        streamer: a transformers streamer (`put`, `end`); one with `put_draft`, such as `TextDiffusionStreamer`, also
            gets the open block after every step, masks included. One row only.
        config: decoding settings; or their fields as keywords, which refine the model's defaults.
        kwargs: fields of `DecodingConfig`, and inputs of the model (`attention_mask`, pictures).

    Raises:
        TypeError: for a keyword that is neither. ValueError: for a value out of range.
    """
    settings = {name: kwargs.pop(name) for name in list(kwargs) if name in DecodingConfig.names()}
    if config is None:
        config = model.default_config(**settings)
    elif settings:
        raise TypeError(f"Give either config or {', '.join(settings)}, not both.")
    inputs = {key: value for key, value in {"input_ids": input_ids, **kwargs}.items() if value is not None}
    given = input_ids if input_ids is not None else inputs.get("inputs_embeds")
    if given is None:
        raise ValueError("Give input_ids or inputs_embeds.")
    rows = given.shape[0]
    if streamer is not None and rows != 1:
        raise ValueError("streamer: a streamer follows one row; give it a batch of 1.")
    length = len(canvas.tokens) if canvas is not None else config.max_new_tokens
    fill = model.config.mask_token_id
    builder = AnswerBuilder(rows, length, fill, canvas.tokens if canvas is not None else ())
    relay = _StreamerRelay(streamer, model, builder) if streamer is not None else None
    if relay is not None and input_ids is not None:
        streamer.put(input_ids.cpu())
    steps, passes, last, seconds = 0, 0, None, 0.0
    for step in model.steps(inputs, config, observe, canvas):
        passes += last is None or step.forwards != last.forwards
        steps, last, seconds = steps + 1, step, seconds + step.seconds
        builder.add(step)
        if relay is not None:
            relay.show(step)
    if relay is not None:
        relay.close()
    return _output(model, config, input_ids, builder, steps, passes, last, seconds)


def _output(model, config, input_ids, builder, steps, passes, last, seconds) -> GenerateOutput:
    eos = set(model.eos_token_ids)
    answers, reasons = zip(*(builder.answer(row, eos) for row in range(len(builder.tokens))), strict=True)
    if config.reference_compatible:
        tail = builder.tokens
    else:
        pad = model.config.get_text_config().pad_token_id
        pad = model.eos_token_ids[0] if pad is None else pad
        kept = [len(ids) + (reason == "eos") for ids, reason in zip(answers, reasons, strict=True)]
        tail = builder.tokens[:, : max(kept)].clone()
        for row, count in enumerate(kept):
            tail[row, count:] = pad
    sequences = tail if input_ids is None else torch.cat([input_ids, tail.to(input_ids.device)], dim=1)
    prefill = last.prefill_seconds if last else 0.0
    return GenerateOutput(
        sequences=sequences,
        answers=list(answers),
        finish_reasons=list(reasons),
        forwards=last.forwards if last else 0,
        denoising_steps=steps,
        tokens_per_forward=max(map(len, answers)) / passes if passes else 0.0,
        seconds=seconds + prefill,
        prefill_seconds=prefill,
    )


class _StreamerRelay:
    """Feeds a transformers streamer: drafts of the open block, then each block for good once it is left."""

    def __init__(self, streamer, model, builder: AnswerBuilder):
        self.streamer, self.builder = streamer, builder
        self.eos = set(model.eos_token_ids)
        self.done, self.block = 0, 0
        self.drafts = hasattr(streamer, "put_draft")

    def show(self, step: DenoisingStep) -> None:
        start, end = max(0, step.spans[0][0]), min(step.spans[0][1], self.builder.length)
        if step.block != self.block:
            self._settle(start)
            self.block = step.block
        if self.drafts:
            self.streamer.put_draft(self.builder.tokens[0, self.done : end])

    def close(self) -> None:
        self._settle(len(self.builder.answer(0, self.eos)[0]))
        self.streamer.end()

    def _settle(self, end: int) -> None:
        if end > self.done:
            self.streamer.put(self.builder.tokens[0, self.done : end])
            self.done = end
