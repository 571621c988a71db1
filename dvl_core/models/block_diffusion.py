"""What DiffusionVL adds to a stock vision-language model: its mask, its positions, and decoding by denoising."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import Qwen2ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..decoding.autoregressive import autoregress
from ..decoding.block import denoise
from ..decoding.canvas import Canvas
from ..decoding.config import DecodingConfig
from ..decoding.generate import GenerateOutput, generate
from ..decoding.masks import block_causal_mask, hide_padding
from ..decoding.observe import Observe
from ..decoding.prefix import PrefixCache
from ..decoding.step import DenoisingStep
from .checkpoint import CheckpointError, check_tensors, first_line

# Releases of transformers before 5.24 call the decoder's cache argument `past_key_values`.
_CACHE = "cache" if "cache" in inspect.signature(Qwen2ForCausalLM.forward).parameters else "past_key_values"
_LAYER_KINDS = ("full_attention", "sliding_attention")


class BlockDiffusionMixin:
    """Mixed into a stock model class, before it.

    The class says where its parts are: `decoder` (the stack of decoder layers), `embed_inputs(input_ids, ...)`,
    `separate_pictures(...)` and `vision_inputs` (names of the inputs that carry pictures).
    """

    vision_inputs: tuple[str, ...] = ()
    # Decoders with several kinds of attention layers take a mask for each kind, the others one mask for all.
    mask_per_layer_kind = True
    # The published LM family splits `gen_length`, not the block, into steps when a single block holds everything.
    reference_splits_answer = False

    # (prefix in published files, prefix of the stock module)
    published_names: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_pretrained(cls, source, *args: Any, output_loading_info: bool = False, **kwargs: Any):
        """As in transformers, but a checkpoint whose tensors are missing, extra, misshapen or cut off is refused.

        Raises:
            CheckpointError: naming the tensors.
        """
        kwargs["ignore_mismatched_sizes"] = True  # so that all problems are named at once
        try:
            model, report = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            said = f"The weights of {source} are damaged ({first_line(error)}): download them again."
            raise CheckpointError(said) from error
        check_tensors(cls, str(source), report)
        return (model, report) if output_loading_info else model

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids that end an answer."""
        ids = self.config.eos_token_id
        return list(ids) if isinstance(ids, (list, tuple)) else [ids]

    def token_embeds(self, ids: Tensor) -> Tensor:
        """Embeddings of plain tokens, as wide as those of `embed_inputs`: ids [...] to float [..., D]."""
        return self.get_input_embeddings()(ids)

    def place_features(self, input_ids: Tensor, features: Tensor) -> Tensor:
        """Token embeddings with `features` [P, D] in place of the P picture placeholders, in reading order.

        Raises:
            ValueError: when placeholders and picture features differ in number.
        """
        embeds = self.token_embeds(input_ids)
        places = (input_ids == self.config.image_token_id).unsqueeze(-1)
        found = int(places.sum())
        if found != len(features):
            raise ValueError(f"The prompt has {found} picture tokens, but the pictures give {len(features)} features.")
        return embeds.masked_scatter(places, features.to(embeds.device, embeds.dtype))

    def run_decoder(
        self, inputs_embeds: Tensor, mask: Tensor | None, position_ids: Tensor, cache=None, **kwargs: Any
    ) -> Tensor:
        """One pass through the stock decoder.

        Args:
            inputs_embeds: float [B, Q, D].
            mask: bool [1 or B, 1, Q, K], True = may attend; None = everything may. See `lean.attend` for another kind.
            position_ids: long [1 or B, Q].
            cache: a `BlockCache`, or None.

        Returns:
            hidden states after the last norm, float [B, Q, D].
        """
        rows, queries = inputs_embeds.shape[:2]
        position_ids = position_ids.expand(rows, -1)
        if mask is None and not self.mask_per_layer_kind:
            # These decoders would take no mask for a causal one.
            keys = queries + (cache.length if cache is not None else 0)
            mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=inputs_embeds.device)
        if mask is None:
            kwargs["is_causal"] = False
        elif self.decoder.config._attn_implementation == "eager":
            # The stock eager function adds its mask to the scores.
            dtype = inputs_embeds.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        output = self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask={kind: mask for kind in _LAYER_KINDS} if self.mask_per_layer_kind else mask,
            position_ids=position_ids,
            use_cache=cache is not None,
            **{_CACHE: cache},
            **kwargs,
        )
        return output.last_hidden_state

    @contextmanager
    def attention_by(self, name: str) -> Iterator[None]:
        """For a while the decoder's attention is the one that transformers knows by this name. Other threads see it
        too."""
        config = self.decoder.config
        before, config._attn_implementation = config._attn_implementation, name
        try:
            yield
        finally:
            config._attn_implementation = before

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        block_size: int | None = None,
        logits_to_keep: int = 0,
        **pictures: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of a whole sequence under the model's own mask: block-causal, or causal for a parent.

        Args:
            input_ids: long [B, L]; or `inputs_embeds`, float [B, L, D].
            attention_mask: [B, L], 0 at padding on the right, which no position attends to.
            block_size: of the mask; the configuration's by default.
            logits_to_keep: compute the logits of this many last positions only; 0 = all.
            pictures: the inputs named in `vision_inputs`.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed_inputs(input_ids, **pictures)
        length = inputs_embeds.shape[1]
        block_size = block_size or (self.config.bd3lm_block_size if self.config.enable_bd3lm else 1)
        valid = None if attention_mask is None else attention_mask.bool()
        mask = hide_padding(block_causal_mask(length, block_size, inputs_embeds.device), valid)
        positions = torch.arange(length, device=inputs_embeds.device)[None]
        hidden = self.run_decoder(inputs_embeds, mask, positions)
        return CausalLMOutputWithPast(logits=self.lm_head(hidden[:, -logits_to_keep:]))

    def denoise(
        self,
        inputs: dict[str, Any],
        config: DecodingConfig | None = None,
        observe: Observe | None = None,
        canvas: Canvas | None = None,
        prefixes: PrefixCache | None = None,
    ) -> Iterator[DenoisingStep]:
        """Denoise an answer block by block; closing the generator stops the work. See `decoding.block.denoise`."""
        return denoise(self, inputs, config or self.default_config(), observe, canvas, prefixes)

    def autoregress(
        self,
        inputs: dict[str, Any],
        config: DecodingConfig | None = None,
        observe: Observe | None = None,
        prefixes: PrefixCache | None = None,
    ) -> Iterator[DenoisingStep]:
        """Decode one token per step, left to right, as the autoregressive parent does."""
        return autoregress(self, inputs, config or self.default_config(), observe, prefixes)

    def steps(
        self,
        inputs: dict[str, Any],
        config: DecodingConfig | None = None,
        observe: Observe | None = None,
        canvas: Canvas | None = None,
        prefixes: PrefixCache | None = None,
    ) -> Iterator[DenoisingStep]:
        """The decoding this model was trained for: `denoise`, or `autoregress` when `enable_bd3lm` is False.

        Raises:
            ValueError: when a canvas is given to an autoregressive model, which can't fill holes.
        """
        if self.config.enable_bd3lm:
            return self.denoise(inputs, config, observe, canvas, prefixes)
        if canvas is not None:
            raise ValueError("canvas: an autoregressive model can't fill holes; load a block-diffusion model.")
        return self.autoregress(inputs, config, observe, prefixes)

    def default_config(self, **settings: Any) -> DecodingConfig:
        """`settings`, the rest as the model was trained: its block size, one step per token of a block."""
        size = settings.get("block_size", self.config.bd3lm_block_size)
        return DecodingConfig(**{"block_size": size, "steps": size, **settings})

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, streamer=None, **kwargs: Any) -> GenerateOutput:
        """Answer a prompt. Takes model inputs and the fields of `DecodingConfig`. See `decoding.generate`."""
        return generate(self, input_ids, streamer, **kwargs)
