"""What a block says before any of it is known: the first pass over it, learnt by itself.

Where a confidence threshold decides, the first pass over a block reveals most of a plain answer, with every cell still
masked. A conversion sees few such blocks: levels drawn evenly hide all of eight cells once in nine. Here nothing else
is learnt, and cheaply: the clean conversation passes through the decoder without gradients and leaves keys and values
behind, as decoding does; the masked blocks are predicted over them. The features of the pictures, whose tower stays
as it is, are kept for the next time.

The blocks are those of tables. A name and a number of one or two digits share a block there, and the model must count
the pieces of a name that it has not said yet to know which digit stands in a cell. It learns that from blocks
that end with a digit, and, as it learns their choice too (that every block ends so), from all blocks after that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from string import digits

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import DynamicCache

from ..tinyworld.questions import ask
from ..tinyworld.world import sample
from .answers import numbered
from .data import DRAWN_AT, StageData, loader, picture_bytes, stacked
from .masks import Tokens, dense_mask
from .packing import IGNORE, Packer
from .steps import with_picture

TABLES = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)  # of `tinyworld.sampling.KINDS`
BLOCKS = 3  # learnt of every answer, drawn at random where there are more
LONGEST = 80  # tokens of a conversation after its picture


class TableBatches(IterableDataset):
    """Endless batches of tables, and what is written in them.

    Every batch has `pictures` uint8 [B, S, S, 3], `ids` [B, L] (the conversation, padded on the right), `length` [B]
    and `starts` [B, `BLOCKS`]: where the blocks begin, -1 where an answer has fewer.
    """

    def __init__(self, data: StageData, tokenizer) -> None:
        self.data, self.tokenizer = data, tokenizer
        self.digits = tokenizer.convert_tokens_to_ids(list(digits))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        data, rows = self.data, []
        packer = Packer(self.tokenizer, data.cells**2, data.block_size, data.cells**2 + 3 * LONGEST, diffusion=True)
        for seed in count(data.first_seed):
            drawn = sample("train", seed, 0, data.shares, wild=data.wild)
            packed, used = packer.pack([(ask(random.Random(seed), drawn.picture, "table"),)])
            row = self.row(packed, seed) if used else None
            if row is None:
                continue
            pixels, _ = picture_bytes(drawn.picture, DRAWN_AT[seed % len(DRAWN_AT)], data.view)
            rows.append(row | {"pictures": pixels})
            if len(rows) == data.batch:
                yield stacked(rows)
                rows = []

    def row(self, packed: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray] | None:
        """`ids`, `length` and `starts` of a packed conversation; None where it is too long or has no block of its own
        (the first one of an answer begins with the end of the question)."""
        size, longest = self.data.block_size, self.data.cells**2 + LONGEST
        clean = ~packed["noisy"] & (packed["segment"] >= 0)
        blocks = packed["positions"][packed["noisy"] & (packed["labels"] != IGNORE)] // size
        numbers, cells = np.unique(blocks, return_counts=True)
        whole = numbers[cells == size]
        length = int(clean.sum())
        if length > longest:
            return None
        starts, ids = np.full(BLOCKS, -1), np.zeros(longest, np.int64)
        ids[:length] = packed["ids"][clean]
        if self.data.digits:
            whole = whole[np.isin(ids[whole * size + size - 1], self.digits)]
        if not len(whole):
            return None
        chosen = random.Random(seed).sample(list(whole), min(BLOCKS, len(whole)))
        starts[: len(chosen)] = np.array(chosen) * size
        return {"ids": ids, "length": np.array(length), "starts": starts}


class WholeBlocks:
    """The loss of whole blocks, over a pool of tables that is filled first and then gone through again and again.

    Args:
        model: one of the project's models.
        reader: pictures uint8 [B, S, S, 3] to features [B, tokens, D].
        picture_at: where they stand in every row.
        data: how tables are drawn; its `batch` is how many a step learns from.
        tokenizer: the model's.
        pool: tables to keep.
    """

    def __init__(self, model: nn.Module, reader: Callable, picture_at: slice, data: StageData, tokenizer,
                 pool: int) -> None:
        self.model, self.reader, self.picture_at = model, reader, picture_at
        self.mask_id, self.block_size = tokenizer.mask_token_id, data.block_size
        self.fresh = iter(loader(data, tokenizer, batches=TableBatches))
        self.wanted, self.pool, self.taken = max(1, pool // data.batch), [], 0
        self.order = random.Random(data.first_seed)

    def next(self) -> dict[str, Tensor]:
        """The next batch, with `features` in place of its pictures."""
        if len(self.pool) < self.wanted:
            batch = {name: tensor.to(self.model.device) for name, tensor in next(self.fresh).items()}
            with torch.no_grad():
                batch["features"] = self.reader(batch.pop("pictures"))
            self.pool.append(batch)
            return batch
        if self.taken % len(self.pool) == 0:
            self.order.shuffle(self.pool)
        self.taken += 1
        return self.pool[(self.taken - 1) % len(self.pool)]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Cross entropy per cell of the batch's blocks, every one masked whole."""
        ids, starts, size = batch["ids"], batch["starts"], self.block_size
        cache, model, device = DynamicCache(), self.model, batch["ids"].device
        places = torch.arange(ids.shape[1], device=device).expand_as(ids)
        real = places < batch["length"][:, None]
        clean = Tokens(places // size, torch.zeros_like(real), padding=numbered(real))
        with torch.no_grad(), model.attention_by("sdpa"):  # the faster one where no gradient is asked for
            embeds = with_picture(model.token_embeds(ids), batch["features"], self.picture_at)
            model.run_decoder(embeds, dense_mask(clean)[:, None], places, cache)
        there = (starts >= 0).repeat_interleave(size, 1)
        cells = (starts.clamp(min=0)[..., None] + torch.arange(size, device=device)).flatten(1)
        noisy = Tokens(cells // size, torch.ones_like(there), padding=torch.zeros_like(cells))
        pairs = zip(clean, noisy, strict=True)
        keys = Tokens(*(None if old is None else torch.cat([old, own], 1) for old, own in pairs))
        masks = model.token_embeds(torch.full_like(cells, self.mask_id))
        hidden = model.run_decoder(masks, dense_mask(noisy, keys)[:, None], cells, cache)
        labels = torch.where(there, ids.gather(1, cells), IGNORE)
        return F.cross_entropy(model.lm_head(hidden).float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
