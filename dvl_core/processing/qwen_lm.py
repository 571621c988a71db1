"""The second family's processor: conversation and pictures in, what `DiffusionVLQwen...` takes out.

Pictures become tiles (`anyres`); the stock SigLIP picture processor, in its PIL form, normalises them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoTokenizer
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from .anyres import PAD, TILE_PIXELS, AnyresPlan, canvases, cut_tiles, detail_box, max_detail_tiles, plan_picture
from .base import ChatProcessor
from .conversation import QWEN_SYSTEM_PROMPT
from .images import PictureGrid, pad_to_square, picture_grid


class DiffusionVLQwenProcessor(ChatProcessor):
    """Pictures as an overview and a canvas of tiles, or as one padded square, for SigLIP2.

    Args:
        image_processor: stock SigLIP picture processor; its size is the size of a tile.
        tokenizer: a Qwen tokenizer, or any that has `<|im_start|>`, `<|im_end|>` and `image_token`.
        system_prompt: text of the system turn where a conversation has none of its own; None for no system turn.
        image_token: the token whose embedding a picture's features replace.
        max_prompt_tokens: longest prompt accepted, pictures included (the published model trained with 8192).
        patch_size: pixels per side of a vision patch.
        image_aspect_ratio: "anyres_max_N" keeps about N tiles' worth of detail, "anyres" all of it; "pad" shows one
            view only, padded to a square with the picture processor's mean colour.
        image_grid_pinpoints: canvases to choose from, (width, height) in pixels, multiples of a tile; 1 x 1 to
            6 x 6 tiles when None.
    """

    picture_processor = SiglipImageProcessorPil
    plan_decimals: int | None = None  # see `plan_anyres`

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        system_prompt: str | None = QWEN_SYSTEM_PROMPT,
        image_token: str = "<|image_pad|>",
        max_prompt_tokens: int = 8192,
        patch_size: int = 14,
        image_aspect_ratio: str = "anyres_max_4",
        image_grid_pinpoints: list[list[int]] | None = None,
    ):
        super().__init__(image_processor, tokenizer)
        self._set_options(system_prompt, image_token, max_prompt_tokens)
        if image_aspect_ratio != PAD:
            max_detail_tiles(image_aspect_ratio)  # refuses what is not anyres
        self.patch_size = patch_size
        self.image_aspect_ratio = image_aspect_ratio
        tile = self.tile
        if image_grid_pinpoints is None:
            image_grid_pinpoints = canvases(tile)
        if not image_grid_pinpoints or any(side < tile or side % tile for xy in image_grid_pinpoints for side in xy):
            raise ValueError(f"image_grid_pinpoints must be multiples of the tile's {tile} pixels")
        self.image_grid_pinpoints = [list(canvas) for canvas in image_grid_pinpoints]

    @property
    def tile(self) -> int:
        """Pixels per side of a tile."""
        return self.image_processor.size["height"]

    def plan(self, size: tuple[int, int]) -> AnyresPlan:
        """Tiles and tokens of a picture of (width, height) pixels."""
        side = self.tile // self.patch_size
        settings = (self.image_aspect_ratio, self.image_grid_pinpoints, self.tile, side, self.plan_decimals)
        return plan_picture(size, *settings)

    def square_view(self, picture: Image.Image) -> Image.Image:
        """The one view of a picture treated as "pad": tile x tile pixels."""
        around = tuple(int(255 * mean) for mean in self.image_processor.image_mean)
        return pad_to_square(picture, around).resize((self.tile, self.tile), Image.Resampling.BICUBIC)

    def process_pictures(self, pictures: list[Image.Image]) -> dict[str, Any]:
        """`pixel_values` float32 [tiles of all pictures, 3, tile, tile] and `image_sizes` [pictures, 2].

        Args:
            pictures: at least one upright RGB picture (`open_image`); `image_sizes` holds its (height, width).
        """
        if self.image_aspect_ratio == PAD:
            tiles = [self.square_view(picture) for picture in pictures]
        else:
            tiles = [tile for picture in pictures for tile in cut_tiles(picture, self.plan(picture.size), self.tile)]
        values = self.image_processor(images=tiles, do_resize=False, return_tensors="np")["pixel_values"]
        sizes = np.array([(picture.height, picture.width) for picture in pictures], dtype=np.int64)
        return {"pixel_values": values, "image_sizes": sizes}

    def picture_lengths(self, features: dict[str, Any], pictures: list[Image.Image]) -> list[int]:
        """Picture tokens of each picture: overview, and detail with its newlines."""
        return [self.plan(picture.size).tokens for picture in pictures]

    def picture_grids(self, inputs: BatchFeature, sizes: list[tuple[int, int]]) -> list[PictureGrid]:
        """Where the picture tokens lie on the originals: two grids per picture, its overview and its detail.

        The detail's last column is its newlines, which lie to the right of the picture. "pad" has one grid per picture.

        Args:
            inputs: what `apply_chat_template` returned; not needed here, since the sizes say it all.
            sizes: (width, height) of the upright originals, in the order of the pictures.
        """
        grids = []
        for picture, size in enumerate(sizes):
            plan = self.plan(size)
            if self.image_aspect_ratio == PAD:
                grids.append(picture_grid(size, (plan.side, plan.side), 1, square=True, picture=picture))
                continue
            left, top, right, bottom = detail_box(size, plan, self.tile)
            rows, columns = plan.detail
            grids.append(PictureGrid(plan.side, plan.side, (0.0, 0.0, float(size[0]), float(size[1])), picture))
            right += (right - left) / columns
            grids.append(PictureGrid(rows, columns + 1, (left, top, right, bottom), picture))
        return grids

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in transformers; where no processor was saved, the settings for pictures are the model's config.json's."""
        saved, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if saved.get("processor_class") == cls.__name__:
            return saved, kwargs
        config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
        vision = config.get("vision_config") or {}
        tile = vision.get("image_size", TILE_PIXELS)
        settings = {name: config.get(name) for name in ("image_aspect_ratio", "image_grid_pinpoints")}
        settings |= {
            "patch_size": vision.get("patch_size"),
            "image_processor": {"size": {"height": tile, "width": tile}},
        }
        return saved | {name: value for name, value in settings.items() if value is not None}, kwargs

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        """[image_processor, tokenizer] of a folder or repository."""
        settings = {
            key: value for key, value in processor_dict["image_processor"].items() if key != "image_processor_type"
        }
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return [cls.picture_processor(**settings), tokenizer]
