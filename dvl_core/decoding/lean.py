"""Cheaper passes of the stock decoder.

A denoising step carries a handful of tokens through every layer, so a pass is bound by reading the weights. The modules
stay as they are; for the duration of a pass two things below them are done another way. On a CPU the weights are read
in the order in which its library (oneDNN) multiplies them. And attention takes the key-value heads as they are, where
the stock function repeats them for every query head. Numbers differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

COPY_LIMIT = 2**30  # bytes of weights that may be copied into the CPU library's order
FEW = 8  # tokens for which that order is chosen
NARROW = 256  # queries of a key-value head that are few to a GPU
_ATTENTION = "dvl_lean_sdpa"
_HELD: WeakKeyDictionary[nn.Module, tuple[tuple, LeanPass]] = WeakKeyDictionary()


class LeanPass:
    """The cheaper ways of one model, as its weights are now; see `lean_pass`.

    Attributes:
        head: hidden states [..., D] to logits [..., V].
    """

    def __init__(self, model) -> None:
        linears = [module for module in (*model.decoder.layers.modules(), model.lm_head) if _can_order(module)]
        small = sum(linear.weight.numel() * linear.weight.element_size() for linear in linears) <= COPY_LIMIT
        ways = {linear: _ordered(linear) for linear in linears} if small else {}
        self.head: Callable[[Tensor], Tensor] = ways.pop(model.lm_head, model.lm_head)
        self.ways = [(linear.__dict__, way) for linear, way in ways.items()]

    @contextmanager
    def engaged(self, model) -> Iterator[None]:
        """For the pass inside."""
        for module, way in self.ways:
            module["forward"] = way
        try:
            with own_attention(model):
                yield
        finally:
            for module, _ in self.ways:
                del module["forward"]


@contextmanager
def own_attention(model) -> Iterator[None]:
    """The decoder's attention is `attend`, and tells a probe, for the pass inside."""
    config = model.decoder.config
    before, config._attn_implementation = config._attn_implementation, _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def _can_order(module: nn.Module) -> bool:
    """Whether a module is a plain linear layer whose weights the CPU's library takes in an order of its own."""
    if type(module) is not nn.Linear or "forward" in module.__dict__:
        return False
    mkldnn, weight = torch.ops.mkldnn, module.weight
    known = hasattr(mkldnn, "_reorder_linear_weight") and hasattr(mkldnn, "_linear_pointwise")
    return known and torch.backends.mkldnn.enabled and weight.device.type == "cpu" and weight.dtype == torch.float32


def _ordered(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer's forward pass on a copy of its weights."""
    weight, bias = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), FEW), linear.bias
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, weight, bias, "none", [], "")


def lean_pass(model) -> LeanPass:
    """The lean pass of a model. It lives as long as the model, and is made anew after weights have changed."""
    state = _state(model)
    held = _HELD.get(model)
    if held is None or held[0] != state:
        with torch.no_grad():
            held = _HELD[model] = (state, LeanPass(model))
    return held[1]


def _state(model) -> tuple:
    """Which weights can be copied, and in which version. Changes through `.data`, as by merging adapters, have no
    version, so a few numbers of every weight are looked at too."""
    weights = [m.weight for m in (*model.decoder.layers.modules(), model.lm_head) if _can_order(m)]
    if not weights:
        return ()
    seen = torch.stack([w.detach().flatten()[:: max(1, w.numel() // 16)].sum() for w in weights])
    return (*((weight.data_ptr(), weight._version) for weight in weights), *seen.tolist())


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of queries [B, H, Q, d] to fewer key-value heads [B, H_kv, K, d] under a boolean mask; [B, H, Q, d]."""
    kind, rows, queries = query.device.type, query.shape[0], query.shape[2]
    share = query.shape[1] // keys.shape[1]
    if kind == "cuda" and mask is not None and rows == 1 and share * queries <= NARROW:
        return _folded(_attend_plainly, query, keys, values, mask, scale)
    if share == 1 or kind == "cpu" or (kind == "cuda" and mask is None):  # elsewhere no fused kernel takes shared heads
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale, enable_gqa=share > 1)
    if queries <= NARROW:
        return _folded(_attend_fused, query, keys, values, mask, scale)
    keys, values = repeat_kv(keys, share), repeat_kv(values, share)  # smaller than the mask for every head
    return _attend_fused(query, keys, values, mask, scale)


def _folded(way: Callable[..., Tensor], query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None,
            scale: float) -> Tensor:  # fmt: skip
    """Attention `way`, in which the query heads that share a key-value head are further queries of that head."""
    rows, heads, queries, width = query.shape
    share = heads // keys.shape[1]
    folded = query.reshape(rows, -1, share * queries, width)
    if mask is not None:
        mask = mask.repeat(1, 1, share, 1)
    return way(folded, keys, values, mask, scale).reshape(rows, heads, queries, width)


def _attend_fused(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)


def _attend_plainly(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Product, softmax, product. A fused kernel keeps a few of a GPU's processors busy when there are few queries.

    Scores are float32: those of Qwen2.5 can be in the hundreds, where half precision has no fractions.
    """
    scores = (query.float() * scale) @ keys.float().transpose(-1, -2)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return weights.to(values.dtype) @ values


def _attention(module, query, key, value, attention_mask, attention_probe=None, scaling=None, **kwargs):
    """The stock interface of `attend`; the probe travels as a keyword of the forward pass."""
    if attention_probe is not None and module.layer_idx in attention_probe.layers:
        attention_probe.record(module.layer_idx, query, key, attention_mask, scaling)
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)
