"""The model families. A new one is one file here (`qwen3_vl.py` is the pattern) and its line in `FAMILIES`.

The file holds the configuration class, the model class, the prompt, and a `Family` that says which autoregressive
checkpoints it is translated from. Loading, decoding, training, evaluation and translation need nothing else.
"""

from .family import Family
from .llava_onevision import LLAVA_ONEVISION
from .qwen2 import QWEN2
from .qwen2_5_vl import QWEN2_5_VL
from .qwen3_vl import QWEN3_VL

FAMILIES: tuple[Family, ...] = (QWEN2_5_VL, QWEN2, QWEN3_VL, LLAVA_ONEVISION)
MODEL_TYPES = tuple(family.config.model_type for family in FAMILIES)

__all__ = ["FAMILIES", "MODEL_TYPES", "Family"]
