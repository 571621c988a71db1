"""Registers every family with the Auto classes of transformers. A new family is added here."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .models import DiffusionVLQwenVLConfig, DiffusionVLQwenVLForConditionalGeneration
from .models.checkpoint import register_layout
from .models.configuration_lm import DiffusionVLQwenConfig
from .models.qwen_lm import DiffusionVLQwenForConditionalGeneration
from .processing import DiffusionVLQwenProcessor, DiffusionVLQwenVLProcessor
from .processing.auto import register_processor


def register() -> None:
    """Make configurations, processors and models loadable through their Auto classes; importing `dvl_core` does."""
    for config, processor, model in (
        (DiffusionVLQwenVLConfig, DiffusionVLQwenVLProcessor, DiffusionVLQwenVLForConditionalGeneration),
        (DiffusionVLQwenConfig, DiffusionVLQwenProcessor, DiffusionVLQwenForConditionalGeneration),
    ):
        register_layout(model)
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoProcessor.register(config, processor, exist_ok=True)
        register_processor(config.model_type, processor)
        AutoModelForImageTextToText.register(config, model, exist_ok=True)
