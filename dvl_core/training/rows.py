"""A conversation as one training row, and rows as a batch. The processor is the one that inference uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .objective import IGNORE


@dataclass
class Row:
    """One conversation.

    Attributes:
        ids, labels: [L]; labels are -100 where nothing is learnt.
        turn: answers that ended before each token, [L].
        length: tokens before the padding with end-of-sequence tokens.
        pictures: the processor's tensors for the pictures, by input name.
        block_uniform, token_uniform: draws from U(0, 1) for the noise, one per block and one per token.
        skipped: (name, reason) of samples that could not be used in its place.
        dropped: answers of later turns that did not fit.
    """

    ids: Tensor
    labels: Tensor
    turn: Tensor
    length: int
    pictures: dict[str, Tensor]
    block_uniform: Tensor | None = None
    token_uniform: Tensor | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    dropped: int = 0


class RowEncoder:
    """Chat messages to rows.

    Args:
        processor: the model's.
        eos_id: end-of-sequence token.
        max_length: longest row, before padding; whole later turns are dropped to keep to it. None for the
            processor's own limit.
    """

    def __init__(self, processor: Any, eos_id: int, max_length: int | None = None) -> None:
        self.processor, self.eos_id = processor, eos_id
        self.max_length = max_length or processor.max_prompt_tokens

    def __call__(self, messages: list[dict[str, Any]], block_size: int | None) -> Row:
        """The row of a finished conversation.

        Args:
            messages: as the processor takes them, the last one an answer.
            block_size: the last answer is padded with labelled end-of-sequence tokens to a multiple of it
                ("block-aligned EOS", arXiv 2512.15713); None for no padding. The published code pads every row to
                the longest of its batch; here a row does not depend on its neighbours.

        Raises:
            ValueError: a picture or conversation that can't be used.
        """
        inputs, dropped = self._fitting(messages)
        ids, learnt = inputs.pop("input_ids")[0], inputs.pop("assistant_masks")[0].bool()
        inputs.pop("attention_mask")
        length = int(learnt.nonzero()[-1]) + 1  # the newline after the last answer is not its part
        labels = torch.where(learnt, ids, IGNORE)[:length]
        ends = learnt & ~torch.cat([learnt[1:], torch.zeros(1, dtype=torch.bool)])
        turn = torch.cat([torch.zeros(1, dtype=torch.long), ends.long().cumsum(0)])[:length]
        pad = -length % block_size if block_size else 0
        tail = torch.full((pad,), self.eos_id)
        return Row(torch.cat([ids[:length], tail]), torch.cat([labels, tail]),
                   torch.cat([turn, turn[-1].expand(pad)]), length, dict(inputs), dropped=dropped)

    def _fitting(self, messages: list[dict[str, Any]]) -> tuple[Any, int]:
        """Model inputs of as many whole turns as fit, and how many did not."""
        dropped = 0
        while True:
            try:
                return self.processor.apply_chat_template(
                    messages, add_generation_prompt=False, return_assistant_tokens_mask=True,
                    max_length=self.max_length,
                ), dropped
            except ValueError as error:
                if "tokens long" not in str(error):
                    raise
                if sum(m["role"] == "assistant" for m in messages) < 2:
                    raise ValueError(f"{str(error).partition(':')[0]}: raise data.max_length.") from error
                messages, dropped = messages[:-2], dropped + 1


def draw_noise(row: Row, block_size: int, spread: str, seed: int, slot: int, batch: int) -> None:
    """Set a row's uniform draws, which depend on nothing but the run's seed and the row's slot.

    With `spread` "even" the levels of a batch are stratified without any row knowing another: row k of an update of
    B rows takes stratum pi(k) of B, pi being shuffled for every update, and the row's m labelled blocks, in shuffled
    order, stand 1 / m apart from there on (modulo 1). Each level by itself is uniform.

    Args:
        block_size: tokens per block.
        spread: as in `ObjectiveConfig`.
        seed, slot: of the run, and the row's place in the stream.
        batch: rows per update.
    """
    rng = np.random.default_rng([seed, slot, 1])
    blocks = -(-len(row.ids) // block_size)
    uniform = rng.random(blocks)
    if spread == "even":
        update, place = divmod(slot, batch)
        stratum = np.random.default_rng([seed, update, 2]).permutation(batch)[place]
        labelled = np.unique(np.flatnonzero(row.labels.numpy() != IGNORE) // block_size)
        steps = rng.permutation(len(labelled)) / max(1, len(labelled))
        uniform[labelled] = ((stratum + uniform[0]) / batch + steps) % 1
    row.block_uniform = torch.from_numpy(uniform).float()
    row.token_uniform = torch.from_numpy(rng.random(len(row.ids))).float()


def collate(rows: list[Row], pad_id: int) -> dict[str, Any]:
    """A batch, padded on the right.

    Returns:
        input_ids, labels, turn, attention_mask and token_uniform [B, L], block_uniform [B, blocks], lengths [B],
        pictures (tensors of all pictures, by input name), skipped (all rows' together) and dropped (their sum). The
        draws are the bits of float32 numbers (`as_draws`), which mixed precision leaves alone.
    """
    fill = torch.nn.utils.rnn.pad_sequence
    pictures = {name for row in rows for name in row.pictures}
    return {
        "input_ids": fill([row.ids for row in rows], True, pad_id),
        "labels": fill([row.labels for row in rows], True, IGNORE),
        "turn": fill([row.turn for row in rows], True, 0),
        "attention_mask": fill([torch.ones(len(row.ids), dtype=torch.bool) for row in rows], True, False),
        "block_uniform": fill([row.block_uniform for row in rows], True, 0.5).view(torch.int32),
        "token_uniform": fill([row.token_uniform for row in rows], True, 0.5).view(torch.int32),
        "lengths": torch.tensor([row.length for row in rows]),
        "pictures": {n: torch.cat([row.pictures[n] for row in rows if n in row.pictures]) for n in sorted(pictures)},
        "skipped": [skip for row in rows for skip in row.skipped],
        "dropped": sum(row.dropped for row in rows),
    }


def as_draws(uniform: Tensor) -> Tensor:
    """The draws of a batch as float32 numbers; those that are numbers already stay as they are."""
    return uniform if uniform.is_floating_point() else uniform.view(torch.float32)
