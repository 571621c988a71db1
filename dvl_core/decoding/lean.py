"""The decoder and its head for decoding, in as few operations as they take.

A denoising step carries a handful of tokens through every layer, so that a pass is bound by reading the weights and by
how many operations read them. The stock modules run some forty a layer; here the same weights run about fifteen:
projections of one input are one product, rotation and norm are single calls, key-value heads are not repeated, and on a
CPU the weights lie in the order in which its library (oneDNN) multiplies them. Numbers differ from the stock modules'
by rounding alone. What is not a plain Qwen2 layer is left to the stock modules.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, repeat_kv
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer

LAYERS = (Qwen2DecoderLayer, Qwen2_5_VLDecoderLayer)
COPY_LIMIT = 2**30  # bytes of weights that may be copied into the CPU library's order
FEW = 8  # tokens for which that order is chosen
Product = Callable[[Tensor], Tensor]
_HELD: WeakKeyDictionary[nn.Module, tuple[tuple, LeanDecoder]] = WeakKeyDictionary()


class LeanDecoder:
    """Decoder layers, last norm and head of a model; built by `lean_decoder`.

    Attributes:
        head: hidden states [..., D] to logits [..., V].
    """

    def __init__(self, model) -> None:
        decoder = model.decoder
        weights = [*decoder.layers.parameters(), model.lm_head.weight]
        copied = sum(w.numel() * w.element_size() for w in weights) <= COPY_LIMIT
        self.rotary, self.norm = decoder.rotary_emb, decoder.norm
        self.layers = [LeanLayer(layer, copied) for layer in decoder.layers]
        self.head = product([model.lm_head], copied)

    def __call__(self, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache, probe=None) -> Tensor:
        """As `BlockDiffusionMixin.run_decoder`: embeddings [B, Q, D] to hidden states after the last norm.

        Args:
            probe: an `AttentionProbe` that is told the attention of its layers.
        """
        turn = rotation(self.rotary, embeds, positions.expand(len(embeds), -1))
        x = embeds
        for layer in self.layers:
            x = layer(x, mask, turn, cache, probe)
        return F.rms_norm(x, self.norm.weight.shape, self.norm.weight, self.norm.variance_epsilon)


class LeanLayer:
    """One decoder layer."""

    def __init__(self, layer: nn.Module, copied: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.number, self.width, self.scale = attention.layer_idx, attention.head_dim, attention.scaling
        self.kv_heads = attention.k_proj.out_features // self.width
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = product([attention.q_proj, attention.k_proj, attention.v_proj], copied)
        self.out = product([attention.o_proj], copied)
        self.gate_up = product([mlp.gate_proj, mlp.up_proj], copied)
        self.down = product([mlp.down_proj], copied)
        self.act = mlp.act_fn

    def __call__(self, x: Tensor, mask: Tensor | None, turn: tuple[Tensor, Tensor], cache, probe=None) -> Tensor:
        rows, queries, width = x.shape
        normed = F.rms_norm(x, (width,), self.before.weight, self.before.variance_epsilon)
        qkv = self.qkv(normed).view(rows, queries, -1, self.width)
        turned = rotate(qkv[:, :, : -self.kv_heads], *turn)
        keys, values = cache.update(
            turned[:, :, -self.kv_heads :].transpose(1, 2), qkv[:, :, -self.kv_heads :].transpose(1, 2), self.number
        )
        query = turned[:, :, : -self.kv_heads].transpose(1, 2)
        if probe is not None and self.number in probe.layers:
            probe.record(self.number, query, keys, mask, self.scale)
        mixed = attend(query, keys, values, mask, self.scale)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, queries, -1))
        normed = F.rms_norm(x, (width,), self.between.weight, self.between.variance_epsilon)
        gate, up = self.gate_up(normed).chunk(2, -1)
        return x + self.down(self.act(gate) * up)


def rotation(rotary: nn.Module, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of every position, [B, Q, 1, d] each, for `rotate`; positions are long [B, Q]."""
    cos, sin = rotary(x, positions)
    if cos.dim() == 4:  # one for each of three equal positions
        cos, sin = cos[0], sin[0]
    half = sin.shape[-1] // 2
    return cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, :, None]


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of heads [B, Q, H, d]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of queries [B, H, Q, d] to fewer key-value heads [B, H_kv, K, d] under a boolean mask; [B, H, Q, d]."""
    kind, share = query.device.type, query.shape[1] // keys.shape[1]
    takes_shared = kind == "cpu" or (kind == "cuda" and mask is None)  # elsewhere no fused kernel does
    if share > 1 and not takes_shared:
        keys, values, share = repeat_kv(keys, share), repeat_kv(values, share), 1
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale, enable_gqa=share > 1)


def product(linears: list[nn.Linear], copied: bool) -> Product:
    """What maps an input through some linear layers side by side, their outputs joined.

    Args:
        linears: layers of the same input.
        copied: whether their weights may be copied; else each is its own product, as it lies.
    """
    weights, biases = [linear.weight.detach() for linear in linears], [linear.bias for linear in linears]
    if not copied:
        if len(linears) == 1:
            return lambda x: F.linear(x, weights[0], biases[0])
        return lambda x: torch.cat([F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)], -1)
    bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    if not _can_order(weight):
        return lambda x: F.linear(x, weight, bias)
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), FEW)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, ordered, bias, "none", [], "")


def _can_order(weight: Tensor) -> bool:
    """Whether the CPU's library takes weights in an order of its own."""
    mkldnn = torch.ops.mkldnn
    known = hasattr(mkldnn, "_reorder_linear_weight") and hasattr(mkldnn, "_linear_pointwise")
    return known and weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.enabled


def lean_decoder(model) -> LeanDecoder | None:
    """The lean decoder of a model as its weights are now; None where it must run as it is.

    It lives as long as the model, and is made anew after weights have changed. A model whose layers are not plain Qwen2
    ones, are spread over devices, quantised, adapted, or watched by hooks, keeps its own modules.
    """
    state = _state(model)
    if state is None:
        return None
    held = _HELD.get(model)
    if held is None or held[0] != state:
        with torch.no_grad():
            held = _HELD[model] = (state, LeanDecoder(model))
    return held[1]


def _state(model) -> tuple | None:
    """Which weights, in which version; None where something is not as `LeanDecoder` needs it."""
    decoder, head = model.decoder, model.lm_head
    if type(head) is not nn.Linear or not all(type(layer) in LAYERS for layer in decoder.layers):
        return None
    for module in (*decoder.layers.modules(), decoder.norm, head):
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            return None
    for layer in decoder.layers:
        if not all(type(child) is nn.Linear for child in _projections(layer)):
            return None
    weights = [*decoder.layers.parameters(), decoder.norm.weight, head.weight]
    if len({weight.device for weight in weights}) != 1 or weights[0].device.type == "meta":
        return None
    state = tuple((weight.data_ptr(), weight._version) for weight in weights)
    return state if weights[0].device.type != "cpu" else (*state, *_samples(weights))


def _samples(weights: list[Tensor]) -> list[float]:
    """A sum over a few numbers of every weight: changes through `.data`, as by merging adapters, have no version."""
    return torch.stack([w.detach().flatten()[:: max(1, w.numel() // 16)].sum() for w in weights]).tolist()


def _projections(layer: nn.Module) -> list[nn.Module]:
    attention, mlp = layer.self_attn, layer.mlp
    return [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj,
            mlp.down_proj]  # fmt: skip
