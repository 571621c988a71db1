"""What is measured: random models in the shapes that the benchmark speaks of, or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models import DiffusionVLQwenVLConfig, DiffusionVLQwenVLForConditionalGeneration
from ..models.loading import check_folder, load_model


@dataclass(frozen=True)
class Size:
    """Shape of a decoder: width, MLP width, layers, heads, key-value heads, vocabulary, tied embeddings."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False


SIZES = {
    "1m": Size(128, 352, 4, 4, 2, 512),
    "58m": Size(512, 1536, 8, 8, 2, 32768),
    "3b": Size(2048, 11008, 36, 16, 2, 151936, tied=True),
    "7b": Size(3584, 18944, 28, 28, 4, 152064),
}


def check_size(size: str) -> None:
    """Refuse what is neither the name of a size nor a checkpoint folder. Raises ValueError."""
    if size not in SIZES and not Path(size).is_dir():
        raise ValueError(f"size must be one of {', '.join(SIZES)}, or a checkpoint folder; got {size!r}.")
    if size not in SIZES:
        check_folder(size)


def sized_model(size: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A random model of that size, or the checkpoint of that folder; its answers never end by themselves.

    Raises:
        ValueError: for neither, and for an autoregressive checkpoint.
    """
    check_size(size)
    if size in SIZES:
        return random_model(size, device, dtype)
    model, _ = load_model(size, str(device), dtype)
    if not model.config.enable_bd3lm:
        raise ValueError(f"size: {size} is an autoregressive checkpoint; give a block-diffusion one.")
    model.config.eos_token_id = -1  # no token: every answer has its full length
    return model


def random_ids(model, rows: int, tokens: int) -> Tensor:
    """Ids of a prompt, long [rows, tokens]; none holds a picture's place."""
    ids = torch.randint(1, model.config.get_text_config().vocab_size - 3, (rows, tokens), device=model.device)
    return ids.masked_fill(ids == model.config.image_token_id, 1)


@torch.no_grad()
def random_model(name: str, device: torch.device, dtype: torch.dtype) -> DiffusionVLQwenVLForConditionalGeneration:
    """A model of a size of `SIZES` with random weights, made on the device; its answers never end by themselves."""
    size = SIZES[name]
    width = size.hidden // size.heads // 2
    sections = [width // 4, width - width // 4 - width // 3, width // 3]
    special = {"eos_token_id": size.vocabulary - 1, "mask_token_id": size.vocabulary - 2}
    config = DiffusionVLQwenVLConfig(
        text_config=dict(
            vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.intermediate,
            num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
            max_position_embeddings=32768, bos_token_id=None, eos_token_id=special["eos_token_id"], pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
        ),
        vision_config=dict(
            depth=1, hidden_size=64, intermediate_size=64, num_heads=2, patch_size=14, out_hidden_size=size.hidden,
            fullatt_block_indexes=[0],
        ),
        tie_word_embeddings=size.tied, image_token_id=size.vocabulary - 3, enable_bd3lm=True, bd3lm_block_size=8,
        **special,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = DiffusionVLQwenVLForConditionalGeneration._from_config(config, dtype=dtype).eval()
    model.lm_head.weight[special["eos_token_id"]] = 0  # never the likeliest: every answer has its full length
    return model


def weight_bytes(model) -> int:
    """Bytes of weights that a forward pass of the decoder reads: layers, last norm and head."""
    return sum(p.numel() * p.element_size() for p in [*model.decoder.layers.parameters(), *model.lm_head.parameters()])
