"""Stock transformers backbones, kept intact, made to denoise; the published checkpoints load here."""

from transformers import AutoConfig, AutoModelForImageTextToText

from . import qwen_vl
from .configuration import DiffusionVLQwenVLConfig
from .qwen_vl import DiffusionVLQwenVLForConditionalGeneration

__all__ = ["DiffusionVLQwenVLConfig", "DiffusionVLQwenVLForConditionalGeneration"]


def register() -> None:
    """Register both families with the Auto classes; importing `dvl_core` does this."""
    qwen_vl.register()
    AutoConfig.register(DiffusionVLQwenVLConfig.model_type, DiffusionVLQwenVLConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        DiffusionVLQwenVLConfig, DiffusionVLQwenVLForConditionalGeneration, exist_ok=True
    )
