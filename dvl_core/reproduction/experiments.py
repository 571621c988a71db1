"""The experiments on small models, as named rows: each row trains one model and asks it the same unseen questions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch

from ..tinyworld.tokenizer import build_tokenizer
from ..training.bundled import calibrate
from .learn import Leg, Options, Workshop
from .rows import stacked, vision_row
from .scale import Scale
from .score import score
from .small import small_processor
from .store import Store

Rows = dict[str, Callable[[], dict[str, Any]]]
TOKENIZER_SAMPLES = 300  # of TinyWorld, from which the tokenizer takes its words
SCORED_ON = 1  # every model is asked the same questions, whatever its seed

OPTIONS: dict[str, Options] = {  # "off" is the conversion of the same length
    "effective mask ratio": Options(mask_ratio=True),
    "beta noise": Options(beta_noise=True),
    "block annealing": Options(annealing=True),
    "complementary masks": Options(complementary=True),
    "next-token mix": Options(ar_weight=0.5),
    "several turns": Options(chain=True),
    "several turns, auto-truncation": Options(chain=True, truncation=True),
}


class Lab:
    """Trains and scores; parents are made once per seed.

    Args:
        store: where results and weights are kept.
        scale: how large everything is.
        compiled: use torch.compile.
    """

    def __init__(self, store: Store, scale: Scale, compiled: bool) -> None:
        self.store, self.scale, self.compiled = store, scale, compiled

    @cached_property
    def workshop(self) -> Workshop:
        """Made at first use: a run that finds everything done needs none."""
        return Workshop(build_tokenizer(TOKENIZER_SAMPLES), self.compiled)

    def _start(self, seed: int) -> dict[str, torch.Tensor]:
        """Weights to begin with: a decoder of the seed, and the vision tower that everything shares."""
        tower, _ = self.store.weights("tower", self._tower)
        visual = {name: value for name, value in tower.items() if "visual." in name}
        return self.workshop.fresh(seed) | visual

    def _tower(self) -> tuple[dict, dict]:
        shop = self.workshop
        shop.load(shop.fresh(0))
        made = shop.train(self.scale.warmup(), 0)
        calibrate(shop.model, shop.modules["vision"].reader, stacked([vision_row(s) for s in range(64)])["pictures"])
        return shop.weights(), made

    def _trained(self, weights: dict, leg: Leg, seed: int, options: Options | None = None) -> tuple[dict, dict]:
        self.workshop.load(weights)
        made = self.workshop.train(leg, seed, options)
        return self.workshop.weights(), made

    def parent(self, seed: int) -> tuple[dict, dict]:
        """The autoregressive vision-language model."""
        leg = self.scale.learning("autoregressive", "parent", self.scale.parent)
        return self.store.weights(f"parent-{seed}", lambda: self._trained(self._start(seed), leg, seed))

    def words(self, seed: int) -> tuple[dict, dict]:
        """The language model that has read descriptions and never seen a picture."""
        leg = self.scale.learning("words", "words", self.scale.words)
        return self.store.weights(f"words-{seed}", lambda: self._trained(self._start(seed), leg, seed))

    def scored(self, diffusion: bool) -> dict[str, Any]:
        """Score of the model as it stands."""
        processor = small_processor(self.workshop.tokenizer)
        return score(self.workshop.model, processor, self.scale.questions, SCORED_ON, diffusion)

    def child(self, weights: dict, leg: Leg, seed: int, options: Options | None = None) -> dict[str, Any]:
        """Train on from weights, and score."""
        _, made = self._trained(weights, leg, seed, options)
        return made | self.scored(leg.kind == "diffusion")


def conversion(lab: Lab, seed: int) -> Rows:
    """An autoregressive vision-language model, and what it becomes by block diffusion on few samples."""
    def parent() -> dict[str, Any]:
        weights, made = lab.parent(seed)
        lab.workshop.load(weights)
        return made | lab.scored(False)

    def converted(percent: int) -> dict[str, Any]:
        return lab.child(lab.parent(seed)[0], lab.scale.conversion(percent), seed)

    return {"parent": parent} | {f"{percent} %": partial(converted, percent) for percent in lab.scale.percents}


def ar_lm(lab: Lab, seed: int) -> Rows:
    """A language model that gets a vision tower: finetuned token by token, and by block diffusion."""
    def finetuned(kind: str) -> dict[str, Any]:
        return lab.child(lab.words(seed)[0], lab.scale.learning(kind, "parent", lab.scale.finetune), seed)

    return {kind: partial(finetuned, kind) for kind in ("autoregressive", "diffusion")}


def scratch(lab: Lab, seed: int) -> Rows:
    """Block diffusion from random decoder weights."""
    def trained(samples: int) -> dict[str, Any]:
        return lab.child(lab._start(seed), lab.scale.learning("diffusion", "child", samples), seed)

    few = lab.scale.share(lab.scale.scratch)
    return {"as many": partial(trained, few), f"{lab.scale.times} x": partial(trained, few * lab.scale.times)}


def options(lab: Lab, seed: int) -> Rows:
    """The conversion with each training option."""
    def converted(chosen: Options | None) -> dict[str, Any]:
        return lab.child(lab.parent(seed)[0], lab.scale.conversion(lab.scale.options), seed, chosen)

    return {"off": partial(converted, None)} | {name: partial(converted, o) for name, o in OPTIONS.items()}


EXPERIMENTS: dict[str, Callable[[Lab, int], Rows]] = {
    "conversion": conversion, "ar_lm": ar_lm, "scratch": scratch, "options": options,
}  # fmt: skip
