"""Qwen3-VL, unmodified, made to denoise.

Beside the features in the picture's place, Qwen3-VL adds more of them to the hidden states after each of its first
decoder layers ("deepstack"). They travel behind the embeddings, as further columns that are zero for plain tokens:
whatever slices, gathers or caches embeddings thereby carries them along, in prefill and in every block.
"""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..models.block_diffusion import BlockDiffusionMixin
from ..models.configuration import BlockDiffusionFields
from ..models.qwen_vl import separate_patches
from ..processing.conversation import PICTURE, Piece
from ..processing.qwen_vl import DiffusionVLQwenVLProcessor
from .family import Family


@strict
class DiffusionVLQwen3VLConfig(BlockDiffusionFields, Qwen3VLConfig):
    r"""
    A Qwen3-VL configuration plus what block diffusion adds (`BlockDiffusionFields`).

    min_pixels (`int`, *optional*):
        Smallest picture, in pixels; smaller ones are enlarged.
    max_pixels (`int`, *optional*):
        Largest picture, in pixels; larger ones are shrunk.
    """

    model_type = "diffusionvl_qwen3vl"

    min_pixels: int | None = None
    max_pixels: int | None = None


class DiffusionVLQwen3VLForConditionalGeneration(BlockDiffusionMixin, Qwen3VLForConditionalGeneration):
    """Qwen3-VL with block-causal attention, 1-D positions and denoising."""

    config_class = DiffusionVLQwen3VLConfig
    vision_inputs = ("pixel_values", "image_grid_thw")
    mask_per_layer_kind = False
    _supports_flash_attn = False

    @property
    def decoder(self):
        return self.model.language_model

    def token_embeds(self, ids: Tensor) -> Tensor:
        """Embeddings of plain tokens, float [..., (1 + levels) * D]; the columns of the deepstack levels are zero."""
        embeds = self.get_input_embeddings()(ids)
        levels = len(self.config.vision_config.deepstack_visual_indexes)
        return functional.pad(embeds, (0, levels * embeds.shape[-1]))

    def embed_inputs(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, image_grid_thw: Tensor | None = None
    ) -> Tensor:
        """Token embeddings, pictures in place; arguments and errors as in `DiffusionVLQwenVL...`.

        Returns:
            float [B, L, (1 + levels) * D].
        """
        if pixel_values is None:
            return self.token_embeds(input_ids)
        seen = self.get_image_features(pixel_values, image_grid_thw)
        # Per level a tensor for every picture; one for all of them in some releases of transformers.
        levels = [level if isinstance(level, Tensor) else torch.cat(list(level))
                  for level in (seen.pooler_output, *seen.deepstack_features)]  # fmt: skip
        return self.place_features(input_ids, torch.cat(levels, dim=-1))

    def run_decoder(self, inputs_embeds: Tensor, mask, position_ids, cache=None, **kwargs) -> Tensor:
        """As in `BlockDiffusionMixin`; the columns behind the embeddings go to the decoder's first layers."""
        width = self.config.text_config.hidden_size
        embeds, *levels = inputs_embeds.split(width, dim=-1)
        if levels:
            # Zeros change nothing, so every position is named, by row: a boolean mask would wait for the GPU.
            everywhere = torch.arange(len(embeds), device=embeds.device)
            kwargs |= {"visual_pos_masks": everywhere, "deepstack_visual_embeds": levels}
        return super().run_decoder(embeds, mask, position_ids, cache, **kwargs)

    def separate_pictures(
        self, pixel_values: Tensor | None = None, image_grid_thw: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """The inputs of each picture by itself; joined along their first axis they are those of all."""
        return separate_patches(pixel_values, image_grid_thw)


class DiffusionVLQwen3VLProcessor(DiffusionVLQwenVLProcessor):
    """Qwen3-VL's own prompt: the picture between `<|vision_start|>` and `<|vision_end|>`, no line break after it."""

    picture_pieces = (
        Piece("control", "<|vision_start|>"),
        Piece("picture", PICTURE),
        Piece("control", "<|vision_end|>"),
    )


def _processor(pictures, tokenizer, config) -> DiffusionVLQwen3VLProcessor:
    return DiffusionVLQwen3VLProcessor(
        pictures,
        tokenizer,
        system_prompt=None,
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
    )


QWEN3_VL = Family(
    source_type="qwen3_vl",
    example="Qwen/Qwen3-VL-4B-Instruct",
    config=DiffusionVLQwen3VLConfig,
    model=DiffusionVLQwen3VLForConditionalGeneration,
    processor=DiffusionVLQwen3VLProcessor,
    picture_processor=Qwen2VLImageProcessorPil,
    make_processor=_processor,
    stock=Qwen3VLForConditionalGeneration,
    pixel_bounds=True,
)
