"""Decoding: one configuration, one loop per kind of model, and the strategies that choose what to unmask."""

from .canvas import Canvas
from .config import DecodingConfig
from .observe import Observe
from .step import DenoisingStep
from .strategies import STRATEGIES

__all__ = ["STRATEGIES", "Canvas", "DecodingConfig", "DenoisingStep", "Observe"]
