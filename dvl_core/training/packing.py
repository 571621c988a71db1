"""Tree packing: one picture, several conversations about it, in one row of fixed length.

The row begins with what all conversations share (turn start, picture); each conversation follows with the same
positions, masked from the others. The shared beginning ends on a block boundary, so block diffusion over the tree
is exactly block diffusion over each conversation by itself. For diffusion a conversation has a second, noisy copy
of those blocks that hold its answer, the first of which also holds the end of its question, as at inference; with
complementary masks it has two, which do not see each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ..tinyworld.tokenizer import SYSTEM_PROMPT, answer_encoder

IGNORE = -100


@dataclass
class Row:
    """One packed row; lists of equal length while it grows."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segment: list[int] = field(default_factory=list)  # 0 = shared beginning, 1… = conversation
    noisy: list[bool] = field(default_factory=list)
    complement: list[bool] = field(default_factory=list)  # of the second noisy copy
    labels: list[int] = field(default_factory=list)  # what this position has to say
    share: list[float] = field(default_factory=list)  # 1 / labelled tokens of the conversation

    def add(self, ids: list[int], first: int, segment: int, labels: list[int] | None = None,
            noisy: bool = False, complement: bool = False) -> None:
        """Append tokens at positions `first`, `first` + 1, …"""
        labels = labels if labels is not None else [IGNORE] * len(ids)
        learnt = sum(label != IGNORE for label in labels)
        self.ids += ids
        self.positions += range(first, first + len(ids))
        self.segment += [segment] * len(ids)
        self.noisy += [noisy] * len(ids)
        self.complement += [complement] * len(ids)
        self.labels += labels
        self.share += [1 / max(1, learnt)] * len(ids)

    def padded(self, length: int) -> dict[str, np.ndarray]:
        """Arrays of fixed length; padding is segment -1."""
        rest = length - len(self.ids)
        fill = {"ids": 0, "positions": 0, "segment": -1, "noisy": False, "complement": False, "labels": IGNORE,
                "share": 0.0}
        types = {"noisy": bool, "complement": bool, "share": np.float32}
        return {k: np.array(getattr(self, k) + [v] * rest, types.get(k, np.int64)) for k, v in fill.items()}


class Packer:
    """Turns a picture's conversations into rows for one training stage.

    Args:
        tokenizer: the bundled model's tokenizer.
        picture_tokens: placeholders per picture.
        block_size: tokens per block.
        length: tokens per row; conversations that do not fit are left out.
        diffusion: add noisy copies (diffusion stage) or next-token labels (autoregressive stage).
        complementary: two noisy copies of every answer instead of one.
    """

    def __init__(self, tokenizer, picture_tokens: int, block_size: int, length: int, diffusion: bool,
                 complementary: bool = False) -> None:
        self.block_size, self.length, self.diffusion = block_size, length, diffusion
        self.copies = (False, True) if complementary else (False,)
        spell = answer_encoder(tokenizer)
        self.encode = lru_cache(maxsize=50_000)(
            lambda text: tuple(tokenizer(text, add_special_tokens=False).input_ids)
        )
        self.encode_answer = lru_cache(maxsize=50_000)(lambda text: tuple(spell(text)))
        picture, self.eos = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|im_end|>"])
        self.before = before = self.encode(f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n")
        self.picture_at = slice(len(before), len(before) + picture_tokens)
        self.trunk = [*before, *[picture] * picture_tokens, *self.encode("\n")]
        if diffusion and len(self.trunk) % block_size:
            raise ValueError(f"block_size={block_size} must divide the {len(self.trunk)} shared tokens")

    def instead_of_picture(self, text: str) -> None:
        """Begin the next rows with words where a picture would stand: for a language model without eyes."""
        self.trunk = [*self.before, *self.encode_answer(text), *self.encode("\n")]

    def conversation(self, turns) -> tuple[list[int], list[int]]:
        """Token ids after the shared beginning: (everything up to the last answer, the last answer with its EOS)."""
        prompt: list[int] = []
        for number, (question, answer) in enumerate(turns):
            if number:
                prompt += self.encode("<|im_start|>user\n")
            prompt += [*self.encode(question), self.eos, *self.encode("\n<|im_start|>assistant\n")]
            if number < len(turns) - 1:
                prompt += [*self.encode_answer(answer), self.eos, *self.encode("\n")]
        return prompt, [*self.encode_answer(turns[-1][1]), self.eos]

    def pack(self, conversations) -> tuple[dict[str, np.ndarray], list[int]]:
        """Pack as many conversations as fit.

        Returns:
            arrays of `Row`, and the indices of the conversations that went in (segment k + 1 is the k-th of them).
        """
        row, used, start = Row(), [], len(self.trunk)
        row.add(self.trunk, 0, 0)
        for index, turns in enumerate(conversations):
            prompt, answer = self.conversation(turns)
            if self.diffusion:
                answer = answer + [self.eos] * (-(start + len(prompt) + len(answer)) % self.block_size)
                noisy_from = len(prompt) // self.block_size * self.block_size
                cost = len(prompt) + len(answer)
                cost += len(self.copies) * (cost - noisy_from)
            else:
                cost = len(prompt) + len(answer)
            if len(row.ids) + cost > self.length:
                continue
            used.append(index)
            ids, segment = prompt + answer, len(used)
            if self.diffusion:
                labels = [IGNORE] * len(prompt) + answer
                row.add(ids, start, segment)
                for copy in self.copies:
                    row.add(ids[noisy_from:], start + noisy_from, segment, labels[noisy_from:], True, copy)
            else:  # position i says what stands at i + 1
                row.add(ids, start, segment, [IGNORE] * (len(prompt) - 1) + answer + [IGNORE])
        return row.padded(self.length), used
