"""A configuration as published checkpoints have it, so that code written for them and for older releases reads it."""

from __future__ import annotations

from typing import Any

# What transformers writes into every configuration and the published files do not have, or have under another name.
_EVERYWHERE = (
    "transformers_version", "output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward",
    "is_encoder_decoder", "id2label", "label2id", "problem_type", "_name_or_path", "architectures", "dtype",
    "text_config", "vision_config",
)  # fmt: skip


def own_fields(config: Any) -> dict[str, Any]:
    """The fields of one configuration, without its parts' and without what every configuration repeats."""
    return {name: value for name, value in config.to_dict().items() if name not in _EVERYWHERE}


def decoder_fields(config: Any) -> dict[str, Any]:
    """A decoder's fields, its rotary embedding as before transformers 5: `rope_theta` and `rope_scaling`."""
    fields = own_fields(config)
    rope = dict(fields.pop("rope_parameters"))
    fields["rope_theta"] = rope.pop("rope_theta")
    fields["rope_scaling"] = rope | {"type": rope["rope_type"]} if rope != {"rope_type": "default"} else None
    return fields | stored_dtype(config)


def stored_dtype(config: Any) -> dict[str, str]:
    """`torch_dtype`, as releases before 4.56 call it; nothing when the configuration does not say."""
    dtype = config.to_dict().get("dtype")
    return {"torch_dtype": dtype} if dtype else {}
