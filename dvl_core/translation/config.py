"""The settings of a translation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..decoding.config import MAX_BLOCK_SIZE

LAYOUTS = ("published", "stock")
DTYPES = ("keep", "float32", "bfloat16", "float16")
_UNITS = {"MB": 10**6, "GB": 10**9}


class TranslationError(ValueError):
    """A translation that can't be made; the message says why and what to do."""


@dataclass(frozen=True)
class TranslationConfig:
    """How to translate.

    Attributes:
        layout: "published": a DiffusionVL checkpoint, in the published layout where the family has one. "stock": a
            DiffusionVL checkpoint turned back into one of the family's plain autoregressive class.
        vision_tower: SigLIP checkpoint for a source that is a language model only.
        parent: write the autoregressive parent in the same layout (`enable_bd3lm` False).
        block_size: `bd3lm_block_size` of the translated model.
        mask_token: its spelling; None takes the tokenizer's own mask token, else `<|mask|>`.
        dtype: of the tensors: "keep" as stored, or the name of one.
        max_shard_size: largest file of weights, such as "5GB" or "200MB"; also what is held in memory at once.
        min_pixels, max_pixels: bounds of pictures for families whose picture size varies; the published ones.
        seed: of the modules that no source has.

    Raises:
        ValueError: for a value out of range, naming the field.
    """

    layout: str = "published"
    vision_tower: str | None = None
    parent: bool = False
    block_size: int = 8
    mask_token: str | None = None
    dtype: str = "keep"
    max_shard_size: str = "5GB"
    min_pixels: int = 147456
    max_pixels: int = 262144
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("layout", LAYOUTS), ("dtype", DTYPES)):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}; got {getattr(self, name)!r}.")
        if not 1 <= self.block_size <= MAX_BLOCK_SIZE:
            raise ValueError(f"block_size must be a whole number from 1 to {MAX_BLOCK_SIZE}; got {self.block_size}.")
        if not 1 <= self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels and max_pixels must satisfy 1 <= min_pixels <= max_pixels; got {self.min_pixels} and "
                f"{self.max_pixels}."
            )
        if self.mask_token is not None and not re.fullmatch(r"<[^<>\s]+>|\[[^\[\]\s]+\]", self.mask_token):
            raise ValueError(f"mask_token must be a word in brackets, such as <|mask|>; got {self.mask_token!r}.")
        if self.max_shard_bytes < 1:
            raise ValueError(f"max_shard_size must be above 0; got {self.max_shard_size!r}.")

    @property
    def max_shard_bytes(self) -> int:
        """`max_shard_size` in bytes."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB)", self.max_shard_size.strip(), re.IGNORECASE)
        if not match:
            raise ValueError(f"max_shard_size must be a number of MB or GB, such as 5GB; got {self.max_shard_size!r}.")
        return int(float(match[1]) * _UNITS[match[2].upper()])
