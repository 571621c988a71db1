"""The decoder's pass under the mask of training: FlexAttention on CUDA, the dense mask elsewhere.

FlexAttention (arXiv 2412.05496, `torch.nn.attention.flex_attention`) evaluates the rule of `masks.may_attend` inside
its kernel and skips the tiles in which nobody sees anybody, so that no L x L mask is kept and no work is done for what
it hides. The decoder is the stock one; an attention function registered with transformers takes both kinds of mask.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from shutil import which
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .masks import Tokens, dense_mask, may_attend

Attention = Literal["auto", "dense", "flex"]
TILE = 128  # tokens per side of a tile of the block mask; sequences are padded to whole tiles
_STRIP = 8 * TILE  # queries whose part of the rule is looked at together while the tiles are found
_ATTENTION = "dvl_flex_or_sdpa"
# The first release whose kernels are trusted with gradients: https://github.com/pytorch/pytorch/issues/146260
_TRUSTED = (2, 7)


def run_under_rule(
    model: nn.Module, embeds: Tensor, tokens: Tokens, position_ids: Tensor, attention: Attention = "dense"
) -> Tensor:
    """One pass through the decoder under the rule of training.

    Args:
        model: one of the project's models (`run_decoder`, `decoder`).
        embeds: float [B, L, D].
        tokens: what the rule looks at, [B, L], `padding` given.
        position_ids: long [B, L].
        attention: see `takes_flex`.

    Returns:
        hidden states after the last norm, float [B, L, D].
    """
    if not takes_flex(model, embeds, attention):
        return model.run_decoder(embeds, dense_mask(tokens)[:, None], position_ids)
    length, pad = embeds.shape[1], -embeds.shape[1] % TILE
    # It stays: with gradient checkpointing the layers are called again in the backward pass, after this one.
    model.decoder.config._attn_implementation = _ATTENTION
    embeds, position_ids = F.pad(embeds, (0, 0, 0, pad)), F.pad(position_ids, (0, pad))
    return model.run_decoder(embeds, block_mask(pad_tokens(tokens, pad)), position_ids)[:, :length]


def takes_flex(model: nn.Module, embeds: Tensor, attention: Attention = "dense") -> bool:
    """Whether a pass is FlexAttention's; the only place that chooses.

    Args:
        model, embeds: of the pass.
        attention: "auto": on CUDA, where the kernels take the model, in half precision or under autocast (in float32
            they took two to five times as long as the dense mask on an H100); "flex": in float32 too, and on a CPU
            where there is no gradient (slow, for checks); "dense": never. What the kernels don't take goes the dense
            way under all three.
    """
    if attention == "dense" or not _has_kernels(embeds.device, attention):
        return False
    if attention == "auto" and embeds.dtype == torch.float32 and not torch.is_autocast_enabled(embeds.device.type):
        return False
    config = model.decoder.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        config._attn_implementation in ("sdpa", _ATTENTION)  # who asked for another one gets it
        and width in (16, 32, 64, 128, 256)
        and embeds.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not (model.training and getattr(config, "attention_dropout", 0.0))
    )  # fmt: skip


def _has_kernels(device: torch.device, attention: Attention) -> bool:
    if device.type == "cuda":
        return _can_compile() and torch.cuda.get_device_capability(device) >= (8, 0)
    return attention == "flex" and device.type == "cpu" and not torch.is_grad_enabled()


@cache
def _can_compile() -> bool:
    """Whether kernels can be made here: by Triton, which wants a C compiler, in a release that makes them well."""
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return release >= _TRUSTED and find_spec("triton") is not None and any(map(which, compilers))


def pad_tokens(tokens: Tokens, pad: int) -> Tokens:
    """`tokens` [B, L] with `pad` tokens of padding behind them, [B, L + pad]; `padding` must be given.

    Fields come back as int32 or bool and contiguous, so that every batch looks alike to a compiled kernel.
    """
    rows, length = tokens.block.shape
    fresh = torch.arange(length + 1, length + pad + 1, device=tokens.block.device).expand(rows, -1)
    padded = tokens.map(lambda field: F.pad(field, (0, pad)))._replace(padding=torch.cat([tokens.padding, fresh], 1))
    return padded.map(lambda field: (field if field.dtype == torch.bool else field.int()).contiguous())


def block_mask(tokens: Tokens) -> BlockMask:
    """The rule as FlexAttention takes it: which tiles are seen wholly, which in part, and the rule for the latter.

    Tiles are found a strip of queries at a time, so that memory grows with L, not with its square.

    Args:
        tokens: [B, L], L whole tiles.

    Returns:
        a block mask [B, 1, L, L].
    """
    length = tokens.block.shape[1]
    keys = tokens.map(lambda field: field[:, None, :])
    strips = []
    for start in range(0, length, _STRIP):
        queries = tokens.map(lambda field, at=slice(start, start + _STRIP): field[:, at, None])
        tiles = may_attend(queries, keys).unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE))
        strips.append(tiles.sum((2, 4)))
    seen = torch.cat(strips, 1)[:, None]  # pairs per tile, [B, 1, L / TILE, L / TILE]
    whole = seen == TILE * TILE

    def rule(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return may_attend(tokens.map(lambda field: field[row, query]), tokens.map(lambda field: field[row, key]))

    return BlockMask.from_kv_blocks(*_listed((seen > 0) & ~whole), *_listed(whole), BLOCK_SIZE=TILE, mask_mod=rule)


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Number of chosen tiles in every row of tiles, and their columns first in order: int32 [..., R], [..., R, C]."""
    order = tiles.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1, dtype=torch.int32), order.to(torch.int32)


@cache
def _kernel(device_type: str) -> Callable[..., Tensor]:
    """Compiled once per process; lengths become dynamic when a second one is seen. On a CPU as it is."""
    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention


def _attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """The stock interface; a dense mask, or none, goes to the stock function."""
    if not isinstance(attention_mask, BlockMask):
        kwargs |= {"dropout": dropout, "scaling": scaling}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # which knows the stock function, but not this one
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    output = _kernel(kind)(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=grouped)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)
