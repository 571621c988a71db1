"""One training loop for every stage of the experiments; its length is counted in samples, never in minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..models.precision import fast_dtype
from ..training.masks import additive, block_diffusion_mask
from ..training.optimizer import MuonAdamW
from ..training.options import annealed_block_size, mixed_loss
from ..training.packing import IGNORE, Packer
from ..training.steps import NoPicture, PackedLanguage, VisionWarmup
from .labels import HEADS
from .noise import answer_blocks, draw_noise, noisy_batch, opposite
from .rows import FIRST_SEED, Rows, chain_rows, stacked, tree_rows, vision_row, words_rows
from .small import BLOCK, PICTURE_TOKENS, small_model

SEED_STEP = 1_000_000  # training pictures of different seeds never overlap
kept = lru_cache(maxsize=4_096)  # rows of samples that come again are not drawn again


@dataclass(frozen=True)
class Options:
    """Training options of a diffusion leg, all off by default; see `training.options`.

    chain: several turns in a row, every answer learnt, instead of independent conversations (what auto-truncation
    is about); the others as in `training.config.ObjectiveConfig`.
    """

    mask_ratio: bool = False
    beta_noise: bool = False
    annealing: bool = False
    complementary: bool = False
    ar_weight: float = 0.0
    chain: bool = False
    truncation: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.ar_weight < 1:
            raise ValueError(f"ar_weight={self.ar_weight} must be from 0 to below 1")
        if self.truncation and not self.chain:
            raise ValueError("truncation=True is about several turns in a row: set chain=True too")


@dataclass(frozen=True)
class Leg:
    """One stage of training.

    kind: "vision", "words", "autoregressive" or "diffusion"; stage: whose training pictures (`rows.FIRST_SEED`);
    samples: different pictures; batch: per update; muon_lr, adam_lr: peak rates; vision_scale: their factor for the
    tower; visits: pictures seen, which go through the samples again and again (never less than each once).
    """

    kind: str
    stage: str
    samples: int
    batch: int
    muon_lr: float
    adam_lr: float
    vision_scale: float = 0.3
    visits: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "batch", "muon_lr", "adam_lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")

    @property
    def updates(self) -> int:
        """Updates; the last batch is filled up with the first samples."""
        return math.ceil(max(self.samples, self.visits) / self.batch)

    def numbers(self, update: int) -> list[int]:
        """Which samples an update sees, counted from 0."""
        return [k % self.samples for k in range(update * self.batch, (update + 1) * self.batch)]

    def rate(self, update: int) -> float:
        """Factor of the learning rates: warm-up over a tenth, at most 50 updates; linear decay from half way."""
        warm = min(1.0, (update + 1) / max(1, min(50, self.updates // 10)))
        return warm * min(1.0, 2 * (1 - update / self.updates))


class Workshop:
    """One model that every run puts its own weights into.

    Args:
        tokenizer: of TinyWorld.
    """

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        self.model = small_model(tokenizer)
        self.mask_id = self.model.config.mask_token_id
        at = Packer(tokenizer, PICTURE_TOKENS, BLOCK, PICTURE_TOKENS, False).picture_at
        words = PackedLanguage(self.model, slice(0, 0), BLOCK, False)
        words.reader = NoPicture(self.model.config.text_config.hidden_size)
        self.modules = {
            "vision": VisionWarmup(self.model, HEADS),
            "words": words,
            "autoregressive": PackedLanguage(self.model, at, BLOCK, False),
            "diffusion": PackedLanguage(self.model, at, BLOCK, True),
        }

    def fresh(self, seed: int) -> dict[str, Tensor]:
        """New weights of a seed."""
        torch.manual_seed(seed)
        return small_model(self.tokenizer).state_dict()

    def load(self, weights: dict[str, Tensor]) -> None:
        """Put weights into the model."""
        self.model.load_state_dict(weights)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the model's weights."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def train(self, leg: Leg, seed: int, options: Options | None = None) -> dict[str, float]:
        """Train the model as it stands.

        Args:
            leg: what and how long.
            seed: of the samples and the noise.
            options: of a diffusion leg.

        Returns:
            samples, visits, updates, seconds, and the mean loss of the last tenth.
        """
        began, began_processor, losses = time.perf_counter(), time.process_time(), []
        torch.manual_seed(seed)
        module = self.modules[leg.kind]
        if leg.kind == "vision":
            for head in module.heads.values():
                head.reset_parameters()
        self.model.train()
        optimizer = MuonAdamW(list(module.named_parameters()), leg.muon_lr, leg.adam_lr, leg.vision_scale)
        draw = self._objective(leg.kind, seed, options or Options())
        first = FIRST_SEED[leg.stage] + seed * SEED_STEP
        for update in range(leg.updates):
            seeds = [first + number for number in leg.numbers(update)]
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
                loss = draw(seeds, update / leg.updates)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(leg.rate(update))
            losses.append(float(loss.detach()))
        self.model.eval()
        last = losses[-max(1, len(losses) // 10):]
        return {"samples": leg.samples, "visits": leg.updates * leg.batch, "updates": leg.updates,
                "train_seconds": time.perf_counter() - began,
                "train_processor_seconds": time.process_time() - began_processor, "loss": sum(last) / len(last)}

    def _objective(self, kind: str, seed: int, options: Options) -> Callable[[list[int], float], Tensor]:
        """A function from the numbers of a batch's samples, and the share of the run that is over, to the loss."""
        if kind == "vision":
            return lambda seeds, _: self._vision_loss(stacked([vision_row(s) for s in seeds]))
        if kind in ("words", "autoregressive"):
            row = kept(words_rows(self.tokenizer) if kind == "words" else tree_rows(self.tokenizer, None))
            return lambda seeds, _: self._next_token_loss(kind, stacked([row(s) for s in seeds]))
        return self._diffusion(torch.Generator().manual_seed(seed), options)

    def _vision_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.modules["vision"](batch["pictures"], {name: batch[name] for name in HEADS})[0]

    def _forward(self, kind: str, batch: dict[str, Tensor], mask: Tensor, weight: Tensor) -> Tensor:
        return self.modules[kind](batch["pictures"], batch["ids"], batch["positions"], mask, batch["labels"], weight)[0]

    def _next_token_loss(self, kind: str, batch: dict[str, Tensor]) -> Tensor:
        """Every answer weighs as the square root of its length, as in the bundled model's parent."""
        mask = self.modules[kind].mask(*(batch[key] for key in ("positions", "segment", "noisy", "complement")))
        weight = batch["share"].sqrt() * (batch["labels"] >= 0)
        return self._forward(kind, batch, mask, weight / weight.sum())

    def _diffusion(self, generator: torch.Generator, options: Options) -> Callable[[list[int], float], Tensor]:
        rows: dict[int, Callable[[int], Rows]] = {}
        causal = kept(tree_rows(self.tokenizer, None))

        def loss_of(seeds: list[int], progress: float) -> Tensor:
            size = annealed_block_size(progress, BLOCK) if options.annealing else BLOCK
            if size not in rows:
                rows[size] = kept((chain_rows if options.chain else tree_rows)(self.tokenizer, size))
            batch = stacked([rows[size](s) for s in seeds])
            blocks = answer_blocks(batch, size)
            noises = [draw_noise(blocks, generator, progress if options.beta_noise else None)]
            if options.complementary:
                noises.append(opposite(blocks, noises[0]))
            mask = diffusion_mask(batch, size, options.truncation)
            answers = batch["share"][batch["labels"] != IGNORE].sum()
            loss = torch.zeros(())
            for noise in noises:
                noisy = noisy_batch(batch, blocks, noise, self.mask_id, options.mask_ratio)
                loss = loss + self._forward("diffusion", noisy, mask, noisy["weight"] / answers) / len(noises)
            if options.ar_weight:
                next_token = self._next_token_loss("autoregressive", stacked([causal(s) for s in seeds]))
                loss = mixed_loss(loss, next_token, options.ar_weight)
            return loss

        return loss_of


def diffusion_mask(batch: dict[str, Tensor], size: int, truncation: bool) -> Tensor:
    """The training mask of packed rows, additive; with blocks that end where their answer does on request."""
    turn = batch["turn"] if truncation else None
    return additive(block_diffusion_mask(batch["positions"] // size, batch["noisy"], batch["segment"], turn))
