"""The block decoder: the one loop in which an answer is denoised.

1. Prefill: the full blocks of the prompt go through the decoder once and fill the cache. The rest of the prompt
   shares its block with the first answer tokens.
2. Per block, up to `steps` times: one forward pass proposes a token at every cell, the strategy chooses which to
   reveal, a `DenoisingStep` is yielded. These passes leave nothing in the cache.
3. A finished block enters the cache with the first pass of the next block: both go through together, under a
   block-causal mask. With `reference_compatible` it costs a pass of its own, as in the published code.
4. A row ends in the block where its end-of-sequence token settles.
5. With `lookahead`, copies of the block as the next steps may leave it go through the pass of the present step; a step
   that was guessed right needs no pass of its own.
6. On a GPU the passes of a single conversation are recorded once and played again (`graphs`).

Source of the procedure: arXiv 2512.15713, section on inference; BD3-LM, arXiv 2503.09573.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .board import Board
from .canvas import Canvas
from .config import DecodingConfig
from .graphs import cache_for
from .lean import lean_pass
from .lookahead import Lookahead
from .masks import block_causal_mask, copies_mask, hide_padding
from .observe import AttentionProbe, Observe, observations, run_pass
from .prefix import Continuation, PrefixCache
from .prompt import encode_prompt
from .sampling import Noise, propose, seeded_noise
from .step import DenoisingStep
from .strategies import STRATEGIES, Proposal


@torch.no_grad()
def denoise(
    model,
    inputs: dict[str, Any],
    config: DecodingConfig,
    observe: Observe | None = None,
    canvas: Canvas | None = None,
    prefixes: PrefixCache | None = None,
) -> Iterator[DenoisingStep]:
    """Denoise one answer per row of `inputs`, step by step.

    Args:
        model: a block-diffusion model (`BlockDiffusionMixin`).
        inputs: what the processor gives; see `encode_prompt`.
        config: how to decode.
        observe: what else to record on the steps.
        canvas: given tokens and holes, the same for every row; its length replaces `max_new_tokens`.
        prefixes: what earlier runs left; a single conversation begins with it, and leaves its own there.

    Yields:
        a `DenoisingStep` right after its forward pass. Closing the generator stops the work.
    """
    yield from BlockDecoder(model, inputs, config, observe or Observe(), canvas, prefixes).run()


class BlockDecoder:
    """State of one run: the cache, the finished blocks that are not in it yet, and the counters."""

    def __init__(self, model, inputs, config: DecodingConfig, observe: Observe, canvas: Canvas | None,
                 prefixes: PrefixCache | None = None):  # fmt: skip
        self.started = perf_counter()
        self.model, self.config, self.observe = model, config, observe
        self.layers = observe.resolve_layers(model.config.get_text_config().num_hidden_layers)
        reference = config.reference_compatible
        self.past = Continuation(None if reference else prefixes, model, inputs, config.block_size)
        self.prompt = encode_prompt(model, self.past.inputs, ignore_padding=reference, known=self.past.known)
        self.device = self.prompt.embeds.device
        if self.layers and self.prompt.rows > 1:
            raise ValueError("attention_layers: attention can be observed for one conversation at a time.")
        self.board = Board(model, self.prompt, config, canvas)
        self.lean = None if reference else lean_pass(model)
        self.head = model.lm_head if self.lean is None else self.lean.head
        self.strategy = STRATEGIES[config.strategy]
        self.transfers = config.transfers(self.board.quota_total)
        self.watched = bool(self.layers) or reference or self.prompt.rows > 1
        self.lookahead = Lookahead(0 if self.watched else config.lookahead, self._reveal)
        self.finished: list[Tensor] = []  # ids of finished blocks
        self.pending: list[Tensor] = []  # embeddings of finished blocks that are not in the cache yet
        self.forwards = 0
        self.prefill_seconds = 0.0

    def run(self) -> Iterator[DenoisingStep]:
        spare = (1 + self.lookahead.depth) * self.board.cells
        room = self.board.prefix + self.board.blocks * self.board.cells + spare
        with cache_for(self.model, room, not self.watched) as (self.cache, self.graphs):
            yield from self._run()

    def _run(self) -> Iterator[DenoisingStep]:
        self.past.fill(self.cache)
        try:
            self.prefill()
            for block in range(self.board.blocks):
                self.board.open(block)
                yield from self.denoise_block(block)
                self.finished.append(self.board.tokens)
                if not self.config.reference_compatible:
                    self.pending.append(self.board.embeds())
                if all(self.board.ended):
                    return
        finally:
            self.past.keep(self.cache, self._answer())

    def prefill(self) -> None:
        """Fill the cache with the full blocks of every prompt, those that are known aside. Computes no logits."""
        known, prefix = self.past.known, self.board.prefix
        if known < prefix:
            mask = hide_padding(block_causal_mask(prefix, self.board.cells, self.device), self.board.prefix_valid)
            positions = torch.arange(known, prefix, device=self.device)[None]
            embeds = self.prompt.embeds[:, known:prefix]
            self.model.run_decoder(embeds, mask[:, :, known:], positions, self.cache)
            self.cache.commit(prefix - known)
            self.forwards += 1
        self._wait()
        self.prefill_seconds = perf_counter() - self.started

    def denoise_block(self, block: int) -> Iterator[DenoisingStep]:
        """Steps of one block, until no row needs another."""
        board, step = self.board, self.board.first_step(block)
        self.lookahead.forget()
        while board.unfinished() and step < board.step_limit:
            started = perf_counter()
            probe = self._probe()
            logits = self.lookahead.take(board.tokens, board.open_cells)
            if logits is None:
                logits = self.forward_block(probe, step)
            noise = self._noise(board.open_index, step)
            proposal = propose(board.exclude(logits), self.config, noise)
            masked = board.masked & board.active_cells
            revealed = self.strategy(proposal, board.pick(masked), self._quota(step), self.config, noise)
            self.lookahead.saw(proposal, board.open_index)
            proposals, confidences, revealed = map(board.spread, (proposal.ids, proposal.confidence, revealed))
            observed = {k: board.spread(v) for k, v in observations(self.observe, proposal).items()}
            if probe is not None:
                observed["attention"] = probe.weights
            board.reveal(revealed, proposals)
            was_active, ended = board.active, board.settle()
            if self.config.reference_compatible and not board.unfinished() and step < self.config.steps:
                self.commit_block()
            yield DenoisingStep(
                block=block,
                step=step,
                spans=board.spans,
                masked=masked,
                proposals=proposals,
                confidences=confidences,
                revealed=revealed,
                tokens=board.tokens,
                active=was_active,
                ended=ended,
                forwards=self.forwards,
                seconds=perf_counter() - started,
                prefill_seconds=self.prefill_seconds,
                known=self.past.known,
                **observed,
            )
            step += 1
        board.finish_block()

    def forward_block(self, probe: AttentionProbe | None, step: int) -> Tensor:
        """Logits [B, U, V] of the block's open cells. Finished blocks, which enter the cache, and guesses go along."""
        board = self.board
        guesses = self.lookahead.guesses(board.tokens, board.masked & board.active_cells, len(board.open_cells), step)
        clean, copies = len(self.pending), 1 + len(guesses)
        embeds = torch.cat([*self.pending, board.embeds(), *(board.embeds(guess) for guess in guesses)], dim=1)
        logits = self.graphs.logits(self.model, embeds, clean, copies) if self.graphs is not None else None
        if logits is not None:
            logits = board.pick(logits.view(copies, board.cells, -1))
        else:
            positions, mask = board.positions(clean, copies), self._mask(clean, copies)
            hidden = run_pass(self.model, embeds, mask, positions, self.cache, probe, self.lean)
            hidden = hidden[:, clean * board.cells :].reshape(-1, board.cells, hidden.shape[-1])
            logits = self.head(board.pick(hidden))
        self.cache.commit(clean * board.cells)
        self.pending = []
        self.forwards += 1
        if not guesses:
            return logits
        self.lookahead.keep(guesses, board.open_cells, logits[1:])
        return logits[:1]

    def _reveal(self, proposal: Proposal, cells: Tensor, left: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """What `step` would propose and reveal of the cells `left`, if its pass gave what `proposal` has."""
        noise = self._noise(cells, step)
        if self.config.temperature > 0:
            proposal = propose(proposal.log_probs, self.config, noise)
        return proposal.ids, self.strategy(proposal, left, self._quota(step), self.config, noise)

    def _noise(self, cells: Tensor, step: int) -> Noise:
        """The step's random numbers at `cells` [U] of the open block."""
        draw = seeded_noise(self.config.seed, self.board.block, step, self.board.cells, self.device)
        return lambda *width: draw(*width)[cells]

    def commit_block(self) -> None:
        """The published code's separate pass that writes a finished block to the cache.

        A block that still had masks after its last scheduled step gets one more pass there, and is not written.
        """
        self.model.run_decoder(self.board.embeds(), self._mask(0), self.board.positions(0), self.cache)
        self.cache.commit(self.board.cells)
        self.forwards += 1

    def _mask(self, clean: int, copies: int = 1) -> Tensor | None:
        """Mask [1 or B, 1, Q, K] of `clean` finished blocks and copies of the open one; None = see all.

        A copy sees what lies behind it in the cache, the finished blocks, and itself.
        """
        valid = self.board.prefix_valid
        if clean == 0 and copies == 1 and valid is None:
            return None
        new = copies_mask(clean, copies, self.board.cells, self.device)
        rows = 1 if valid is None else self.prompt.rows
        old = torch.ones(rows, self.cache.length, dtype=torch.bool, device=self.device)
        if valid is not None:
            old[:, : valid.shape[1]] = valid
        old = old[:, None, None, :].expand(-1, 1, len(new), -1)
        return torch.cat([old, new.expand(rows, 1, -1, -1)], dim=-1)

    def _answer(self) -> list[int]:
        """Ids of the finished blocks behind the prompt, of a single row."""
        return torch.cat(self.finished, 1)[0].tolist()[self.board.tails[0] :] if self.finished else []

    def _quota(self, step: int) -> int:
        if self.config.reference_compatible:
            return self.transfers[min(step, self.config.steps - 1)]
        return max(1, self.transfers[step]) if step < self.config.steps - 1 else self.board.cells

    def _probe(self) -> AttentionProbe | None:
        columns = self.prompt.picture_columns
        return AttentionProbe(self.layers, self.board.cells, columns) if self.layers and len(columns) else None

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
