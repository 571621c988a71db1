"""Configurations of the published families, as their `config.json` files say."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub.dataclasses import strict
from transformers import Qwen2_5_VLConfig

from ..decoding.config import MAX_BLOCK_SIZE

MASK_TOKEN_ID = 151671
EOS_TOKEN_ID = 151645
IMAGE_TOKEN_ID = 151655


@dataclass(kw_only=True)
class BlockDiffusionFields:
    """What block diffusion adds to a configuration; mixed into a stock configuration class, before it.

    Attributes:
        enable_bd3lm: True: a block-diffusion model. False: the autoregressive parent in the same layout.
        bd3lm_block_size: block size the model was trained with.
        bd3lm_antithetic_sampling: spread the noise levels of a row's blocks evenly while training.
        bd3lm_sampling_eps_min: lowest noise level while training.
        bd3lm_sampling_eps_max: highest noise level while training.
        bd3lm_block_aligned_eos: pad answers with the end-of-sequence token to a multiple of the block while training.
        mask_token_id: id of the mask token.
        eos_token_id: id or ids that end an answer.

    Raises:
        ValueError: for fields that can't work, naming the field.
    """

    enable_bd3lm: bool = True
    bd3lm_block_size: int = 8
    bd3lm_antithetic_sampling: bool = True
    bd3lm_sampling_eps_min: float = 1e-3
    bd3lm_sampling_eps_max: float = 1.0
    bd3lm_block_aligned_eos: bool = True
    mask_token_id: int = MASK_TOKEN_ID
    eos_token_id: int | list[int] | None = EOS_TOKEN_ID

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_block_diffusion_fields(self)


@strict
class DiffusionVLQwenVLConfig(BlockDiffusionFields, Qwen2_5_VLConfig):
    r"""
    Configuration of the VL family (`hustvl/DiffusionVL-Qwen2.5VL-3B`, `-7B`): a Qwen2.5-VL configuration plus what
    block diffusion adds (`BlockDiffusionFields`).

    min_pixels (`int`, *optional*):
        Smallest picture, in pixels; smaller ones are enlarged.
    max_pixels (`int`, *optional*):
        Largest picture, in pixels; larger ones are shrunk.
    image_aspect_ratio (`str`, *optional*):
        How the training code treated pictures that are not square; kept for the checkpoint's sake.
    mm_projector_type (`str`, *optional*, defaults to `"qwen_merger"`):
        Kind of projector; this family has one.
    """

    model_type = "diffusionvl_qwenvl"

    image_token_id: int | None = IMAGE_TOKEN_ID
    video_token_id: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    image_aspect_ratio: str | None = None
    mm_projector_type: str = "qwen_merger"

    def __post_init__(self, **kwargs):
        if self.image_token_id is None:
            self.image_token_id = IMAGE_TOKEN_ID
        if self.text_config is not None:
            # Published files repeat the text fields at the top; positions are the text configuration's matter.
            for name in ("rope_scaling", "rope_theta", "rope_parameters"):
                kwargs.pop(name, None)
        super().__post_init__(**kwargs)


def check_block_diffusion_fields(config) -> None:
    """Refuse a configuration whose block-diffusion fields can't work. Raises ValueError naming the field."""
    size = config.bd3lm_block_size
    if not isinstance(size, int) or not 1 <= size <= MAX_BLOCK_SIZE:
        raise ValueError(f"bd3lm_block_size must be from 1 to {MAX_BLOCK_SIZE}; got {size!r}.")
    low, high = config.bd3lm_sampling_eps_min, config.bd3lm_sampling_eps_max
    if not 0 <= low < high <= 1:
        raise ValueError(f"bd3lm_sampling_eps_min and _max must satisfy 0 <= min < max <= 1; got {low} and {high}.")
    vocabulary = config.get_text_config().vocab_size
    if not 0 <= config.mask_token_id < vocabulary:
        raise ValueError(f"mask_token_id must lie in the vocabulary of {vocabulary} ids; got {config.mask_token_id}.")
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if not ends or not all(isinstance(end, int) and 0 <= end < vocabulary for end in ends):
        raise ValueError(f"eos_token_id must lie in the vocabulary of {vocabulary} ids; got {config.eos_token_id}.")
