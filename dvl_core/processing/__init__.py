"""Pictures and conversations, made into model inputs: one processor per model family."""

from .conversation import ConversationError
from .images import ImageError, ImageLimits, PictureGrid, open_image, pad_to_square, picture_grid
from .qwen_lm import DiffusionVLQwenProcessor
from .qwen_vl import DiffusionVLQwenVLProcessor

__all__ = [
    "ConversationError",
    "DiffusionVLQwenProcessor",
    "DiffusionVLQwenVLProcessor",
    "ImageError",
    "ImageLimits",
    "PictureGrid",
    "open_image",
    "pad_to_square",
    "picture_grid",
]
