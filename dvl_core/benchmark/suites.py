"""What is compared: decoding and training against the plain ways, how cost grows, what observing and the app add."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..decoding import DecodingConfig, Observe
from ..decoding.autoregressive import autoregress
from ..decoding.graphs import without_graphs
from ..engine import Engine, Stepped
from ..models.loading import load_model
from ..models.precision import without_cudnn_attention
from ..training.answers import masked_token_losses, next_token_losses
from ..training.flex import Attention
from ..training.objective import IGNORE, add_noise, block_diffusion_loss, diffusion_forward
from .plain import plain_blocks, whole_answer
from .sizes import random_ids, sized_model, weight_bytes
from .timing import Measurement, Outcome, copy_bandwidth, interleaved

WHOLE_UNTIL = 128  # tokens; what a longer answer costs without a cache grows beyond patience
# Relative difference up to which two losses are the same: what is summed in another order is rounded otherwise.
# bfloat16 keeps 8 bits of every number; its errors average out over the tokens, but not to nothing.
SAME_LOSS = {torch.float32: 1e-5, torch.bfloat16: 2e-3}
OBSERVATIONS = {
    "candidates": Observe(candidates=5), "entropy": Observe(entropy=True), "attention": Observe(attention_layers=(-1,)),
}  # fmt: skip


def ours(model, input_ids, config: DecodingConfig, observe: Observe | None = None, **pictures: Any) -> Outcome:
    """Our block decoder, watched by nobody but a counter."""
    output = model.generate(input_ids, config=config, observe=observe, **pictures)
    return Outcome(sum(map(len, output.answers)), output.forwards, tuple(output.answers[0]))


def left_to_right(model, input_ids, config: DecodingConfig) -> Outcome:
    """The same weights decoded autoregressively, with a cache."""
    ids, forwards = [], 0
    for step in autoregress(model, {"input_ids": input_ids}, config):
        ids.append(int(step.tokens[0, 0]))
        forwards = step.forwards
    return Outcome(len(ids), forwards, tuple(ids))


def ours_without_graphs(model, input_ids, config: DecodingConfig) -> Outcome:
    """Our block decoder with every pass started anew."""
    with without_graphs():
        return ours(model, input_ids, config)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Index of the first token that two answers do not share; None when they are the same."""
    if one == other:
        return None
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def decode_suite(
    size: str, device: torch.device, dtype: torch.dtype, prompt: int, answer: int, repeats: int
) -> dict[str, Any]:
    """Milliseconds, forwards and tokens per second of every way to decode, of one model.

    Args:
        size: a name in `sizes.SIZES`, or a checkpoint folder.
        prompt, answer: their lengths in tokens; whole blocks of 8.
        repeats: counted runs of each.

    Of `first_difference`: half precision rounds a pass over few tokens otherwise than one over many, so two ways to
    decode may part where two tokens are about equally likely.
    """
    model = sized_model(size, device, dtype)
    ids = random_ids(model, 1, prompt)
    config = DecodingConfig(block_size=8, steps=8, max_new_tokens=answer)
    dynamic = replace(config, strategy="low_confidence_dynamic", threshold=0.9)
    variants: dict[str, Callable[[], Outcome]] = {
        "plain loop": lambda: plain_blocks(model, ids, config),
        "ours": lambda: ours(model, ids, config),
        "ours, looking ahead": lambda: ours(model, ids, replace(config, lookahead=2)),
        "ours, 4 steps": lambda: ours(model, ids, replace(config, steps=4)),
        "ours, 2 steps": lambda: ours(model, ids, replace(config, steps=2)),
        "ours, threshold 0.9": lambda: ours(model, ids, dynamic),
        "autoregressive, cached": lambda: left_to_right(model, ids, config),
        "whole answer, no cache": lambda: whole_answer(model, ids, config),
    }
    if device.type == "cuda":
        variants["ours, no graphs"] = lambda: ours_without_graphs(model, ids, config)
    measured = interleaved(variants, repeats, device, "decode")
    bandwidth, read = copy_bandwidth(device, 1024 if device.type == "cuda" else 256), weight_bytes(model)
    floor, rows = 1000 * read / bandwidth, _rows(measured, "plain loop")
    pass_of_ours = next(row["milliseconds_per_forward"] for row in rows if row["name"] == "ours")
    differs = first_difference(measured["ours"].outcome.ids, measured["plain loop"].outcome.ids)
    return {
        "suite": "decode", "size": Path(size).name, "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(dtype).removeprefix("torch."), "prompt": prompt, "answer": answer,
        "weight_bytes": read, "bandwidth": round(bandwidth), "floor_milliseconds": round(floor, 4),
        "floor_ratio": round(pass_of_ours / floor, 3), "same_ids_as_plain": differs is None,
        "first_difference": differs, "rows": rows,
    }  # fmt: skip


