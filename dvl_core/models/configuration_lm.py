"""Configuration of the second family, whose published `config.json` says nothing about its vision tower."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, Qwen2Config, SiglipVisionConfig

from ..processing.anyres import TILE_PIXELS, canvases
from .configuration import IMAGE_TOKEN_ID, BlockDiffusionFields

TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."
# SigLIP's attention heads by width: base, large, so400m, giant.
_HEADS = {768: 12, 1024: 16, 1152: 16, 1536: 16}
# SigLIP2-so400m-patch14-384 less its last layer: the tower of the published checkpoint.
_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26, "patch_size": 14}


@strict
class DiffusionVLQwenConfig(BlockDiffusionFields, Qwen2Config):
    r"""
    Configuration of `hustvl/DiffusionVL-Qwen2.5-7B`: a Qwen2.5 configuration plus a SigLIP2 tower, a projector, and
    what block diffusion adds (`BlockDiffusionFields`).

    vision_config (`dict` or `SiglipVisionConfig`, *optional*):
        The tower as stored, without the layer and the head that were removed. When absent it is read off the
        weights of a local folder, else it is SigLIP2-so400m-patch14-384.
    mm_hidden_size (`int`, *optional*, defaults to 1152):
        Width of the vision tower.
    mm_projector_type (`str`, *optional*, defaults to `"mlp2x_gelu"`):
        Kind of projector; this family has one.
    mm_patch_merge_type (`str`, *optional*, defaults to `"spatial_unpad"`):
        How the features of tiles become picture tokens; this family has one way.
    image_aspect_ratio (`str`, *optional*, defaults to `"anyres_max_4"`):
        `"anyres_max_N"` thins the detail of a picture out to about N tiles' worth of features; `"pad"` shows one view
        of it, padded to a square.
    image_grid_pinpoints (`list`, *optional*):
        Canvases of tiles to choose from, (width, height) in pixels; 1 x 1 to 6 x 6 tiles of 384 by default.
    image_token_id (`int`, *optional*, defaults to 151655):
        Id that holds the place of a picture token.
    """

    model_type = "diffusionvl_qwen"
    sub_configs_defaults: ClassVar = {"vision_config": SiglipVisionConfig}

    vision_config: dict | PreTrainedConfig | None = None
    mm_hidden_size: int = 1152
    mm_projector_type: str = "mlp2x_gelu"
    mm_patch_merge_type: str = "spatial_unpad"
    image_aspect_ratio: str = "anyres_max_4"
    image_grid_pinpoints: list | None = None
    image_token_id: int | None = IMAGE_TOKEN_ID

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = self._default_tower()
        if isinstance(self.vision_config, dict):
            self.vision_config = SiglipVisionConfig(**self.vision_config)
        if self.image_grid_pinpoints is None:
            self.image_grid_pinpoints = canvases(TILE_PIXELS)
        super().__post_init__(**kwargs)
        self._check()

    def _default_tower(self) -> dict[str, Any]:
        """The tower by its width alone, when neither the configuration nor the weights say more."""
        if self.mm_hidden_size == _SO400M["hidden_size"]:
            shape = _SO400M
        else:
            shape = _SO400M | {
                "hidden_size": self.mm_hidden_size,
                "intermediate_size": 4 * self.mm_hidden_size,
            }
        return tower_config(shape, self.hidden_size // self.num_attention_heads)

    def _check(self) -> None:
        if self.mm_projector_type != "mlp2x_gelu":
            raise ValueError(f'mm_projector_type must be "mlp2x_gelu"; got {self.mm_projector_type!r}.')
        if self.mm_patch_merge_type != "spatial_unpad":
            raise ValueError(f'mm_patch_merge_type must be "spatial_unpad"; got {self.mm_patch_merge_type!r}.')
        tile = self.vision_config.image_size
        if not self.image_grid_pinpoints or any(side % tile for canvas in self.image_grid_pinpoints for side in canvas):
            raise ValueError(f"image_grid_pinpoints must be multiples of the tower's {tile} pixels.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers; what the file leaves out about the tower is read off the weights of a local folder."""
        folder = kwargs.get("name_or_path")
        shape = stored_tower_shape(Path(folder)) if folder and config_dict.get("vision_config") is None else None
        if shape:
            head = config_dict["hidden_size"] // config_dict["num_attention_heads"]
            config_dict = config_dict | {"vision_config": tower_config(shape, head)}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in transformers."""
        kwargs.setdefault("name_or_path", str(pretrained_model_name_or_path))
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)


def tower_config(shape: dict[str, int], decoder_head: int) -> dict[str, Any]:
    """A SigLIP configuration without the pooling head, which the published model removes.

    The number of heads leaves no mark on the weights: it is SigLIP's own at SigLIP's widths, and otherwise makes
    the heads as wide as the decoder's.
    """
    heads = _HEADS.get(shape["hidden_size"]) or max(1, shape["hidden_size"] // decoder_head)
    return shape | {"num_attention_heads": heads, "image_size": TILE_PIXELS, "vision_use_head": False}


def stored_tower_shape(folder: Path) -> dict[str, int] | None:
    """Sizes of the tower in a folder's safetensors files, read from their headers; None when there is none."""
    shapes = {
        name.removeprefix(TOWER_PREFIX): entry["shape"]
        for file in sorted(folder.glob("*.safetensors"))
        for name, entry in _safetensors_header(file).items()
        if name.startswith(TOWER_PREFIX)
    }
    patches = shapes.get("embeddings.patch_embedding.weight")
    first = shapes.get("encoder.layers.0.mlp.fc1.weight")
    if not patches or not first:
        return None
    layers = {int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers.")}
    return {
        "hidden_size": patches[0],
        "intermediate_size": first[0],
        "num_hidden_layers": len(layers),
        "patch_size": patches[2],
    }


def _safetensors_header(file: Path) -> dict[str, Any]:
    """Names, types and shapes: a length of 8 bytes, little endian, then JSON. A damaged file says nothing."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                return {}
            return json.loads(stream.read(length))
    except (OSError, struct.error, ValueError):
        return {}
