"""Batches for the stages of the bundled models, drawn from TinyWorld as they are needed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..processing.qwen_vl import CLIP_MEAN_COLOR, pad_to_square, resize_with_margin
from ..tinyworld.description import describe
from ..tinyworld.drawing import render
from ..tinyworld.labels import CELLS, MARGIN, VIEW, patch_labels
from ..tinyworld.pen import Mark
from ..tinyworld.sampling import KIND_SHARES, sample_page
from ..tinyworld.wild import wild
from ..tinyworld.world import TASKS, sample
from .noise import noise_levels
from .packing import IGNORE, Packer

TASK_NAMES = tuple(TASKS)
STAGES = ("vision", "words", "projector", "autoregressive", "diffusion")
COMPLEMENT_FLOOR = 0.1  # least noise level of a second noisy copy, which bounds its weight
DRAWN_AT = (160, 192, 256, 256, 384)  # pixels; shown ones are larger, so training sees several


def framed(image: Image.Image, view: int = VIEW) -> Image.Image:
    """A picture as the bundled vision-language model sees it: padded to a square of `view` pixels with a margin."""
    return resize_with_margin(pad_to_square(image, CLIP_MEAN_COLOR), view, round(view * MARGIN), CLIP_MEAN_COLOR)


@dataclass(frozen=True)
class StageData:
    """What a stage draws: seeds `first_seed`, `first_seed` + 1, … of the training split, and how it is packed.

    Attributes:
        stage: what is learnt, one of `STAGES`; "words" has descriptions instead of pictures.
        batch: pictures a step.
        length: tokens per packed row.
        first_seed: of the samples.
        conversations: how many about each picture, of which those are learnt that fit in the row.
        shares: of the kinds of pictures.
        pages: share of pictures that are pages full of characters instead (`tinyworld.sampling.sample_page`); for the
            vision stage alone.
        easy: samples over which the share of easy pictures (`tinyworld.sampling.simplified`) falls from all of them to
            none.
        only_easy: all pictures are.
        wild: share of pictures as others would make them (`tinyworld.wild`).
        lowest_noise: of the noise levels, which are even from there to 1.
        complementary: two noisy copies of every answer, the second of which hides what the first one shows
            (`options.complementary`).
        digits: of tables learnt by whole blocks (`whole`) only the blocks that end with a digit.
        block_size: tokens denoised together.
        cells: picture tokens per side; view: what the model sees of a picture; margin: round it,
            as a share of that view.
    """

    stage: str
    batch: int = 32
    length: int = 256
    first_seed: int = 0
    conversations: int = 6
    shares: tuple[float, ...] = KIND_SHARES
    pages: float = 0.0
    easy: int = 0
    only_easy: bool = False
    wild: float = 0.0
    lowest_noise: float = 0.1
    complementary: bool = False
    digits: bool = False
    block_size: int = 8
    cells: int = CELLS
    view: Callable[[Image.Image], Image.Image] = framed
    margin: float = MARGIN

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage={self.stage!r} must be one of {', '.join(STAGES)}")
        for field in ("batch", "conversations"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1")
        if self.pages and self.stage != "vision":
            raise ValueError(f"pages={self.pages}: no question is asked about a page, so only the vision stage has any")
        if self.only_easy and (self.easy or self.pages or self.wild):
            raise ValueError("only_easy=True leaves nothing for easy, pages and wild: set them to 0")
        if not 0 < self.lowest_noise < 1:
            raise ValueError(f"lowest_noise={self.lowest_noise} must be above 0 and below 1")
        if self.complementary and self.stage != "diffusion":
            raise ValueError("complementary=True: only the diffusion stage has noisy copies")


def picture_bytes(picture, drawn_at: int, view: Callable = framed) -> tuple[np.ndarray, list[Mark]]:
    """Draw, then show exactly as the processor does. Returns uint8 [S, S, 3] and what is where."""
    image, marks = render(picture, drawn_at)
    return np.array(view(image)), marks


def stacked(rows: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """Rows with the same names and shapes as one batch."""
    return {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}


def worker_share() -> tuple[int, int]:
    """Which of a loader's worker processes this is, and of how many; (0, 1) outside of any."""
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 1)


