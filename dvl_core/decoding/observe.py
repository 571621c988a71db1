"""What may be watched while decoding, and how. Nothing here runs unless it was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv

from .lean import LeanPass, own_attention
from .strategies import Proposal

MAX_CANDIDATES = 50


@dataclass(frozen=True)
class Observe:
    """What to record beside tokens and confidences.

    Attributes:
        candidates: number of best candidates per masked position, 0 to 50; 0 = none.
        entropy: the entropy of every masked position's distribution.
        attention_layers: decoder layers whose attention from the block to the picture's patches is recorded,
            averaged over heads; negative numbers count from the last layer. One conversation at a time.
    """

    candidates: int = 0
    entropy: bool = False
    attention_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.candidates, bool) or not isinstance(self.candidates, int):
            raise ValueError(f"candidates must be a whole number; got {self.candidates!r}.")
        if not 0 <= self.candidates <= MAX_CANDIDATES:
            raise ValueError(f"candidates must be from 0 to {MAX_CANDIDATES}; got {self.candidates}.")
        object.__setattr__(self, "attention_layers", tuple(self.attention_layers))
        if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in self.attention_layers):
            raise ValueError(f"attention_layers must be layer numbers; got {self.attention_layers!r}.")

    def resolve_layers(self, count: int) -> tuple[int, ...]:
        """Layer numbers from 0. Raises ValueError when one lies outside the `count` layers of the model."""
        for layer in self.attention_layers:
            if not -count <= layer < count:
                raise ValueError(f"attention_layers: the model has {count} layers; there is no layer {layer}.")
        return tuple(sorted({layer % count for layer in self.attention_layers}))


@dataclass
class AttentionProbe:
    """Collects, during one forward pass, the attention from the last `queries` positions to `columns`.

    Attributes:
        layers: decoder layers to collect.
        queries: how many of the last query positions belong to the block.
        columns: key positions of the picture's patches, long [P].
        weights: layer -> float [B, queries, P], averaged over heads.
    """

    layers: tuple[int, ...]
    queries: int
    columns: Tensor
    weights: dict[int, Tensor] = field(default_factory=dict)

    def record(self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Attention of `query` [B, H, Q, D] over `key` [B, H_kv, K, D] under the boolean `mask` [.., Q, K]."""
        query = query[:, :, -self.queries :]
        scores = query @ repeat_kv(key, query.shape[1] // key.shape[1]).transpose(-1, -2) * scaling
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, -self.queries :], -torch.inf)
        self.weights[layer] = scores.float().softmax(-1)[..., self.columns].mean(1)


def observations(observe: Observe, proposal: Proposal) -> dict[str, Tensor]:
    """What was asked for of the proposals, by the name of its field in `DenoisingStep`."""
    observed = {}
    if observe.candidates:
        count = min(observe.candidates, proposal.log_probs.shape[-1])
        log_probs, ids = proposal.log_probs.topk(count, dim=-1)
        observed.update(candidate_ids=ids, candidate_probabilities=log_probs.exp())
    if observe.entropy:
        observed["entropies"] = proposal.entropy()
    return observed


def run_pass(
    model, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache, probe: AttentionProbe | None = None,
    lean: LeanPass | None = None,
) -> Tensor:
    """`model.run_decoder` for a step: lean, and its attention told to the probe, where there is one."""
    if lean is None and probe is None:
        return model.run_decoder(embeds, mask, positions, cache)
    told = {} if probe is None else {"attention_probe": probe}
    with own_attention(model) if lean is None else lean.engaged(model):
        return model.run_decoder(embeds, mask, positions, cache, **told)
