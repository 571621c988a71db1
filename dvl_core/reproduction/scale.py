"""How large the experiments are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .learn import Leg


@dataclass(frozen=True)
class Scale:
    """Samples (pictures with three questions each) and questions of every experiment.

    Attributes:
        vision: samples of the vision tower's warm-up, done once and shared by everything.
        words: of the language model's pretraining on texts.
        parent: of the autoregressive vision-language parent.
        finetune: of the two finetunings of the language model.
        percents: conversion samples, in percent of `parent`.
        visits: pictures that a conversion, or diffusion from scratch, sees at least; with fewer samples it goes
            through them several times.
        scratch: percent of `parent` that the small run from scratch sees; `times` as many in the large one.
        options: percent of `parent` that conversions with training options see, and at most those by the recipe, the
            largest of which is decoded in many ways.
        recipe_visits: pictures that every run by the recipe sees, as many as the parent's own.
        batch: samples per update; conversion_batch: of conversions, which would see few updates otherwise.
        questions: per task and model in scoring.
    """

    vision: int = 12_000
    words: int = 2_000
    parent: int = 8_000
    finetune: int = 4_000
    percents: tuple[int, ...] = (1, 2, 5, 10, 25)
    visits: int = 1_600
    scratch: int = 2
    times: int = 20
    options: int = 10
    recipe_visits: int = 8_000
    batch: int = 16
    conversion_batch: int = 8
    questions: int = 48

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "percents" and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not all(0 < percent <= 100 for percent in self.percents):
            raise ValueError(f"percents={self.percents} must lie above 0 and up to 100")

    def share(self, percent: int) -> int:
        """Samples that are so many percent of the parent's, at least one."""
        return max(1, round(self.parent * percent / 100))

    def warmup(self) -> Leg:
        """The vision tower's leg."""
        return Leg("vision", "vision", self.vision, self.batch, 0.02, 2e-3, 1.0)

    def learning(self, kind: str, stage: str, samples: int, visits: int = 0) -> Leg:
        """A leg that learns from nothing, or something new: high rates."""
        return Leg(kind, stage, samples, self.batch, 0.01, 2e-3, visits=visits)

    def conversion(self, percent: int) -> Leg:
        """A leg of block diffusion from the autoregressive parent."""
        samples = self.share(percent)
        return Leg("diffusion", "child", samples, self.conversion_batch, 0.01, 1e-3, visits=self.visits)

    def recipe(self, kind: str, stage: str, samples: int) -> Leg:
        """A leg that finetunes for as long as the parent has learnt."""
        return Leg(kind, stage, samples, self.batch, 0.01, 1e-3, visits=self.recipe_visits)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-ready data."""
        return asdict(self) | {"percents": list(self.percents)}


SCALES = {
    "small": Scale(),
    "tiny": Scale(vision=8, words=8, parent=40, finetune=8, percents=(10, 25), visits=8, scratch=10, times=2,
                  options=10, recipe_visits=8, batch=4, conversion_batch=4, questions=1),
}  # fmt: skip
