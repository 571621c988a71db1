"""The cells of the block being denoised, for every row of a batch, and where they lie in the answer."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import Canvas
from .config import DecodingConfig
from .prompt import Prompt


class Board:
    """Tokens and masks of the open block, and what they mean for each row.

    Blocks are aligned to position 0 of each row's prompt. Rows of different length go in step: each row's block k
    is its own k-th block after its last full prompt block. Masks are a boolean state, never read off the ids; with
    `reference_compatible` every cell whose embedding equals that of the mask token counts as masked, which is how
    the published code finds them, and a cell beyond the answer's length is denoised like any other.

    Attributes:
        cells: N, tokens of a block.
        blocks: number of blocks until every row's answer is full.
        prefix: columns of the cache that the prefill fills, P.
        prefix_valid: which of them belong to a row, bool [B, P]; None when all do.
        tokens: ids of the open block, long [B, N]; the mask id where masked.
        masked: bool [B, N].
        active_cells: cells a step may reveal, bool [B, N].
        open_cells: which of the N cells are masked in some active row, U of them; logits are computed for these alone.
        open_index: the same on the device, long [U]; indexing by it makes the host wait for nothing.
        active: per row, whether it still takes part.
        ended: per row, whether its answer is complete.
        spans: per row, answer positions `(start, end)` of the open block.
    """

    def __init__(self, model, prompt: Prompt, config: DecodingConfig, canvas: Canvas | None):
        self.model, self.prompt, self.config, self.canvas = model, prompt, config, canvas
        self.device = prompt.embeds.device
        self.mask_id = model.config.mask_token_id
        self.eos_ids = torch.tensor(model.eos_token_ids, device=self.device)
        self.length = len(canvas.tokens) if canvas is not None else config.max_new_tokens
        self.reference = config.reference_compatible
        self.cells = config.block_size
        self.quota_total: int | None = None
        if self.reference and config.block_size >= max(prompt.lengths) + self.length:
            # The published code then takes the sequence as one block of exactly its length.
            self.cells = max(prompt.lengths) + self.length
            self.quota_total = self.length if model.reference_splits_answer else None
        self.tails = [length % self.cells for length in prompt.lengths]
        prefixes = [length - tail for length, tail in zip(prompt.lengths, self.tails, strict=True)]
        self.prefix = max(prefixes)
        self.starts = torch.tensor(prefixes, device=self.device)
        self.prefix_valid = None
        if min(prefixes) < self.prefix:
            self.prefix_valid = torch.arange(self.prefix, device=self.device) < self.starts[:, None]
        self.blocks = max(-(-(tail + self.length) // self.cells) for tail in self.tails)
        self.ended = [False] * prompt.rows
        self.mask_like = self._ids_like_the_mask() if self.reference else None
        self.fills = self._fill_table() if canvas is not None and canvas.fills else None

    def open(self, block: int) -> None:
        """Lay out block `block`: the tail of the prompt, given tokens, and masks."""
        self.block = block
        self.spans = [(block * self.cells - tail, (block + 1) * self.cells - tail) for tail in self.tails]
        given = self.canvas.tokens if self.canvas is not None else ()
        rows = [[self._initial(given, p) for p in range(start, end)] for start, end in self.spans]
        ids = [[self.mask_id if token is None else token for token in row] for row in rows]
        self.tokens = torch.tensor(ids, device=self.device)
        self.masked = torch.tensor([[token is None for token in row] for row in rows], device=self.device)
        self.answer = self._answer_cells(0, self.length)
        self.active = [not ended for ended in self.ended]
        alive = torch.tensor(self.active, device=self.device)[:, None]
        self.active_cells = (alive if self.reference else self.answer & alive).expand_as(self.masked)
        self.protected = self._answer_cells(0, self.canvas.protected) if self.canvas is not None else None
        self.fill_of = self._fills_of_cells() if self.fills is not None else None
        self._lay_prompt_tail()
        if self.reference:
            self.masked = self.mask_like[self.tokens]
        self._survey()

    def _initial(self, given: tuple[int | None, ...], position: int) -> int | None:
        return given[position] if 0 <= position < len(given) else None if position >= 0 else 0

    def _answer_cells(self, start: int, end: int) -> Tensor:
        """Cells whose answer position lies in `[start, end)`, bool [B, N]."""
        first = torch.tensor([span[0] for span in self.spans], device=self.device)[:, None]
        position = first + torch.arange(self.cells, device=self.device)
        return (position >= start) & (position < end)

    def _fill_table(self) -> Tensor:
        """Ids each of the canvas's fills allows, bool [F + 1, V]; the last row, of free cells, allows all."""
        if self.reference:
            raise ValueError("reference_compatible must be False for a template: the published code has no holes.")
        vocabulary = self.model.config.get_text_config().vocab_size
        table = torch.zeros(len(self.canvas.fills) + 1, vocabulary, dtype=torch.bool)
        table[-1] = True
        for row, fill in zip(table, self.canvas.fills, strict=False):
            row[torch.tensor(sorted(fill.ids))] = True
        return table.to(self.device)

    def _fills_of_cells(self) -> Tensor:
        """Row of the table of fills that holds for each cell, long [B, N]."""
        fills = self.canvas.fills
        row_of = {position: row for row, fill in enumerate(fills) for position in fill.positions}
        rows = [[row_of.get(position, len(fills)) for position in range(start, end)] for start, end in self.spans]
        return torch.tensor(rows, device=self.device)

    def _lay_prompt_tail(self) -> None:
        """In the first block, the cells before the answer hold the end of the prompt."""
        self.prompt_embeds, self.from_prompt = None, None
        if self.block > 0 or not any(self.tails):
            return
        column = self.starts[:, None] + torch.arange(self.cells, device=self.device)
        self.from_prompt = column < torch.tensor(self.prompt.lengths, device=self.device)[:, None]
        column = column.clamp_max(self.prompt.embeds.shape[1] - 1)
        width = self.prompt.embeds.shape[-1]
        self.prompt_embeds = self.prompt.embeds.gather(1, column.unsqueeze(-1).expand(-1, -1, width))
        if self.prompt.ids is not None:
            self.tokens = torch.where(self.from_prompt, self.prompt.ids.gather(1, column), self.tokens)
        if self.reference:
            # Prompt cells that look masked are denoised too, so their embedding follows their token.
            self.from_prompt &= ~self.mask_like[self.tokens]

    def embeds(self, tokens: Tensor | None = None) -> Tensor:
        """Embeddings of the open block, float [B, N, D]; prompt cells keep theirs, which may be picture features.

        Args:
            tokens: long [B, N], other tokens than the block has now.
        """
        embeds = self.model.token_embeds(self.tokens if tokens is None else tokens)
        if self.from_prompt is None:
            return embeds
        return torch.where(self.from_prompt.unsqueeze(-1), self.prompt_embeds, embeds)

    def positions(self, clean: int, copies: int = 1) -> Tensor:
        """Positions of `clean` finished blocks and of copies of the open one, long [B, (clean + copies) * N]."""
        offsets = torch.arange(-clean * self.cells, copies * self.cells, device=self.device)
        offsets = torch.where(offsets < 0, offsets, offsets % self.cells)
        return self.starts[:, None] + self.block * self.cells + offsets

    @property
    def step_limit(self) -> int:
        """Passes a block may take. The reference makes one after its last step when masks are left, then gives up."""
        return self.config.steps + (1 if self.reference else self.cells)

    def first_step(self, block: int) -> int:
        """Where the schedule of `block` begins: after 0 only where a resumed run stopped."""
        return self.canvas.resume[1] if self.canvas is not None and self.canvas.resume[0] == block else 0

    def exclude(self, logits: Tensor) -> Tensor:
        """Logits without what must not be proposed: the mask id; the end inside a template; what a hole can't take."""
        if self.reference:
            return logits
        logits[..., self.mask_id] = -torch.inf
        if self.protected is not None and self.canvas.template:
            ends = torch.zeros(logits.shape[-1], dtype=torch.bool, device=self.device)
            ends[self.eos_ids] = True
            logits = logits.masked_fill(self.pick(self.protected).unsqueeze(-1) & ends, -torch.inf)
        if self.fill_of is not None:
            logits = logits.masked_fill(~self.fills[self.pick(self.fill_of)], -torch.inf)
        return logits

    def pick(self, values: Tensor) -> Tensor:
        """What belongs to the open cells: [B, N, ...] to [B, U, ...]."""
        return values if len(self.open_cells) == self.cells else values[:, self.open_index]

    def spread(self, values: Tensor) -> Tensor:
        """The opposite of `pick`, 0 elsewhere: [B, U, ...] to [B, N, ...]."""
        if len(self.open_cells) == self.cells:
            return values
        everywhere = values.new_zeros(len(values), self.cells, *values.shape[2:])
        everywhere[:, self.open_index] = values
        return everywhere

    def reveal(self, revealed: Tensor, ids: Tensor) -> None:
        """Settle the proposed `ids` [B, N] at the `revealed` cells [B, N]."""
        self.tokens = torch.where(revealed, ids, self.tokens)
        self.masked = self.mask_like[self.tokens] if self.reference else self.masked & ~revealed

    def settle(self) -> list[bool]:
        """Find out which rows are complete; per row, True when its answer is. One transfer to the host."""
        ended_by_eos = self._survey()
        if not self.reference:
            self._end_rows(ended_by_eos)
        self.active = [not ended for ended in self.ended]
        return list(self.ended)

    def _survey(self) -> list[bool]:
        """Find out, in one transfer, which rows need another step and which cells are open; per row, whether it has
        settled an end of sequence."""
        needs, ends = self._needed().any(-1, keepdim=True), self._settled_eos().any(-1, keepdim=True)
        found = torch.cat([needs, ends, self.masked & self.active_cells], dim=1).tolist()
        self._left = [row[0] and active for row, active in zip(found, self.active, strict=True)]
        rows = [row[2:] for row, active in zip(found, self.active, strict=True) if active]
        cells = [cell for cell, masked in enumerate(zip(*rows, strict=True)) if any(masked)]
        self.open_cells = list(range(self.cells)) if self.reference else cells
        self.open_index = torch.tensor(self.open_cells, dtype=torch.long, device=self.device)
        return [row[1] for row in found]

    def unfinished(self) -> bool:
        """Whether some row still has masks to reveal in the open block."""
        return any(self._left)

    def finish_block(self) -> None:
        """End the rows that are complete, also where the whole block was given and no step was needed."""
        self._left = [False] * self.prompt.rows
        self._end_rows(self._settled_eos().any(-1).tolist())

    def _end_rows(self, eos: list[bool]) -> None:
        for row, (_, end) in enumerate(self.spans):
            if not self._left[row]:
                self.ended[row] |= eos[row] or (end >= self.length and not self.reference)
        if self.reference and any(eos):
            self.ended = [True] * self.prompt.rows

    def _settled_eos(self) -> Tensor:
        answer = self._answer_cells(0, self.blocks * self.cells) if self.reference else self.answer
        return torch.isin(self.tokens, self.eos_ids) & ~self.masked & answer

    def _needed(self) -> Tensor:
        """Masked cells without which the answer is not complete: none lie behind a settled end."""
        if self.reference:
            return self.masked
        eos = self._settled_eos().int()
        return self.masked & self.answer & (eos.cumsum(-1) - eos == 0)

    def _ids_like_the_mask(self) -> Tensor:
        """Ids whose embedding equals the mask token's, bool [V]."""
        weight = self.model.get_input_embeddings().weight
        return (weight == weight[self.mask_id]).all(-1)
