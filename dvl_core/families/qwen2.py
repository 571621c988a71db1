"""A Qwen2 or Qwen2.5 language model and a SigLIP tower to the published LM family (AR-LM to dVLM).

Published choices: the tower loses its last layer and its pooling head; projector and newline begin at random.
"""

from __future__ import annotations

from typing import Any

from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from ..models.configuration_lm import DiffusionVLQwenConfig
from ..models.qwen_lm import DiffusionVLQwenForConditionalGeneration
from ..processing.anyres import canvases
from ..processing.qwen_lm import DiffusionVLQwenProcessor
from .family import Family
from .published import decoder_fields, own_fields


def _fields(source: Any, tower: Any) -> dict[str, Any]:
    vision = tower.to_dict() | {"num_hidden_layers": tower.num_hidden_layers - 1, "vision_use_head": False}
    return {
        "vision_config": vision,
        "mm_hidden_size": tower.hidden_size,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_newline_position": "grid",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_grid_pinpoints": canvases(tower.image_size),
    }


def _processor(pictures, tokenizer, config) -> DiffusionVLQwenProcessor:
    return DiffusionVLQwenProcessor(
        pictures,
        tokenizer,
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        patch_size=config.vision_config.patch_size,
        image_aspect_ratio=config.image_aspect_ratio,
        image_grid_pinpoints=config.image_grid_pinpoints,
    )


def published_config(config: DiffusionVLQwenConfig) -> dict[str, Any]:
    """As in `hustvl/DiffusionVL-Qwen2.5-7B`: flat Qwen2 fields; other code skips `vision_config`, ours reads it."""
    architectures = {"architectures": ["DiffusionVLQwenForCausalLM"]}
    return architectures | decoder_fields(config) | {"vision_config": own_fields(config.vision_config)}


QWEN2 = Family(
    source_type="qwen2",
    example="Qwen/Qwen2.5-7B-Instruct with --vision-tower google/siglip2-so400m-patch14-384",
    config=DiffusionVLQwenConfig,
    model=DiffusionVLQwenForConditionalGeneration,
    processor=DiffusionVLQwenProcessor,
    picture_processor=SiglipImageProcessorPil,
    make_processor=_processor,
    image_token="<|image_pad|>",
    config_fields=_fields,
    needs_tower=True,
    fresh=("mm_projector.", "image_newline"),
    published_config=published_config,
)