class TinyWorldBatches(IterableDataset):
    """Endless batches of one stage; with several worker processes each draws its share of them."""

    def __init__(self, data: StageData, tokenizer) -> None:
        self.data, self.tokenizer = data, tokenizer

    def __iter__(self):
        data = self.data
        packer = None
        if data.stage != "vision":
            picture_tokens = 0 if data.stage == "words" else data.cells**2
            packer = Packer(self.tokenizer, picture_tokens, data.block_size, data.length, data.stage == "diffusion",
                            data.complementary)
        mine, workers = worker_share()
        for first in count(data.first_seed + mine * data.batch, workers * data.batch):
            rows = [self._row(seed, packer) for seed in range(first, first + data.batch)]
            yield stacked(rows)

    def _row(self, seed: int, packer: Packer | None) -> dict[str, np.ndarray]:
        data = self.data
        if data.pages:
            rng = random.Random(f"page/{seed}")
            if rng.random() < data.pages:
                page = sample_page(rng)
                return self._seen(wild(rng, page) if rng.random() < data.wild else page, seed)
        easy = max(0.0, 1 - (seed - data.first_seed) / data.easy) if data.easy else float(data.only_easy)
        drawn = sample("train", seed, data.conversations if packer else 0, data.shares, easy, data.wild * (1 - easy))
        if data.stage == "words":
            packer.instead_of_picture(describe(drawn.picture))
            row = {"pictures": np.zeros(0, np.uint8)}
        else:
            row = self._seen(drawn.picture, seed)
        if packer is None:
            return row
        packed, used = packer.pack(drawn.conversations)
        tasks = np.full(data.conversations + 1, -1)
        for segment, index in enumerate(used, 1):
            name = drawn.tasks[index]
            tasks[segment] = TASK_NAMES.index(name)
        return row | packed | {"tasks": tasks}

    def _seen(self, picture, seed: int) -> dict[str, np.ndarray]:
        """What the model sees of a picture, and its patches' labels."""
        pixels, marks = picture_bytes(picture, DRAWN_AT[seed % len(DRAWN_AT)], self.data.view)
        return {"pictures": pixels} | patch_labels(marks, self.data.margin, self.data.cells)


def add_tree_noise(batch: dict[str, Tensor], data: StageData, mask_id: int,
                   generator: torch.Generator) -> dict[str, Tensor]:
    """Mask answer tokens of the noisy copies; adds `weight` = 1 / t / labelled tokens where masked, else 0.

    A second copy hides what the first one shows (`options.complementary`), at level 1 - t; then each has half the
    weight.

    Args:
        batch: of the diffusion stage, on the generator's device.
        data: block size, lowest noise level, and whether there are second copies.
        mask_id: what stands in a masked cell.
        generator: every call takes new levels and new cells from it.
    """
    random = {"generator": generator, "device": generator.device}
    block = batch["positions"] // data.block_size
    rows = torch.arange(len(block), device=generator.device)[:, None]
    key = (rows * 64 + batch["segment"].clamp(min=0)) * 1024 + block
    learnt = batch["labels"] != IGNORE
    labelled = learnt & ~batch["complement"]
    blocks, which = key[labelled].unique(return_inverse=True)
    levels = noise_levels(torch.rand(1, len(blocks), **random), data.lowest_noise)[0]
    levels = levels[torch.randperm(len(blocks), **random)][which]  # strata are dealt out at random
    masked = torch.rand(len(levels), **random) <= levels
    copies = [(labelled, levels, masked)]
    if data.complementary:  # both copies have the same labelled tokens, in the same order
        copies.append((learnt & batch["complement"], (1 - levels).clamp(min=COMPLEMENT_FLOOR), ~masked))
    weight, hidden = torch.zeros_like(batch["share"]), torch.zeros_like(labelled)
    for copy, level, masks in copies:
        weight[copy] = torch.where(masks, batch["share"][copy] / level, 0.0) / len(copies)
        hidden[copy] = masks
    ids = torch.where(hidden, mask_id, batch["ids"])
    return batch | {"ids": ids, "weight": weight}


def loader(data: StageData, tokenizer, workers: int = 1, batches: Callable = TinyWorldBatches) -> DataLoader:
    """Batches from worker processes that stay a few batches ahead."""
    return DataLoader(batches(data, tokenizer), batch_size=None, num_workers=workers, prefetch_factor=4)
