"""Qwen2.5-VL to the published VL family (AR-VLM to dVLM)."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..models.configuration import DiffusionVLQwenVLConfig
from ..models.qwen_vl import DiffusionVLQwenVLForConditionalGeneration
from ..processing.qwen_vl import DiffusionVLQwenVLProcessor
from .family import Family
from .published import decoder_fields, own_fields, stored_dtype


def _fields(source: Any, tower: Any) -> dict[str, Any]:
    return {
        "mm_hidden_size": source.vision_config.hidden_size,
        "mm_patch_merge_type": "flat",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
    }


def _processor(pictures, tokenizer, config) -> DiffusionVLQwenVLProcessor:
    image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return DiffusionVLQwenVLProcessor(pictures, tokenizer, image_token=image_token)


def published_config(config: DiffusionVLQwenVLConfig) -> dict[str, Any]:
    """As in `hustvl/DiffusionVL-Qwen2.5VL-*`: the text fields stand at the top and again in `text_config`."""
    own = own_fields(config)
    text = decoder_fields(config.text_config) | stored_dtype(config)
    text |= {name: own[name] for name in ("eos_token_id", "tie_word_embeddings")}
    text.pop("model_type")
    vision = own_fields(config.vision_config) | {"model_type": "qwen2_5_vl"}
    vision.pop("rope_parameters", None)
    return own | text | {
        "architectures": ["DiffusionVL_Qwen2_5_VL_ForConditionalGeneration"],
        "text_config": text | {"model_type": "qwen2_5_vl_text"},
        "vision_config": vision,
    }  # fmt: skip


QWEN2_5_VL = Family(
    source_type="qwen2_5_vl",
    example="Qwen/Qwen2.5-VL-3B-Instruct",
    config=DiffusionVLQwenVLConfig,
    model=DiffusionVLQwenVLForConditionalGeneration,
    processor=DiffusionVLQwenVLProcessor,
    picture_processor=Qwen2VLImageProcessorPil,
    make_processor=_processor,
    source_names=(
        (r"visual\.", "model.visual."),
        (r"model\.(?=embed_tokens\.|layers\.|norm\.)", "model.language_model."),
    ),
    stock=Qwen2_5_VLForConditionalGeneration,
    config_fields=_fields,
    pixel_bounds=True,
    published_config=published_config,
)
