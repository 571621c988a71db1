"""The vision tower on a batch of equal pictures, for training speed.

The stock tower attends to one picture at a time in a Python loop, because pictures may differ in size. Training
pictures of the bundled model are all equal, so here the same weights see them as one batch. A test holds both paths
to the same features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision


def patchify(pictures: Tensor, patch: int, merge: int, temporal: int, mean: Tensor, std: Tensor) -> Tensor:
    """RGB bytes to the tower's input rows, in the order that Qwen2-VL's image processor uses.

    Args:
        pictures: uint8 [B, S, S, 3].
        patch, merge, temporal: sizes of the vision config.
        mean, std: per channel, [3].

    Returns:
        float32 [B, (S / patch)^2, 3 * temporal * patch^2]; with `temporal` = 1 the repeated frame is left out.
    """
    batch, side = pictures.shape[:2]
    grid = side // patch
    x = ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    x = x.reshape(batch, 3, grid // merge, merge, patch, grid // merge, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [B, gh, gw, mh, mw, C, P, P]
    x = x[:, :, :, :, :, :, None].expand(*x.shape[:6], temporal, patch, patch)
    return x.reshape(batch, grid * grid, 3 * temporal * patch * patch)


def patch_positions(grid: int, merge: int, device: torch.device | None = None) -> Tensor:
    """Row and column of every patch, in the order of `patchify`. Returns int64 [grid^2, 2]."""
    side = torch.arange(grid, device=device)
    rows, columns = torch.meshgrid(side, side, indexing="ij")
    pair = torch.stack([rows, columns]).reshape(2, grid // merge, merge, grid // merge, merge)
    return pair.permute(0, 1, 3, 2, 4).reshape(2, -1).T.contiguous()


def picture_block(block: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One block of the stock tower with full attention over each picture of a batch, [B, N, D] -> [B, N, D]."""
    x = x + _attend(block.attn, block.norm1(x), cos, sin)
    return x + block.mlp(block.norm2(x))


def picture_features(visual: nn.Module, rows: Tensor, positions: Tensor, through: Callable = picture_block) -> Tensor:
    """Features of a batch of equal pictures; every block with full attention.

    Args:
        visual: the stock Qwen2.5-VL vision tower, its windows as large as the picture.
        rows: [B, N, 3 * patch^2] from `patchify` with `temporal` = 1.
        positions: [N, 2] from `patch_positions`.
        through: `picture_block`, or a compiled form of it.

    Returns:
        [B, N / merge^2, width of the language model].
    """
    batch, count = rows.shape[:2]
    kernel = visual.patch_embed.proj.weight.sum(2)  # a picture is the same frame `temporal` times
    x = F.linear(rows, kernel.flatten(1))  # a stride as large as the kernel makes the convolution a product
    cos, sin = visual.rotary_pos_emb(x, positions)
    for block in visual.blocks:
        x = through(block, x, cos, sin)
    return visual.merger(x).view(batch, count // visual.spatial_merge_unit, -1)


def _attend(attention: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    batch, count, width = x.shape
    query, key, value = attention.qkv(x).view(batch, count, 3, attention.num_heads, -1).unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
    return attention.proj(mixed.transpose(1, 2).reshape(batch, count, width))
