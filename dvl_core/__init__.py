"""DiffusionVL: autoregressive vision-language models translated into block-diffusion ones.

Importing this package registers the published families with the Auto classes of transformers. Without torch
only `dvl_core.trace` is there, which is all that drawing a recorded run needs.
"""

import importlib.util

from .trace import DenoisingTrace

__all__ = ["DenoisingTrace"]

if importlib.util.find_spec("torch") is not None:
    from . import auto
    from .decoding import Canvas, DecodingConfig, DenoisingStep, Observe
    from .models.loading import load_model

    auto.register()
    __all__ += ["Canvas", "DecodingConfig", "DenoisingStep", "Observe", "load_model"]
