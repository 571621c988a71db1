"""Fewer passes for the same answer: the likeliest next steps are computed in the pass of the present one.

A pass over one block is bound by reading the weights, so a second copy of the block in it costs little. The copy holds
what the block will be if the next step reveals what the proposals of the last pass say. If it does, that step's logits
are there already and its own pass is left out; if not, they are thrown away. Every step that is taken has seen exactly
its own tokens, so nothing but the number of passes changes. (Drafting with the model's own last proposals and verifying
exactly is the idea of self-speculative decoding, arXiv 2309.08168, carried over to denoising.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .strategies import Proposal

# (proposal, cells it is for [U], bool [1, U] of those still masked, step) -> (ids, revealed), [1, U] each
Reveal = Callable[[Proposal, Tensor, Tensor, int], tuple[Tensor, Tensor]]


@dataclass
class Ahead:
    """A guess: the block after some further steps, and its logits once they are computed.

    Attributes:
        tokens: long [1, N].
        cells: the cells that `logits` are for.
        logits: float [1, U, V].
    """

    tokens: Tensor
    cells: list[int]
    logits: Tensor


class Lookahead:
    """Guesses of one block, for a single row.

    Args:
        depth: how many steps to guess; 0 = none.
        reveal: what a step would reveal.
    """

    def __init__(self, depth: int, reveal: Reveal):
        self.depth, self.reveal = depth, reveal
        self.forget()

    def forget(self) -> None:
        """A new block: nothing is known of it."""
        self.last: tuple[Proposal, Tensor] | None = None
        self.ahead: list[Ahead] = []

    def saw(self, proposal: Proposal, cells: Tensor) -> None:
        """What a step proposed at its open cells, long [U]."""
        self.last = (proposal, cells)

    def guesses(self, tokens: Tensor, masked: Tensor, open_cells: int, step: int) -> list[Tensor]:
        """The block [1, N] after `step`, after the step behind it, …, as the last proposals have it.

        Args:
            tokens, masked: the block before `step`, [1, N].
            open_cells: how many are masked; a block without masks is no guess.
        """
        if self.last is None:
            return []
        proposal, cells = self.last
        left, found = masked[:, cells], []
        for further in range(min(self.depth, open_cells - 1)):
            ids, revealed = self.reveal(proposal, cells, left, step + further)
            tokens = tokens.clone()
            tokens[:, cells] = torch.where(revealed, ids, tokens[:, cells])
            left = left & ~revealed
            found.append(tokens)
        return found

    def keep(self, guesses: list[Tensor], cells: list[int], logits: Tensor) -> None:
        """The logits [guesses, U, V] of the guesses at `cells`."""
        self.ahead = [Ahead(tokens, cells, each) for tokens, each in zip(guesses, logits.split(1), strict=True)]

    def take(self, tokens: Tensor, cells: list[int]) -> Tensor | None:
        """Logits [1, U, V] at `cells` of the block as it is, if that was guessed. One transfer to the host."""
        if not self.ahead:
            return None
        first, *self.ahead = self.ahead
        if not torch.equal(first.tokens, tokens):
            self.ahead = []
            return None
        return first.logits[:, [first.cells.index(cell) for cell in cells]]
