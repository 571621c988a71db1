"""LLaVA-OneVision (the 0.5B one is the smallest family here), unmodified, made to denoise.

Its decoder is Qwen2's, its positions are 1-D already, and its way of cutting pictures into tiles is the one that the
published DiffusionVL language-model family took over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from PIL import Image
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from ..models.block_diffusion import BlockDiffusionMixin
from ..models.configuration import BlockDiffusionFields
from ..models.qwen_lm import separate_tiles
from ..processing.anyres import AnyresPlan, max_detail_tiles, plan_anyres
from ..processing.qwen_lm import DiffusionVLQwenProcessor
from .family import Family

SYSTEM_PROMPT = "You are a helpful assistant."
# The stock code rounds lengths to so many decimals before it cuts off their fraction.
DECIMALS = 7


@strict
class DiffusionVLLlavaOnevisionConfig(BlockDiffusionFields, LlavaOnevisionConfig):
    r"""
    A LLaVA-OneVision configuration plus what block diffusion adds (`BlockDiffusionFields`).
    """

    model_type = "diffusionvl_llava_onevision"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        max_detail_tiles(self.vision_aspect_ratio)  # refuses what is not anyres


class DiffusionVLLlavaOnevisionForConditionalGeneration(BlockDiffusionMixin, LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision with block-causal attention and denoising."""

    config_class = DiffusionVLLlavaOnevisionConfig
    vision_inputs = ("pixel_values", "image_sizes")
    _supports_flash_attn = False

    @property
    def decoder(self):
        return self.model.language_model

    def embed_inputs(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, image_sizes: Tensor | None = None
    ) -> Tensor:
        """Token embeddings with the pictures' features in place of their placeholders.

        Args:
            input_ids: long [B, L], `config.image_token_id` once per picture token.
            pixel_values: tiles of all pictures, each one's overview first, float [T, 3, pixels, pixels].
            image_sizes: (height, width) of the original pictures, long [pictures, 2].

        Returns:
            float [B, L, D].

        Raises:
            ValueError: when placeholders and picture features differ in number.
        """
        if pixel_values is None:
            return self.token_embeds(input_ids)
        ratio = self.config.vision_aspect_ratio
        features = self.get_image_features(pixel_values, image_sizes, vision_aspect_ratio=ratio).pooler_output
        return self.place_features(input_ids, torch.cat(list(features)))

    def separate_pictures(
        self, pixel_values: Tensor | None = None, image_sizes: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """The inputs of each picture by itself; joined along their first axis they are those of all."""
        if image_sizes is None:
            return []
        return separate_tiles(pixel_values, image_sizes, self.picture_plans(image_sizes))

    def picture_plans(self, image_sizes: Tensor) -> list[AnyresPlan]:
        """How each picture is cut into tiles, given (height, width) of the originals, long [pictures, 2]."""
        tile = self.config.vision_config.image_size
        side = tile // self.config.vision_config.patch_size
        tiles = max_detail_tiles(self.config.vision_aspect_ratio)
        pinpoints = _canvases(self.config)
        return [plan_anyres((w, h), pinpoints, tile, side, tiles, DECIMALS) for h, w in image_sizes.tolist()]


class DiffusionVLLlavaOnevisionProcessor(DiffusionVLQwenProcessor):
    """Pictures as the stock LLaVA-OneVision picture processor cuts them into tiles."""

    picture_processor = LlavaOnevisionImageProcessorPil
    plan_decimals = DECIMALS

    def process_pictures(self, pictures: list[Image.Image]) -> dict[str, Any]:
        """`pixel_values` float32 [tiles of all pictures, 3, tile, tile] and `image_sizes` [pictures, 2]."""
        made = self.image_processor(images=pictures, return_tensors="np")
        counts = [self.plan(picture.size).tile_count for picture in pictures]  # what follows is padding
        tiles = [tiles[:count] for tiles, count in zip(made["pixel_values"], counts, strict=True)]
        return {"pixel_values": np.concatenate(tiles), "image_sizes": made["image_sizes"]}


def _canvases(config: LlavaOnevisionConfig) -> list[list[int]]:
    """Canvases as (width, height); the stock configuration has them the other way round."""
    return [[width, height] for height, width in config.image_grid_pinpoints]


def _processor(pictures, tokenizer, config) -> DiffusionVLLlavaOnevisionProcessor:
    return DiffusionVLLlavaOnevisionProcessor(
        pictures,
        tokenizer,
        system_prompt=SYSTEM_PROMPT,
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        patch_size=config.vision_config.patch_size,
        image_aspect_ratio=config.vision_aspect_ratio,
        image_grid_pinpoints=_canvases(config),
    )


LLAVA_ONEVISION = Family(
    source_type="llava_onevision",
    example="llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    config=DiffusionVLLlavaOnevisionConfig,
    model=DiffusionVLLlavaOnevisionForConditionalGeneration,
    processor=DiffusionVLLlavaOnevisionProcessor,
    picture_processor=LlavaOnevisionImageProcessorPil,
    make_processor=_processor,
    source_names=(
        (r"language_model\.lm_head\.", "lm_head."),
        (r"language_model\.model\.", "model.language_model."),
        (r"(model\.)?vision_tower\.(vision_model\.)?", "model.vision_tower."),
        (r"multi_modal_projector\.", "model.multi_modal_projector."),
        (r"image_newline$", "model.image_newline"),
    ),
    stock=LlavaOnevisionForConditionalGeneration,
)
