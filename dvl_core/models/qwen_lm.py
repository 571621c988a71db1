"""The second family: a Qwen2.5 language model that was given eyes (SigLIP2 tower, projector), made to denoise.

Decoder and tower are the stock modules of transformers; the projector is two linear layers. What is here is how
the features of a picture's tiles become picture tokens (LLaVA-OneVision's "spatial_unpad").
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2ForCausalLM, SiglipVisionModel

from ..processing.anyres import AnyresPlan, plan_picture
from .block_diffusion import BlockDiffusionMixin
from .configuration_lm import DiffusionVLQwenConfig


class DiffusionVLQwenForConditionalGeneration(BlockDiffusionMixin, Qwen2ForCausalLM):
    """`hustvl/DiffusionVL-Qwen2.5-7B`: SigLIP2, a projector, and Qwen2.5 with block-causal attention."""

    config_class = DiffusionVLQwenConfig
    vision_inputs = ("pixel_values", "image_sizes")
    published_names = (
        ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
        ("model.mm_projector.", "mm_projector."),
        ("model.image_newline", "image_newline"),
    )
    reference_splits_answer = True
    _no_split_modules: ClassVar = ["Qwen2DecoderLayer", "SiglipVisionEmbeddings", "SiglipEncoderLayer"]
    _supports_flash_attn = False

    def __init__(self, config: DiffusionVLQwenConfig):
        super().__init__(config)
        width = config.hidden_size
        self.vision_tower = SiglipVisionModel._from_config(config.vision_config)
        self.mm_projector = nn.Sequential(
            nn.Linear(config.vision_config.hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.image_newline = nn.Parameter(torch.randn(width) * width**-0.5)
        self.post_init()

    @property
    def decoder(self):
        return self.model

    def tile_features(self, pixel_values: Tensor) -> Tensor:
        """Projected features of tiles [T, 3, pixels, pixels]: float [T, side * side, D], in reading order.

        The tower's last hidden state is taken as it is, before the norm that follows it (a published choice).
        """
        patches = self.vision_tower.embeddings(pixel_values.to(self.mm_projector[0].weight.dtype))
        return self.mm_projector(self.vision_tower.encoder(inputs_embeds=patches).last_hidden_state)

    def picture_features(self, pixel_values: Tensor, image_sizes: Tensor) -> list[Tensor]:
        """Picture tokens of every picture, float [tokens, D] each: the overview, then any detail row by row.

        Args:
            pixel_values: tiles of all pictures, overview first, float [T, 3, pixels, pixels].
            image_sizes: (height, width) of the original pictures, long [pictures, 2].

        Raises:
            ValueError: when the sizes call for another number of tiles.
        """
        plans = [self.picture_plan(height, width) for height, width in image_sizes.tolist()]
        counts = [plan.tile_count for plan in plans]
        if sum(counts) != len(pixel_values):
            raise ValueError(f"The pictures' sizes call for {sum(counts)} tiles; got {len(pixel_values)}.")
        features = self.tile_features(pixel_values).split(counts)
        return [
            torch.cat([tiles[0], self._detail(tiles[1:], plan)]) if len(tiles) > 1 else tiles[0]
            for tiles, plan in zip(features, plans, strict=True)
        ]

    def picture_plan(self, height: int, width: int) -> AnyresPlan:
        """How a picture of this size is cut into tiles and which tokens come out."""
        config = self.config
        tile = config.vision_config.image_size
        side = tile // config.vision_config.patch_size
        return plan_picture((width, height), config.image_aspect_ratio, config.image_grid_pinpoints, tile, side)

    def _detail(self, tiles: Tensor, plan: AnyresPlan) -> Tensor:
        """Features of the canvas [tiles, side * side, D] to tokens [rows * (columns + 1), D]."""
        (rows, columns), side = plan.tiles, plan.side
        canvas = tiles.view(rows, columns, side, side, -1).permute(4, 0, 2, 1, 3)
        canvas = canvas.reshape(-1, rows * side, columns * side)  # [D, H, W]
        top, left = plan.crop
        canvas = canvas[:, top : top + plan.cropped[0], left : left + plan.cropped[1]]
        if plan.detail != plan.cropped:
            canvas = functional.interpolate(canvas[None], plan.detail, mode="bilinear")[0]
        newline = self.image_newline.to(canvas.dtype)[:, None, None].expand(-1, canvas.shape[1], 1)
        return torch.cat([canvas, newline], dim=2).flatten(1).T

    def embed_inputs(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, image_sizes: Tensor | None = None
    ) -> Tensor:
        """Token embeddings with the pictures' features in place of their placeholders.

        Args:
            input_ids: long [B, L], `config.image_token_id` once per picture token.
            pixel_values, image_sizes: as in `picture_features`.

        Returns:
            float [B, L, D].

        Raises:
            ValueError: when placeholders and picture features differ in number.
        """
        if pixel_values is None:
            return self.token_embeds(input_ids)
        features = torch.cat(self.picture_features(pixel_values, image_sizes))
        return self.place_features(input_ids, features)

    def separate_pictures(
        self, pixel_values: Tensor | None = None, image_sizes: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """The inputs of each picture by itself; joined along their first axis they are those of all."""
        if image_sizes is None:
            return []
        return separate_tiles(pixel_values, image_sizes, [self.picture_plan(*size) for size in image_sizes.tolist()])


def separate_tiles(pixel_values: Tensor, image_sizes: Tensor, plans: list[AnyresPlan]) -> list[dict[str, Tensor]]:
    """The tiles and the size of each picture, of those of all pictures; `plans` say how many tiles each one has."""
    tiles = pixel_values.split([plan.tile_count for plan in plans])
    return [{"pixel_values": t, "image_sizes": s} for t, s in zip(tiles, image_sizes.split(1), strict=True)]
