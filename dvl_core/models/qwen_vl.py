"""The VL family: Qwen2.5-VL, unmodified, made to denoise.

Nothing of the backbone is redefined. The published checkpoints keep the vision tower and the merger elsewhere in
their key layout; that is a renaming, `published_names`, which loading applies and saving undoes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from .block_diffusion import BlockDiffusionMixin
from .configuration import DiffusionVLQwenVLConfig


class DiffusionVLQwenVLForConditionalGeneration(BlockDiffusionMixin, Qwen2_5_VLForConditionalGeneration):
    """`hustvl/DiffusionVL-Qwen2.5VL-*`: Qwen2.5-VL with block-causal attention, 1-D positions and denoising."""

    config_class = DiffusionVLQwenVLConfig
    vision_inputs = ("pixel_values", "image_grid_thw")
    published_names = (
        ("model.vision_tower.vision_tower.", "model.visual."),
        ("model.mm_projector.merger.", "model.visual.merger."),
        ("model.embed_tokens.", "model.language_model.embed_tokens."),
        ("model.layers.", "model.language_model.layers."),
        ("model.norm.", "model.language_model.norm."),
    )
    _supports_flash_attn = False

    @property
    def decoder(self):
        return self.model.language_model

    def embed_inputs(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, image_grid_thw: Tensor | None = None
    ) -> Tensor:
        """Token embeddings with the pictures' features in place of their placeholders.

        Args:
            input_ids: long [B, L], `config.image_token_id` once per merged patch of every picture.
            pixel_values: patches of all pictures, [patches, channels * temporal * patch * patch].
            image_grid_thw: patches of each picture along time, height and width, long [pictures, 3].

        Returns:
            float [B, L, D].

        Raises:
            ValueError: when placeholders and picture features differ in number.
        """
        if pixel_values is None:
            return self.token_embeds(input_ids)
        features = torch.cat(self.get_image_features(pixel_values, image_grid_thw).pooler_output)
        return self.place_features(input_ids, features)

    def separate_pictures(
        self, pixel_values: Tensor | None = None, image_grid_thw: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """The inputs of each picture by itself; joined along their first axis they are those of all."""
        return separate_patches(pixel_values, image_grid_thw)


def separate_patches(pixel_values: Tensor | None, image_grid_thw: Tensor | None) -> list[dict[str, Tensor]]:
    """The patches and the grid of each picture, of those of all pictures."""
    if image_grid_thw is None:
        return []
    patches = pixel_values.split(image_grid_thw.prod(-1).tolist())
    return [{"pixel_values": p, "image_grid_thw": g} for p, g in zip(patches, image_grid_thw.split(1), strict=True)]
