"""Which numbers a device multiplies fast."""

from __future__ import annotations

import torch


def fast_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32.

    A CPU without such instructions emulates bfloat16, at a fifth of float32's speed and less.
    """
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    known = (getattr(torch.cpu, name, None) for name in asked)
    return torch.bfloat16 if any(ask() for ask in known if ask) else torch.float32
