"""One step of decoding, as the decoders yield it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DenoisingStep:
    """One forward pass that proposed tokens, for a batch of B rows and a block of N cells.

    Tensors stay on the model's device; a consumer that does not read them causes no transfer.

    Attributes:
        block: ordinal of the block; 0 holds the first answer token.
        step: denoising step inside the block, from 0.
        spans: per row, the answer positions `(start, end)` of the N cells; `start` is negative where the block
            begins with the tail of the prompt.
        masked: cells that were masked before the step, bool [B, N].
        proposals: proposed id at every cell, long [B, N]; meaningful where masked.
        confidences: probability of the proposal, float [B, N]; meaningful where masked.
        revealed: cells settled by this step, bool [B, N].
        tokens: ids after the step, long [B, N]; the mask id where still masked.
        active: per row, whether the row still took part in this step.
        ended: per row, whether the answer is complete after this step.
        forwards: forward passes so far, prefill included.
        seconds: duration of this step.
        prefill_seconds: duration of encoding pictures and prompt, the same on every step.
        known: positions of the prompt that an earlier run had left in its cache, the same on every step.
        candidate_ids, candidate_probabilities: [B, N, K] when observed.
        entropies: float [B, N] in nats when observed.
        attention: layer -> float [B, N, P] over the picture patches when observed.
    """

    block: int
    step: int
    spans: list[tuple[int, int]]
    masked: Tensor
    proposals: Tensor
    confidences: Tensor
    revealed: Tensor
    tokens: Tensor
    active: list[bool]
    ended: list[bool]
    forwards: int
    seconds: float
    prefill_seconds: float
    known: int = 0
    candidate_ids: Tensor | None = None
    candidate_probabilities: Tensor | None = None
    entropies: Tensor | None = None
    attention: dict[int, Tensor] | None = None
