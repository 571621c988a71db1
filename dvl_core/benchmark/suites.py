"""What is compared: decoding against the plain loop and other ways, what observation costs, what the app adds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..decoding import DecodingConfig, Observe
from ..decoding.autoregressive import autoregress
from ..engine import Engine, Stepped
from ..models.loading import load_model
from .plain import plain_blocks, whole_answer
from .sizes import random_model, weight_bytes
from .timing import Measurement, Outcome, copy_bandwidth, interleaved

OBSERVATIONS = {
    "candidates": Observe(candidates=5), "entropy": Observe(entropy=True), "attention": Observe(attention_layers=(-1,)),
}  # fmt: skip


def ours(model, input_ids, config: DecodingConfig, observe: Observe | None = None, **pictures: Any) -> Outcome:
    """Our block decoder, watched by nobody but a counter."""
    output = model.generate(input_ids, config=config, observe=observe, **pictures)
    return Outcome(len(output.answers[0]), output.forwards, tuple(output.answers[0]))


def left_to_right(model, input_ids, config: DecodingConfig) -> Outcome:
    """The same weights decoded autoregressively, with a cache."""
    ids, forwards = [], 0
    for step in autoregress(model, {"input_ids": input_ids}, config):
        ids.append(int(step.tokens[0, 0]))
        forwards = step.forwards
    return Outcome(len(ids), forwards, tuple(ids))


def decode_suite(
    size: str, device: torch.device, dtype: torch.dtype, prompt: int, answer: int, repeats: int
) -> dict[str, Any]:
    """Milliseconds, forwards and tokens per second of every way to decode, of one random model.

    Args:
        size: a name in `sizes.SIZES`.
        prompt, answer: their lengths in tokens; whole blocks of 8.
        repeats: counted runs of each.
    """
    model = random_model(size, device, dtype)
    ids = torch.randint(1, model.config.get_text_config().vocab_size - 3, (1, prompt), device=device)
    config = DecodingConfig(block_size=8, steps=8, max_new_tokens=answer)
    dynamic = replace(config, strategy="low_confidence_dynamic", threshold=0.9)
    variants: dict[str, Callable[[], Outcome]] = {
        "plain loop": lambda: plain_blocks(model, ids, config),
        "ours": lambda: ours(model, ids, config),
        "ours, looking ahead": lambda: ours(model, ids, replace(config, lookahead=1)),
        "ours, 4 steps": lambda: ours(model, ids, replace(config, steps=4)),
        "ours, 2 steps": lambda: ours(model, ids, replace(config, steps=2)),
        "ours, threshold 0.9": lambda: ours(model, ids, dynamic),
        "autoregressive, cached": lambda: left_to_right(model, ids, config),
        "whole answer, no cache": lambda: whole_answer(model, ids, config),
    }
    measured = interleaved(variants, repeats, device)
    bandwidth, read = copy_bandwidth(device), weight_bytes(model)
    return {
        "suite": "decode", "size": size, "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(dtype).removeprefix("torch."), "prompt": prompt, "answer": answer,
        "weight_bytes": read, "bandwidth": round(bandwidth), "floor_milliseconds": round(1000 * read / bandwidth, 4),
        "same_ids_as_plain": measured["ours"].outcome.ids == measured["plain loop"].outcome.ids,
        "rows": _rows(measured, "plain loop"),
    }  # fmt: skip


def growth_suite(size: str, device: torch.device, dtype: torch.dtype, answers: list[int], repeats: int) -> dict:
    """Seconds as the answer grows, ours against denoising the whole answer without a cache."""
    model = random_model(size, device, dtype)
    ids = torch.randint(1, 500, (1, 256), device=device)
    rows = []
    for answer in answers:
        config = DecodingConfig(block_size=8, steps=8, max_new_tokens=answer)
        variants = {
            "ours": lambda config=config: ours(model, ids, config),
            "whole answer, no cache": lambda config=config: whole_answer(model, ids, config),
        }
        measured = interleaved(variants, repeats, device)
        rows += [{"answer": answer, **row} for row in _rows(measured, "whole answer, no cache")]
    return {"suite": "growth", "size": size, "rows": rows}


def observe_suite(size: str, device: torch.device, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """What each kind of observation adds to a run, against none."""
    model = random_model(size, device, dtype)
    vision = model.config.vision_config
    side = 8 * vision.spatial_merge_size  # patches, for 64 picture tokens
    pixels = torch.randn(side**2, 3 * vision.temporal_patch_size * vision.patch_size**2, device=device, dtype=dtype)
    pictures = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]], device=device)}
    ids = torch.randint(1, 500, (1, 256), device=device)
    ids[0, 64:128] = model.config.image_token_id
    config = DecodingConfig(block_size=8, steps=8, max_new_tokens=64)
    variants: dict[str, Callable[[], Outcome]] = {"nothing": lambda: ours(model, ids, config, **pictures)}
    for name, observe in OBSERVATIONS.items():
        variants[name] = lambda observe=observe: ours(model, ids, config, observe, **pictures)
    return {"suite": "observe", "size": size, "rows": _rows(interleaved(variants, repeats, device), "nothing")}


def app_suite(model_folder: Path, repeats: int) -> dict[str, Any]:
    """The served model: time to the first token, to an answer of up to 64 tokens, and what sending its steps adds."""
    model, processor = load_model(model_folder)
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
        repeats, model.device,
    )  # fmt: skip
    return {"suite": "app", "size": model_folder.name, "rows": _rows(measured, "an answer")}


def _rows(measured: dict[str, Measurement], base: str) -> list[dict[str, Any]]:
    """Every variant, with how many times as fast as `base` it gives tokens (of runs measured side by side)."""
    reference = measured[base].tokens_per_second
    return [{**m.to_json(), "ratio": round(m.tokens_per_second / reference, 3)} for m in measured.values()]
