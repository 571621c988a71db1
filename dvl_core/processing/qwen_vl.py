"""The VL family's processor: conversation and pictures in, what `DiffusionVLQwenVL...` takes out.

The picture processor is the stock Qwen2-VL one in its PIL form (no torchvision, the same numbers everywhere).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PIL import Image
from transformers import AutoTokenizer
from transformers.configuration_utils import PreTrainedConfig
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from .base import ChatProcessor
from .conversation import QWEN_SYSTEM_PROMPT
from .images import PictureGrid, pad_to_square, picture_grid

CLIP_MEAN_COLOR = (122, 116, 104)


def resize_with_margin(picture: Image.Image, size: int, margin: int, color: tuple[int, ...]) -> Image.Image:
    """The picture on a square of `size` pixels with `margin` pixels of `color` on every side."""
    inner = size - 2 * margin
    resized = picture.resize((inner, inner), Image.Resampling.BICUBIC)
    if not margin:
        return resized
    framed = Image.new("RGB", (size, size), color)
    framed.paste(resized, (margin, margin))
    return framed


class DiffusionVLQwenVLProcessor(ChatProcessor):
    """Pictures as Qwen2.5-VL patches, each group of merge_size x merge_size patches one picture token.

    Args:
        image_processor: stock Qwen2-VL picture processor.
        tokenizer: a Qwen tokenizer, or any that has `<|im_start|>`, `<|im_end|>` and `image_token`.
        system_prompt: text of the system turn where a conversation has none of its own; None for no system turn.
        image_token: the token whose embedding a picture's features replace.
        max_prompt_tokens: longest prompt accepted, pictures included (the published models trained with 8192).
        pad_to_square: put the picture in the middle of a square first. The published configuration says "pad", but
            its inference does not, so this is off by default.
        pad_color: RGB of that padding.
        fixed_size: resize to exactly this many pixels a side (after padding) instead of to a number of pixels
            between the picture processor's bounds; a multiple of patch_size x merge_size.
        margin: of these, pixels of `pad_color` on every side. The vision tower's positions are relative, so in an
            empty picture nothing but an edge tells it where it is.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        system_prompt: str | None = QWEN_SYSTEM_PROMPT,
        image_token: str = "<|image_pad|>",
        max_prompt_tokens: int = 8192,
        pad_to_square: bool = False,
        pad_color: tuple[int, int, int] = CLIP_MEAN_COLOR,
        fixed_size: int | None = None,
        margin: int = 0,
    ):
        super().__init__(image_processor, tokenizer)
        self._set_options(system_prompt, image_token, max_prompt_tokens)
        factor = image_processor.patch_size * image_processor.merge_size
        if fixed_size is not None and (fixed_size < factor or fixed_size % factor):
            raise ValueError(f"fixed_size is {fixed_size}, it must be a positive multiple of {factor}")
        if margin and (fixed_size is None or not 0 <= 2 * margin < fixed_size):
            raise ValueError(f"margin is {margin}, it must be from 0 to half of fixed_size, which is {fixed_size}")
        if len(pad_color) != 3 or any(not 0 <= int(level) <= 255 for level in pad_color):
            raise ValueError(f"pad_color is {pad_color}, it must be three numbers from 0 to 255")
        self.pad_to_square = bool(pad_to_square)
        self.pad_color = [int(level) for level in pad_color]
        self.fixed_size = fixed_size
        self.margin = margin

    def process_pictures(self, pictures: list[Image.Image]) -> dict[str, Any]:
        """`pixel_values` float32 [patches of all pictures, 3 * 2 * patch_size^2] and `image_grid_thw` [pictures, 3].

        Args:
            pictures: at least one upright RGB picture (`open_image`).
        """
        if self.pad_to_square:
            pictures = [pad_to_square(picture, tuple(self.pad_color)) for picture in pictures]
        if self.fixed_size is not None:
            color = tuple(self.pad_color)
            pictures = [resize_with_margin(picture, self.fixed_size, self.margin, color) for picture in pictures]
        return dict(self.image_processor(images=pictures, do_resize=self.fixed_size is None, return_tensors="np"))

    def picture_lengths(self, features: dict[str, Any], pictures: list[Image.Image]) -> list[int]:
        """Picture tokens of each picture: its patches over merge_size^2."""
        return [int(t * h * w) // self.image_processor.merge_size**2 for t, h, w in features["image_grid_thw"]]

    def picture_grids(self, inputs: BatchFeature, sizes: list[tuple[int, int]]) -> list[PictureGrid]:
        """Where each picture's tokens lie on the original.

        Args:
            inputs: what `apply_chat_template` returned.
            sizes: (width, height) of the upright originals, in the order of the pictures.
        """
        merge = self.image_processor.merge_size
        grids = [
            picture_grid(size, (int(grid[1]), int(grid[2])), merge, self.pad_to_square, picture)
            for picture, (size, grid) in enumerate(zip(sizes, inputs["image_grid_thw"], strict=True))
        ]
        return [self._with_margin(grid) for grid in grids] if self.margin else grids

    def _with_margin(self, grid: PictureGrid) -> PictureGrid:
        """The grid lies over the margin too, so its box reaches outside the picture."""
        left, top, right, bottom = grid.box
        share = self.margin / (self.fixed_size - 2 * self.margin)
        x, y = share * (right - left), share * (bottom - top)
        return replace(grid, box=(left - x, top - y, right + x, bottom + y))

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        """[image_processor, tokenizer] of a folder or repository.

        A processor that this class saved is taken as it is. In the published layout the pixel bounds stand in the
        model's config.json, and override those of the picture processor's own file.
        """
        config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
        if (processor_dict or {}).get("processor_class") != cls.__name__:
            bounds = {name: config[name] for name in ("min_pixels", "max_pixels") if config.get(name)}
            kwargs = bounds | kwargs
        picture_kwargs = {name: value for name, value in kwargs.items() if name != "_from_auto"}
        try:
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(pretrained_model_name_or_path, **picture_kwargs)
        except OSError:  # no file of its own: the vision tower says what matters
            vision = config.get("vision_config", {})
            sizes = {"patch_size": vision.get("patch_size"), "temporal_patch_size": vision.get("temporal_patch_size"),
                     "merge_size": vision.get("spatial_merge_size")}  # fmt: skip
            sizes |= {name: kwargs.get(name) for name in ("min_pixels", "max_pixels")}
            image_processor = Qwen2VLImageProcessorPil(**{k: v for k, v in sizes.items() if v is not None})
        for name in ("min_pixels", "max_pixels"):
            kwargs.pop(name, None)
        return [image_processor, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)]
