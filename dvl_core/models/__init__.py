"""Stock transformers backbones, kept intact, made to denoise; the published checkpoints load here."""

from .configuration import DiffusionVLQwenVLConfig
from .qwen_vl import DiffusionVLQwenVLForConditionalGeneration

__all__ = ["DiffusionVLQwenVLConfig", "DiffusionVLQwenVLForConditionalGeneration"]
