"""The small model of the experiments: the VL family's architecture with a million weights."""

from __future__ import annotations

from PIL import Image

from ..models.configuration import DiffusionVLQwenVLConfig
from ..models.qwen_vl import DiffusionVLQwenVLForConditionalGeneration
from ..processing.qwen_vl import DiffusionVLQwenVLProcessor
from ..tinyworld.pictures import CANVAS
from ..tinyworld.tokenizer import MASK, PICTURE, TURN_END
from ..training.bundled import bundled_processor
from ..training.data import framed
from ..training.stages import CPU

PATCH, MERGE = 16, 2
PICTURE_TOKENS = (CANVAS // PATCH // MERGE) ** 2
BLOCK = 8
WIDTH, LAYERS, VISION_WIDTH, VISION_LAYERS = 96, 4, 96, 2


def small_config(tokenizer) -> DiffusionVLQwenVLConfig:
    """128 x 128 pictures in 64 patches of 16 pixels, four to a picture token; a decoder of four layers."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (MASK, PICTURE, TURN_END)}
    return DiffusionVLQwenVLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 256,
            "num_hidden_layers": LAYERS, "num_attention_heads": 3, "num_key_value_heads": 3,
            "max_position_embeddings": 2048, "tie_word_embeddings": True, "bos_token_id": None,
            "eos_token_id": ids[TURN_END], "pad_token_id": tokenizer.pad_token_id, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": VISION_LAYERS, "hidden_size": VISION_WIDTH, "intermediate_size": 192, "num_heads": 3,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2, "window_size": CANVAS,
            "out_hidden_size": WIDTH, "fullatt_block_indexes": list(range(VISION_LAYERS)),
        },
        tie_word_embeddings=True, eos_token_id=ids[TURN_END], image_token_id=ids[PICTURE], mask_token_id=ids[MASK],
        enable_bd3lm=True, bd3lm_block_size=BLOCK, bd3lm_sampling_eps_min=0.1, min_pixels=CANVAS**2,
        max_pixels=CANVAS**2, image_aspect_ratio="pad",
    )  # fmt: skip


def small_model(tokenizer) -> DiffusionVLQwenVLForConditionalGeneration:
    """A model with random weights (of torch's current seed)."""
    config = small_config(tokenizer)
    config._attn_implementation = CPU.attention
    return DiffusionVLQwenVLForConditionalGeneration(config)


def small_processor(tokenizer) -> DiffusionVLQwenVLProcessor:
    """Its processor."""
    return bundled_processor(tokenizer, PATCH, CANVAS)


def small_view(image: Image.Image) -> Image.Image:
    """What it sees of a picture: 128 x 128 pixels."""
    return framed(image, CANVAS)
