"""Cheaper passes of the stock decoder.

A denoising step carries a handful of tokens through every layer, so a pass is bound by reading the weights. The modules
stay as they are; for the duration of a pass two things below them are done another way. On a CPU the weights are read
in the order in which its library (oneDNN) multiplies them. And attention takes the key-value heads as they are, where
the stock function repeats them for every query head. Numbers differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock, RLock
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

COPY_LIMIT = 2**30  # bytes of weights that may be copied into the CPU library's order
FEW = 8  # tokens for which that order is chosen
LEAST = 2**18  # numbers of a weight from which it pays: the call costs more than torch's own
NARROW = 256  # queries for which a mask is smaller than the keys
_ATTENTION = "dvl_lean_sdpa"
_EPSILON = "variance_epsilon"  # what norms that multiply by their weight as it is call it; Gemma's add 1 to theirs
_HELD: WeakKeyDictionary[nn.Module, tuple[tuple, LeanPass]] = WeakKeyDictionary()
_PASSES: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_MAKING = Lock()  # of an entry of `_PASSES`


class LeanPass:
    """The cheaper ways of one model, as its weights are now; see `lean_pass`.

    Args:
        ordered: whether weights may be copied into the CPU library's order.

    Attributes:
        head: hidden states [..., D] to logits [..., V].
    """

    def __init__(self, model, ordered: bool = True) -> None:
        linears = [m for m in (*model.decoder.layers.modules(), model.lm_head) if ordered and _can_order(m)]
        small = sum(linear.weight.numel() * linear.weight.element_size() for linear in linears) <= COPY_LIMIT
        ways = {linear: _ordered(linear) for linear in linears} if small else {}
        self.head: Callable[[Tensor], Tensor] = ways.pop(model.lm_head, model.lm_head)
        self.ways = [(linear.__dict__, way) for linear, way in ways.items()]

    @contextmanager
    def engaged(self, model) -> Iterator[None]:
        """For the pass inside."""
        with own_attention(model):
            for module, way in self.ways:
                module["forward"] = way
            try:
                yield
            finally:
                for module, _ in self.ways:
                    del module["forward"]


def one_pass(model) -> RLock:
    """Held by whoever changes a model for a pass, or looks at what is changed: other threads wait for its end."""
    with _MAKING:
        return _PASSES.setdefault(model, RLock())


@contextmanager
def own_attention(model) -> Iterator[None]:
    """The decoder's attention is `attend`, and tells a probe, for the pass inside."""
    with one_pass(model), model.attention_by(_ATTENTION):
        yield


@contextmanager
def fused_norms(model) -> Iterator[None]:
    """Each RMS norm of the decoder is one kernel, where the stock module takes eight, for the pass inside.

    Inside `own_attention`, which keeps other threads out.
    """
    norms = [m for m in model.decoder.modules() if type(m).__name__.endswith("RMSNorm") and hasattr(m, _EPSILON)]
    norms = [norm for norm in norms if norm.weight.dtype == model.dtype]
    try:
        for norm in norms:
            norm.__dict__["forward"] = partial(
                F.rms_norm, normalized_shape=norm.weight.shape, weight=norm.weight, eps=norm.variance_epsilon
            )
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _can_order(module: nn.Module) -> bool:
    """Whether a module is a plain linear layer whose weights the CPU's library takes in an order of its own, and large
    enough to gain by it."""
    if type(module) is not nn.Linear or "forward" in module.__dict__ or module.weight.numel() < LEAST:
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
    if torch.is_autocast_enabled("cpu"):  # inputs will be in another dtype than the weights
        return LeanPass(model, ordered=False)
    with one_pass(model):
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
    """Attention of queries [B, H, Q, d] to fewer key-value heads [B, H_kv, K, d]; [B, H, Q, d].

    Args:
        mask: bool [1 or B, 1, Q, K], True = may attend; float32 of that shape is added to the scores, and attention is
            then made of plain products, as a recorded pass wants it; None = everything may.
    """
    if mask is not None and mask.dtype == torch.float32:
        return _attend_plainly(query, keys, values, mask, scale)
    kind, share = query.device.type, query.shape[1] // keys.shape[1]
    takes_shared = kind == "cpu" or (kind == "cuda" and mask is None)  # elsewhere no fused kernel does
    if share > 1 and not takes_shared:
        if query.shape[2] <= NARROW:
            return _attend_folded(query, keys, values, mask, scale)
        keys, values, share = repeat_kv(keys, share), repeat_kv(values, share), 1
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale, enable_gqa=share > 1)


def _attend_folded(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The query heads that share a key-value head as further queries of it: the mask is repeated, keys are not."""
    share = query.shape[1] // keys.shape[1]
    folded = query.reshape(len(query), keys.shape[1], -1, query.shape[-1])
    mask = None if mask is None else mask.repeat(1, 1, share, 1)
    return F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale).reshape(query.shape)


def _attend_plainly(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Product, softmax, product: with few queries a fused kernel keeps only a few of a GPU's processors busy.

    Scores are float32: those of Qwen2.5 can be in the hundreds, where half precision has no fractions.
    """
    (rows, heads, queries, width), shared = query.shape, keys.shape[1]
    folded = query.to(torch.float32, memory_format=torch.contiguous_format).reshape(rows, shared, -1, width)
    scores = (folded @ keys.float().transpose(-1, -2)).view(rows, shared, heads // shared, queries, -1)
    weights = torch.add(bias[:, :, None], scores, alpha=scale).softmax(-1).to(values.dtype)
    return (weights.view(rows, shared, -1, keys.shape[2]) @ values).view(rows, heads, queries, width)


def _attention(module, query, key, value, attention_mask, attention_probe=None, scaling=None, **kwargs):
    """The stock interface of `attend`; the probe travels as a keyword of the forward pass."""
    if attention_probe is not None and module.layer_idx in attention_probe.layers:
        attention_probe.record(module.layer_idx, query, key, attention_mask, scaling)
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)
