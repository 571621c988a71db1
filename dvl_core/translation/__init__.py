"""An autoregressive checkpoint, rewritten as a block-diffusion one, and back. The command is `dvl_core.translate`."""

from .config import TranslationConfig, TranslationError
from .translate import Translation, translate

__all__ = ["Translation", "TranslationConfig", "TranslationError", "translate"]
