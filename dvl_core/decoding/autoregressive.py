"""The ordinary autoregressive decoder of a parent model, yielding the same kind of steps as the block decoder."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .config import DecodingConfig
from .graphs import cache_for
from .lean import lean_pass
from .masks import block_causal_mask, hide_padding
from .observe import AttentionProbe, Observe, observations, run_pass
from .prefix import Continuation, PrefixCache
from .prompt import encode_prompt
from .sampling import propose, seeded_noise
from .step import DenoisingStep


@torch.no_grad()
def autoregress(
    model, inputs: dict[str, Any], config: DecodingConfig, observe: Observe | None = None,
    prefixes: PrefixCache | None = None,
) -> Iterator[DenoisingStep]:
    """Decode left to right under a causal mask, one token per forward pass, with a key-value cache.

    Of `config` it uses `max_new_tokens`, `temperature`, `top_k`, `top_p` and `seed`. Each step is a block of one
    cell. The first token comes out of the prefill.

    Yields:
        a `DenoisingStep` per token; rows that have ended stay inactive until all have.
    """
    yield from AutoregressiveDecoder(model, inputs, config, observe or Observe(), prefixes).run()


class AutoregressiveDecoder:
    """State of one run: the prompt, the cache, and the last hidden states."""

    def __init__(self, model, inputs: dict[str, Any], config: DecodingConfig, observe: Observe,
                 prefixes: PrefixCache | None = None):  # fmt: skip
        self.started = perf_counter()
        self.model, self.config, self.observe = model, config, observe
        self.layers = observe.resolve_layers(model.config.get_text_config().num_hidden_layers)
        self.past = Continuation(None if self.layers else prefixes, model, inputs, 1, least=1)
        self.prompt = encode_prompt(model, self.past.inputs, known=self.past.known)
        if self.layers and self.prompt.rows > 1:
            raise ValueError("attention_layers: attention can be observed for one conversation at a time.")
        self.device = self.prompt.embeds.device
        self.lengths = torch.tensor(self.prompt.lengths, device=self.device)[:, None]
        self.longest = max(self.prompt.lengths)
        self.valid = torch.arange(self.longest, device=self.device) < self.lengths  # [B, P]
        self.lean = lean_pass(model)
        self.head = self.lean.head
        self.answer: list[Tensor] = []
        self.eos_ids = torch.tensor(model.eos_token_ids, device=self.device)

    def run(self) -> Iterator[DenoisingStep]:
        room, watched = self.longest + self.config.max_new_tokens, bool(self.layers) or self.prompt.rows > 1
        with cache_for(self.model, room, not watched) as (self.cache, self.graphs):
            yield from self._run()

    def _run(self) -> Iterator[DenoisingStep]:
        self.past.fill(self.cache)
        try:
            yield from self._tokens()
        finally:
            self.past.keep(self.cache, torch.cat(self.answer, 1)[0].tolist() if self.answer else [])

    def _tokens(self) -> Iterator[DenoisingStep]:
        hidden, probe = self.prefill()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        started = perf_counter()
        prefill_seconds = started - self.started
        active, logits = [True] * self.prompt.rows, self.head(hidden)
        for index in range(self.config.max_new_tokens):
            logits[..., self.model.config.mask_token_id] = -torch.inf
            proposal = propose(logits, self.config, seeded_noise(self.config.seed, index, 0, 1, self.device))
            self.answer.append(proposal.ids)
            ends = torch.isin(proposal.ids, self.eos_ids)[:, 0].tolist()
            alive = torch.tensor(active, device=self.device)[:, None]  # waits for the idle device
            last = index + 1 == self.config.max_new_tokens
            ended = [last or end or not row for row, end in zip(active, ends, strict=True)]
            yield DenoisingStep(
                block=index,
                step=0,
                spans=[(index, index + 1)] * self.prompt.rows,
                masked=alive,
                proposals=proposal.ids,
                confidences=proposal.confidence,
                revealed=alive,
                tokens=proposal.ids,
                active=active,
                ended=ended,
                forwards=1 + index,
                seconds=perf_counter() - started,
                prefill_seconds=prefill_seconds,
                known=self.past.known,
                **observations(self.observe, proposal),
                attention=None if probe is None else probe.weights,
            )
            if all(ended):
                return
            active = [not done for done in ended]
            started = perf_counter()
            logits, probe = self.forward_token(proposal.ids, index)

    def prefill(self) -> tuple[Tensor, AttentionProbe | None]:
        """Fill the cache; the hidden state of each row's last token, [B, 1, D]."""
        known = self.past.known
        mask = hide_padding(block_causal_mask(self.longest, 1, self.device), self.valid)[:, :, known:]
        probe = self._probe()
        positions = torch.arange(known, self.longest, device=self.device)[None]
        hidden = run_pass(self.model, self.prompt.embeds[:, known:], mask, positions, self.cache, probe)
        self.cache.commit(self.longest - known)
        return hidden.gather(1, (self.lengths - 1 - known).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])), probe

    def forward_token(self, tokens: Tensor, index: int) -> tuple[Tensor, AttentionProbe | None]:
        """One pass over the token at answer position `index`, long [B, 1]; logits [B, 1, V] of the next."""
        embeds, probe, mask = self.model.token_embeds(tokens), self._probe(), None
        logits = self.graphs.logits(self.model, embeds, 0, 1) if self.graphs is not None else None
        if logits is not None:
            self.cache.commit(1)
            return logits, probe
        if min(self.prompt.lengths) < self.longest:
            grown = torch.ones(self.prompt.rows, index + 1, dtype=torch.bool, device=self.device)
            mask = torch.cat([self.valid, grown], dim=1)[:, None, None, :]
        hidden = run_pass(self.model, embeds, mask, self.lengths + index, self.cache, probe, self.lean)
        self.cache.commit(1)
        return self.head(hidden), probe

    def _probe(self) -> AttentionProbe | None:
        columns = self.prompt.picture_columns
        return AttentionProbe(self.layers, 1, columns) if self.layers and len(columns) else None
