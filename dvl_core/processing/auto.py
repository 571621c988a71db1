"""Makes `AutoProcessor` choose by the model's type where the published files name another processor.

The published repositories name a processor of their remote code, or the stock Qwen one that they were made from, in
preprocessor_config.json. `AutoProcessor` believes that name before it looks at the model's type, and would load the
wrong class or ask to run remote code. For model types registered here, and for no others, the type decides.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from transformers import AutoProcessor
from transformers.configuration_utils import PreTrainedConfig

_BY_MODEL_TYPE: dict[str, type] = {}
# Arguments of AutoProcessor that choose a class, and mean nothing to the class itself.
_CHOOSING = ("trust_remote_code", "code_revision", "use_fast", "backend", "config")


def register_processor(model_type: str, processor_class: type) -> None:
    """Let `AutoProcessor.from_pretrained` give `processor_class` for checkpoints of this model type."""
    _BY_MODEL_TYPE[model_type] = processor_class
    original = AutoProcessor.from_pretrained
    if getattr(original, "chooses_by_model_type", False):
        return

    @wraps(original)
    def from_pretrained(pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        processor_class = _BY_MODEL_TYPE.get(_model_type(pretrained_model_name_or_path, kwargs))
        if processor_class is None:
            return original(pretrained_model_name_or_path, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in _CHOOSING}
        return processor_class.from_pretrained(pretrained_model_name_or_path, **kwargs)

    from_pretrained.chooses_by_model_type = True
    AutoProcessor.from_pretrained = from_pretrained


def _model_type(pretrained_model_name_or_path: Any, kwargs: dict[str, Any]) -> str | None:
    config = kwargs.get("config")
    if config is not None:
        return getattr(config, "model_type", None)
    try:
        return PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)[0].get("model_type")
    except (OSError, ValueError):  # no model configuration there: nothing of ours
        return None
