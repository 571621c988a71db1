"""The experiments on small models, as named rows: each row trains or decodes one model and asks it unseen questions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch

from ..decoding import DecodingConfig
from ..tinyworld.tokenizer import build_tokenizer
from ..training.bundled import calibrate
from .exams import Exam, small_exam, sudoku_exam
from .learn import Leg, Options, Workshop
from .rows import stacked, vision_row
from .scale import Scale
from .score import score
from .small import small_processor
from .store import Rows, Store
from .sweep import BLANKS, Sweep

TOKENIZER_SAMPLES = 300  # of TinyWorld, from which the tokenizer takes its words
ASKED = 1  # the exam's seed: every model is asked the same questions, whatever its own seed
LONGEST = 64  # tokens of an answer

OPTIONS: dict[str, Options] = {  # "off" is the conversion of the same length
    "effective mask ratio": Options(mask_ratio=True),
    "beta noise": Options(beta_noise=True),
    "block annealing": Options(annealing=True),
    "complementary masks": Options(complementary=True),
    "next-token mix": Options(ar_weight=0.5),
    "several turns": Options(chain=True),
    "several turns, auto-truncation": Options(chain=True, truncation=True),
}
RECIPE = Options(beta_noise=True, complementary=True, ar_weight=0.5)  # those that helped with every seed, together


class Lab:
    """Trains and scores; parents are made once per seed.

    Args:
        store: where results and weights are kept.
        scale: how large everything is.
    """

    def __init__(self, store: Store, scale: Scale) -> None:
        self.store, self.scale = store, scale

    @cached_property
    def workshop(self) -> Workshop:
        """Made at first use: a run that finds everything done needs none."""
        return Workshop(build_tokenizer(TOKENIZER_SAMPLES))

    @cached_property
    def exam(self) -> Exam:
        """What every model is asked."""
        return small_exam(self.scale.questions, ASKED)

    def start(self, seed: int) -> dict[str, torch.Tensor]:
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
        return self.store.weights(f"parent-{seed}", lambda: self._trained(self.start(seed), leg, seed))

    def words(self, seed: int) -> tuple[dict, dict]:
        """The language model that has read descriptions and never seen a picture."""
        leg = self.scale.learning("words", "words", self.scale.words)
        return self.store.weights(f"words-{seed}", lambda: self._trained(self.start(seed), leg, seed))

    def converted(self, percent: int, seed: int) -> tuple[dict, dict]:
        """The parent after block diffusion on new samples, so many percent of what it has seen itself."""
        leg = self.scale.conversion(percent)
        return self.store.weights(f"child-{percent}-{seed}", lambda: self._trained(self.parent(seed)[0], leg, seed))

    def translated(self, percent: int, seed: int) -> tuple[dict, dict]:
        """The parent after block diffusion by the recipe, on the same samples as `converted`."""
        leg = self.scale.recipe("diffusion", "child", self.scale.share(percent))
        return self.store.weights(
            f"recipe-{percent}-{seed}", lambda: self._trained(self.parent(seed)[0], leg, seed, RECIPE)
        )

    def loaded(self, weights: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Model and processor of these weights; there is one model, so the last one loaded counts."""
        self.workshop.load(weights)
        return self.workshop.model, small_processor(self.workshop.tokenizer)

    def scored(self, made: tuple[dict, dict], diffusion: bool) -> dict[str, Any]:
        """What training gave, and the score."""
        weights, measured = made
        config = DecodingConfig(max_new_tokens=LONGEST)
        return measured | score(*self.loaded(weights), self.exam, diffusion, config)

    def child(self, weights: dict, leg: Leg, seed: int, options: Options | None = None) -> dict[str, Any]:
        """Train on from weights, and score."""
        return self.scored(self._trained(weights, leg, seed, options), leg.kind == "diffusion")


def conversion(lab: Lab, seed: int) -> Rows:
    """An autoregressive vision-language model, and what it becomes by block diffusion on few samples."""
    rows: Rows = {"parent": lambda: lab.scored(lab.parent(seed), False)}
    for percent in lab.scale.percents:
        rows[f"{percent} %"] = lambda percent=percent: lab.scored(lab.converted(percent, seed), True)
    return rows


def recipe(lab: Lab, seed: int) -> Rows:
    """Conversions with the options that help, for as long as the parent has learnt; beside the parent that goes on
    learning token by token for as long, on the samples of the largest of them."""
    def trained_on() -> dict[str, Any]:
        few = lab.scale.share(lab.scale.options)
        return lab.child(lab.parent(seed)[0], lab.scale.recipe("autoregressive", "child", few), seed)

    rows: Rows = {"parent": lambda: lab.scored(lab.parent(seed), False), "parent, trained on": trained_on}
    for percent in (share for share in lab.scale.percents if share <= lab.scale.options):
        rows[f"{percent} %"] = lambda percent=percent: lab.scored(lab.translated(percent, seed), True)
    return rows


def ar_lm(lab: Lab, seed: int) -> Rows:
    """A language model that gets a vision tower: finetuned token by token, and by block diffusion with the recipe."""
    def finetuned(kind: str, chosen: Options | None) -> dict[str, Any]:
        leg = lab.scale.recipe(kind, "parent", lab.scale.finetune)
        return lab.child(lab.words(seed)[0], leg, seed, chosen)

    return {"autoregressive": partial(finetuned, "autoregressive", None),
            "diffusion": partial(finetuned, "diffusion", RECIPE)}


def scratch(lab: Lab, seed: int) -> Rows:
    """Block diffusion from random decoder weights, with as many visits as a conversion has."""
    def trained(samples: int) -> dict[str, Any]:
        leg = lab.scale.learning("diffusion", "child", samples, lab.scale.visits)
        return lab.child(lab.start(seed), leg, seed)

    few = lab.scale.share(lab.scale.scratch)
    return {"as many": partial(trained, few), f"{lab.scale.times} x": partial(trained, few * lab.scale.times)}


def options(lab: Lab, seed: int) -> Rows:
    """The conversion with each training option, and without any."""
    percent = lab.scale.options

    def converted(chosen: Options) -> dict[str, Any]:
        return lab.child(lab.parent(seed)[0], lab.scale.conversion(percent), seed, chosen)

    rows: Rows = {"off": lambda: lab.scored(lab.converted(percent, seed), True)}
    return rows | {name: partial(converted, chosen) for name, chosen in OPTIONS.items()}


def decoding(lab: Lab, seed: int) -> Rows:
    """The conversion by the recipe on a tenth of the samples, decoded in many ways, beside its parent."""
    questions = lab.scale.questions
    return Sweep(
        child=lambda: lab.loaded(lab.translated(lab.scale.options, seed)[0]),
        parent=lambda: lab.loaded(lab.parent(seed)[0]),
        exam=lambda: lab.exam,
        sudokus=lambda: sudoku_exam(BLANKS, questions, ASKED, small=True),
        longest=LONGEST,
    ).rows()


EXPERIMENTS: dict[str, Callable[[Lab, int], Rows]] = {
    "conversion": conversion, "recipe": recipe, "decoding": decoding, "scratch": scratch, "ar_lm": ar_lm,
    "options": options,
}  # fmt: skip
