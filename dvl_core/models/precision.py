"""Which numbers a device multiplies fast, which slowly, and which wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


def flush_denormals() -> None:
    """Let numbers below the normal range count as 0, in this process and in threads that it starts from now on.

    Softmax leaves many such numbers, and a CPU multiplies them many times slower: with them the backward pass of
    attention takes most of a training step. Call it before the first tensor operation.
    """
    torch.set_flush_denormal(True)


@contextmanager
def without_cudnn_attention(length: int | None = None) -> Iterator[None]:
    """Train inside this: PyTorch's attention leaves cuDNN's kernels to others, and has its own.

    With a mask and a length of 64 more than a multiple of 128, cuDNN's backward pass gives queries a gradient that is
    not a number as soon as all of a row's scores are far below zero (seen on H100; torch 2.11 and later choose it by
    default). Also a decorator. Source: https://github.com/pytorch/pytorch/issues/196678.

    Args:
        length: of all sequences, where it is known: cuDNN's kernels, which are twice as fast, stay allowed if it is
            none of those.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before and length is not None and length % 128 != 64)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
