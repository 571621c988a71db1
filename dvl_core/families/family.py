"""What a model family says about itself, so that everything else works for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def _no_fields(source: Any, tower: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """One family: the autoregressive checkpoints it comes from, and the classes that make them denoise.

    Attributes:
        source_type: `model_type` of the autoregressive checkpoints.
        example: one of them, for messages.
        config: stock configuration with `BlockDiffusionFields` mixed in; its `model_type` is the translated one.
        model: stock model with `BlockDiffusionMixin` mixed in.
        processor: conversation and pictures to model inputs.
        picture_processor: stock picture processor in its PIL form, read from the source.
        make_processor: `(picture processor, tokenizer, config) -> processor` of a translated model.
        image_token: the token that holds a picture's place where the source's configuration names none.
        source_names: `(pattern at the start of a name in source files, name in the stock modules)`; the first that
            fits is applied. Files have older names than modules where transformers renamed its modules.
        stock: the stock model class that a translated checkpoint can be turned back into; None when the parent is
            not one checkpoint.
        config_fields: `(source configuration, tower configuration) -> fields` that the translated configuration has
            beyond the source's.
        pixel_bounds: pictures have as many tokens as pixels ask for, within `min_pixels` and `max_pixels`.
        needs_tower: the source is a language model, and its vision tower another checkpoint.
        fresh: names (or beginnings of names) of modules that no source has; drawn by `draw_fresh`.
        published_config: the configuration as published checkpoints have it; None where none are published.
    """

    source_type: str
    example: str
    config: type
    model: type
    processor: type
    picture_processor: type
    make_processor: Callable[[Any, Any, Any], Any]
    image_token: str | None = None
    source_names: tuple[tuple[str, str], ...] = ()
    stock: type | None = None
    config_fields: Callable[[Any, Any], dict[str, Any]] = _no_fields
    pixel_bounds: bool = False
    needs_tower: bool = False
    fresh: tuple[str, ...] = ()
    published_config: Callable[[Any], dict[str, Any]] | None = None


def draw_fresh(shape: torch.Size, fan_in: int, generator: torch.Generator) -> Tensor:
    """A weight that no source has, uniform within 1 / sqrt(fan in), as torch draws its linear layers.

    Args:
        shape: of the weight or bias.
        fan_in: numbers that enter the layer.
        generator: random state of this tensor alone, so that the order of drawing does not matter.
    """
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