def growth_suite(
    size: str, device: torch.device, dtype: torch.dtype, grown: dict[str, list[int]], repeats: int
) -> dict[str, Any]:
    """Seconds as one thing grows, the others being an answer of 32 tokens to 64 tokens of a picture, one conversation.

    Args:
        grown: the values of "answer" (tokens), "picture" (tokens) and "batch" (conversations) to measure. Answers up to
            `WHOLE_UNTIL` are denoised whole and without a cache too.
    """
    model = sized_model(size, device, dtype)
    rows = []
    for what, values in grown.items():
        for value in values:
            case = {"answer": 32, "picture": 64, "batch": 1} | {what: value}
            config = DecodingConfig(block_size=8, steps=8, max_new_tokens=case["answer"])
            ids, pictures = picture_prompt(model, case["picture"], case["batch"])
            variants = {"ours": lambda ids=ids, config=config, shown=pictures: ours(model, ids, config, **shown)}
            if what == "answer" and value <= WHOLE_UNTIL:
                variants["whole answer, no cache"] = lambda ids=ids, config=config: whole_answer(model, ids, config)
            measured = interleaved(variants, repeats, device, f"growth, {what} {value}")
            rows += [{"grows": what, "at": value, **row} for row in _rows(measured, next(reversed(variants)))]
    return {"suite": "growth", "size": Path(size).name, "rows": rows}


