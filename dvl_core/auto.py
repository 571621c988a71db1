"""Registers every family with the Auto classes of transformers. A new family is added here."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .models import DiffusionVLQwenVLConfig, DiffusionVLQwenVLForConditionalGeneration, qwen_vl
from .processing import DiffusionVLQwenVLProcessor


def register() -> None:
    """Make configurations, processors and models loadable through their Auto classes; importing `dvl_core` does."""
    qwen_vl.register()
    for config, processor, model in (
        (DiffusionVLQwenVLConfig, DiffusionVLQwenVLProcessor, DiffusionVLQwenVLForConditionalGeneration),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoProcessor.register(config, processor, exist_ok=True)
        AutoModelForImageTextToText.register(config, model, exist_ok=True)
