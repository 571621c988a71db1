"""Registers every family of `dvl_core.families` with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .families import FAMILIES
from .models.checkpoint import register_layout
from .processing.auto import register_processor


def register() -> None:
    """Make configurations, processors and models loadable through their Auto classes; importing `dvl_core` does."""
    for family in FAMILIES:
        register_layout(family.model)
        AutoConfig.register(family.config.model_type, family.config, exist_ok=True)
        AutoProcessor.register(family.config, family.processor, exist_ok=True)
        register_processor(family.config.model_type, family.processor)
        AutoModelForImageTextToText.register(family.config, family.model, exist_ok=True)
