"""Batches of the small world, drawn by sample number: sample k of a stage is the same in every run that uses it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..tinyworld.pictures import CANVAS
from ..tinyworld.sampling import rng_for
from ..training.data import picture_bytes
from ..training.packing import IGNORE, Packer, Row
from .labels import cell_labels
from .small import PICTURE_TOKENS, small_view
from .world import KINDS, description, small_picture, talk

AR_LENGTH, DIFFUSION_LENGTH, WORDS_LENGTH = 128, 224, 152
FIRST_SEED = {"vision": 10_000_000, "words": 20_000_000, "parent": 30_000_000, "child": 40_000_000}
Rows = dict[str, np.ndarray]


def stacked(rows: list[Rows]) -> dict[str, Tensor]:
    """Rows of equal shape as one batch, without the padding that all of them end with."""
    batch = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
    if "segment" not in batch:
        return batch
    longest = int((batch["segment"] >= 0).sum(1).max())
    return {key: value if key == "pictures" else value[:, :longest] for key, value in batch.items()}


def vision_row(seed: int) -> Rows:
    """A picture and the dense labels of its patches."""
    rng = rng_for("train", seed)
    pixels, marks = picture_bytes(small_picture(rng, "train", rng.choice(KINDS)), CANVAS, small_view)
    return {"pictures": pixels} | cell_labels(marks)


def tree_rows(tokenizer, block_size: int | None) -> Callable[[int], Rows]:
    """Rows of independent conversations about one picture: for block diffusion, or next-token (None)."""
    diffusion = block_size is not None
    length = DIFFUSION_LENGTH if diffusion else AR_LENGTH
    packer = Packer(tokenizer, PICTURE_TOKENS, block_size or 1, length, diffusion)

    def row(seed: int) -> Rows:
        sample = talk(seed)
        packed, _ = packer.pack([((question, answer),) for _, question, answer in sample.turns])
        return {"pictures": picture_bytes(sample.picture, CANVAS, small_view)[0]} | packed

    return row


def words_rows(tokenizer) -> Callable[[int], Rows]:
    """Next-token rows without a picture: its description in words stands in its place."""
    packer = Packer(tokenizer, 0, 1, WORDS_LENGTH, False)

    def row(seed: int) -> Rows:
        sample = talk(seed)
        packer.instead_of_picture(description(sample.picture))
        packed, _ = packer.pack([((question, answer),) for _, question, answer in sample.turns])
        return {"pictures": np.zeros((0,), np.uint8)} | packed

    return row


def chain_rows(tokenizer, block_size: int) -> Callable[[int], Rows]:
    """Rows of one conversation with several turns, every answer learnt, as ordinary multi-turn data is.

    Besides the fields of `packing.Row` there is `turn`: answers that ended before each token.
    """
    packer = Packer(tokenizer, PICTURE_TOKENS, block_size, DIFFUSION_LENGTH, True)

    def row(seed: int) -> Rows:
        sample = talk(seed)
        turns = sample.turns
        while True:
            made = _chain(packer, turns)
            if made is not None:
                return {"pictures": picture_bytes(sample.picture, CANVAS, small_view)[0]} | made
            turns = turns[:-1]

    return row


def _chain(packer: Packer, turns: tuple[tuple[str, str, str], ...]) -> Rows | None:
    """The row of these turns; None where it does not fit."""
    ids, labels, turn = [], [], []
    for number, (_, question, answer) in enumerate(turns):
        prompt, said = packer.conversation(((question, answer),))
        if number:
            prompt = [*packer.encode("\n<|im_start|>user\n"), *prompt]
        ids += prompt + said
        labels += [IGNORE] * len(prompt) + said
        turn += [number] * (len(prompt) + len(said))
    start, size = len(packer.trunk), packer.block_size
    pad = -(start + len(ids)) % size
    ids, labels, turn = ids + [packer.eos] * pad, labels + [packer.eos] * pad, turn + [len(turns) - 1] * pad
    learnt = np.array(labels) != IGNORE
    noisy = np.flatnonzero(learnt.reshape(-1, size).any(1).repeat(size))
    if start + len(ids) + len(noisy) > packer.length:
        return None
    row = Row()
    row.add(packer.trunk, 0, 0)
    row.add(ids, start, 1)
    row.add([ids[i] for i in noisy], start, 1, [labels[i] for i in noisy], noisy=True)
    row.positions[-len(noisy):] = [start + int(i) for i in noisy]
    turns_of = [0] * start + turn + [turn[i] for i in noisy]
    learnt_in = np.bincount(np.array(turn)[learnt])  # every answer weighs the same, as in tree rows
    row.share[-len(noisy):] = [1 / learnt_in[turn[i]] for i in noisy]
    fill = packer.length - len(turns_of)
    return row.padded(packer.length) | {"turn": np.array(turns_of + [0] * fill)}
