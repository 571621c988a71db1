"""What a block says before any of it is known: the first pass over it, learnt by itself.

Where a confidence threshold decides, the first pass over a block reveals most of a plain answer, with every cell still
masked. A conversion sees few such blocks: levels drawn evenly hide all of eight cells once in nine. Here nothing else
is learnt, and cheaply: the clean conversation passes through the decoder without gradients and leaves keys and values
behind, as decoding does; the masked blocks are predicted over them.

The blocks are those of tables, and of charts that are given as tables. A name and a number of one or two digits share a
block there, and the model must count the pieces of a name that it has not said yet to know which digit stands in a
cell. It learns that from blocks that end with a digit, and, as it learns their choice too (that every block ends so),
from all blocks after that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from string import digits

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import DynamicCache

from ..models.precision import without_cudnn_attention
from ..tinyworld.questions import ask
from ..tinyworld.world import sample
from .answers import numbered
from .data import DRAWN_AT, StageData, picture_bytes, stacked, worker_share
from .masks import Tokens, dense_mask
from .packing import IGNORE, Packer
from .replay import Batch
from .steps import with_picture

TABLE_SHARES = (0.0, 0.0, 0.35, 0.65, 0.0, 0.0, 0.0)  # of `tinyworld.sampling.KINDS`: charts and tables
BLOCKS = 3  # learnt of every answer, drawn at random where there are more
LONGEST = 80  # tokens of a conversation after its picture


class TableBatches(IterableDataset):
    """Endless batches of tables, and what is written in them; with several worker processes each draws its share.

    Every batch has `pictures` uint8 [B, S, S, 3], `ids` [B, L] (the conversation, padded on the right), `length` [B]
    and `starts` [B, `BLOCKS`]: where the blocks begin, -1 where an answer has fewer.
    """

    def __init__(self, data: StageData, tokenizer) -> None:
        self.data, self.tokenizer = data, tokenizer
        self.digits = tokenizer.convert_tokens_to_ids(list(digits))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        data, rows = self.data, []
        packer = Packer(self.tokenizer, data.cells**2, data.block_size, data.cells**2 + 3 * LONGEST, diffusion=True)
        mine, workers = worker_share()
        for seed in count(data.first_seed + mine, workers):
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


class Pool:
    """Batches for a device that learns slower than tables can be drawn: so many at first, then those again and again.

    The features of their pictures, whose tower stays as it is, are kept in place of the pictures.

    Args:
        fresh: endless batches of `TableBatches`.
        reader: pictures uint8 [B, S, S, 3] to features [B, tokens, D].
        size: batches to keep.
        seed: of the order in which they come again.
    """

    def __init__(self, fresh: Iterable[Batch], reader: Callable, size: int, seed: int = 0) -> None:
        self.fresh, self.reader, self.size, self.order = fresh, reader, size, random.Random(seed)

    def __iter__(self) -> Iterator[Batch]:
        kept = []
        for batch in islice(self.fresh, self.size):
            with torch.no_grad():
                kept.append(batch | {"features": self.reader(batch.pop("pictures"))})
            yield kept[-1]
        while True:
            self.order.shuffle(kept)
            yield from kept


class WholeBlocks:
    """The loss of whole blocks.

    Args:
        model: one of the project's models.
        reader: pictures uint8 [B, S, S, 3] to features [B, tokens, D].
        picture_at: where they stand in every row.
        batches: endless ones of `TableBatches` on the model's device, with `features` or `pictures`.
        mask_id: what stands in a masked cell.
        block_size: tokens denoised together.
    """

    def __init__(self, model: nn.Module, reader: Callable, picture_at: slice, batches: Iterable[Batch], mask_id: int,
                 block_size: int) -> None:
        self.model, self.reader, self.picture_at = model, reader, picture_at
        self.batches, self.mask_id, self.block_size = iter(batches), mask_id, block_size

    def next(self) -> Tensor:
        """The loss of the next batch."""
        return self.loss(next(self.batches))

    @without_cudnn_attention()
    def loss(self, batch: Batch) -> Tensor:
        """Cross entropy per cell of the batch's blocks, every one masked whole."""
        ids, starts, size = batch["ids"], batch["starts"], self.block_size
        there = (starts >= 0).repeat_interleave(size, 1)
        cells = (starts.clamp(min=0)[..., None] + torch.arange(size, device=ids.device)).flatten(1)
        with torch.no_grad():
            features = batch["features"] if "features" in batch else self.reader(batch["pictures"])
        with torch.compiler.set_stance("force_eager"):  # layers that are compiled are so for packed rows, without cache
            logits = self._first_pass(features, ids, batch["length"], cells)
        labels = torch.where(there, ids.gather(1, cells), IGNORE)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)

    def _first_pass(self, features: Tensor, ids: Tensor, length: Tensor, cells: Tensor) -> Tensor:
        """Logits of masks in some cells, over all that stands in the blocks before theirs, [B, cells, V]."""
        cache, model, size = DynamicCache(), self.model, self.block_size
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        real = places < length[:, None]
        clean = Tokens(places // size, torch.zeros_like(real), padding=numbered(real))
        with torch.no_grad(), model.attention_by("sdpa"):  # the faster one where no gradient is asked for
            embeds = with_picture(model.token_embeds(ids), features, self.picture_at)
            model.run_decoder(embeds, dense_mask(clean)[:, None], places, cache)
        noisy = Tokens(cells // size, torch.ones_like(cells, dtype=torch.bool), padding=torch.zeros_like(cells))
        pairs = zip(clean, noisy, strict=True)
        keys = Tokens(*(None if old is None else torch.cat([old, own], 1) for old, own in pairs))
        masks = model.token_embeds(torch.full_like(cells, self.mask_id))
        return model.lm_head(model.run_decoder(masks, dense_mask(noisy, keys)[:, None], cells, cache))
