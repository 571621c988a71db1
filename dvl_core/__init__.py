"""DiffusionVL: autoregressive vision-language models translated into block-diffusion ones.

Importing this package registers the published families with the Auto classes of transformers. Without torch
only `dvl_core.trace` is there, which is all that drawing a recorded run needs.
"""

from .trace import DenoisingTrace

__all__ = ["DenoisingTrace"]