def picture_prompt(model, tokens: int, batch: int = 1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`batch` prompts of a random picture of `tokens` tokens, as square as may be, and 64 tokens of text.

    Raises:
        ValueError: for a family whose pictures are not of any size.
    """
    if "image_grid_thw" not in model.vision_inputs:
        raise ValueError("size: pictures of every size are measured of Qwen-VL checkpoints only.")
    vision, device = model.config.vision_config, model.device
    height = max(h for h in range(1, tokens + 1) if tokens % h == 0 and h * h <= tokens)
    grid = [1, height * vision.spatial_merge_size, tokens // height * vision.spatial_merge_size]
    patch = 3 * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(batch * grid[1] * grid[2], patch, device=device, dtype=model.dtype)
    ids = random_ids(model, batch, 64 + tokens)
    ids[:, 32 : 32 + tokens] = model.config.image_token_id
    return ids, {"pixel_values": pixels, "image_grid_thw": torch.tensor([grid] * batch, device=device)}


def train_suite(
    size: str, device: torch.device, dtype: torch.dtype, prompt: int, answer: int, repeats: int, batch: int = 2
) -> dict[str, Any]:
    """Forward and backward pass of the diffusion loss: the doubled sequence as published, and noisy answers alone.

    The latter under a dense mask, and on CUDA through FlexAttention too. `same_loss` says that each of them gave the
    loss of the doubled sequence, within `SAME_LOSS` of the dtype.

    Args:
        prompt, answer: tokens of every row.
        batch: rows.
    """
    model = sized_model(size, device, dtype)
    embeds = model.token_embeds(random_ids(model, batch, prompt + answer)).detach()
    labels = random_ids(model, batch, prompt + answer)
    labels[:, :prompt] = IGNORE
    draw = torch.Generator().manual_seed(0)
    blocks, tokens = (torch.rand(batch, n, generator=draw) for n in (-(-labels.shape[1] // 8), labels.shape[1]))
    noise = add_noise(labels, blocks.to(device), tokens.to(device), block_size=8)
    losses: dict[str, float] = {}

    @without_cudnn_attention()  # as training has it
    def step(name: str, loss_of: Callable[[], torch.Tensor]) -> Outcome:
        loss = loss_of()
        loss.backward()
        model.zero_grad()
        losses[name] = loss.item()
        return Outcome(batch * answer, 1, ())

    def doubled() -> torch.Tensor:
        return block_diffusion_loss(diffusion_forward(model, embeds, noise, 8), labels, noise)

    def answers(attention: Attention) -> torch.Tensor:
        token = masked_token_losses(model, embeds, labels, noise.masked, 8, attention=attention)
        return ((token / noise.levels).sum(1) / answer).mean()

    def next_tokens() -> torch.Tensor:
        return next_token_losses(model, embeds, labels).sum(1).mean() / answer

    variants = {"doubled sequence": doubled, "ours": lambda: answers("dense")}
    if device.type == "cuda":
        variants["ours, FlexAttention"] = lambda: answers("flex")
    variants["next token"] = next_tokens
    measured = interleaved(
        {name: lambda name=name, loss=loss: step(name, loss) for name, loss in variants.items()}, repeats, device,
        "train",
    )
    furthest = max(abs(losses[name] / losses["doubled sequence"] - 1) for name in variants if name.startswith("ours"))
    return {
        "suite": "train", "size": Path(size).name, "prompt": prompt, "answer": answer, "batch": batch,
        "same_loss": furthest < SAME_LOSS[dtype],
        "rows": _rows(measured, "doubled sequence"),
    }  # fmt: skip


def observe_suite(size: str, device: torch.device, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """What each kind of observation adds to a run, against none."""
    model = sized_model(size, device, dtype)
    ids, pictures = picture_prompt(model, 64)
    config = DecodingConfig(block_size=8, steps=8, max_new_tokens=64)
    variants: dict[str, Callable[[], Outcome]] = {"nothing": lambda: ours(model, ids, config, **pictures)}
    for name, observe in OBSERVATIONS.items():
        variants[name] = lambda observe=observe: ours(model, ids, config, observe, **pictures)
    measured = interleaved(variants, repeats, device, "observe")
    return {"suite": "observe", "size": Path(size).name, "rows": _rows(measured, "nothing")}


def app_suite(model_folder: Path, device: torch.device, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """The served model: time to the first token, to an answer of up to 64 tokens, and what sending its steps adds."""
    model, processor = load_model(model_folder, str(device), dtype)
    engine = Engine(model, processor)
    picture = {"type": "image", "image": Image.new("RGB", (512, 512), "white")}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "Describe the picture."}]}]
    config = engine.config(max_new_tokens=64, steps=8)

    def first_token() -> Outcome:
        events = engine.stream(messages, config, alone=True)
        for event in events:
            if isinstance(event, Stepped):
                events.close()
                return Outcome(1, 2, (event.step.proposals[0],))
        raise RuntimeError("The run had no step.")

    def streamed(send: bool, alone: bool = True) -> Outcome:
        trace = None
        for event in engine.stream(messages, config, alone=alone):
            trace = getattr(event, "trace", trace)
            if send and isinstance(event, Stepped):
                json.dumps(event.step.to_json())
        return Outcome(len(trace.answer_ids()), trace.forwards, tuple(trace.answer_ids()))

    streamed(False, alone=False)  # leaves its cache to those that ask again
    measured = interleaved(
        {"first token": first_token, "an answer": lambda: streamed(False), "an answer, sent": lambda: streamed(True),
         "an answer, asked again": lambda: streamed(False, alone=False)},
        repeats, model.device, "app",
    )  # fmt: skip
    return {"suite": "app", "size": model_folder.name, "rows": _rows(measured, "an answer")}


def _rows(measured: dict[str, Measurement], base: str) -> list[dict[str, Any]]:
    """Every variant, with how many times as fast as `base` it gives tokens (of runs measured side by side)."""
    reference = measured[base].tokens_per_second
    return [{**m.to_json(), "ratio": round(m.tokens_per_second / reference, 3)} for m in measured.values()]
