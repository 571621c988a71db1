"""Trains the bundled model end to end from a seed: vision warm-up, autoregressive parent, diffusion conversion, and a
second, shorter leg of that with more scenes ("polish").

    python -m dvl_core.training.bundled --out runs/tiny --minutes 7,33,26,8

Every stage runs for its share of minutes (its learning rate follows the clock, so a short run is a whole run) or
until it has seen its `samples`, whichever comes first.
The bundled weights are the mean of the two conversion checkpoints, in `OUT`/bundled, stored in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..models.configuration import DiffusionVLQwenVLConfig
from ..models.qwen_vl import DiffusionVLQwenVLForConditionalGeneration
from ..processing.qwen_vl import DiffusionVLQwenVLProcessor
from ..tinyworld.labels import HEADS, MARGIN
from ..tinyworld.pictures import CANVAS
from ..tinyworld.sampling import KIND_SHARES
from ..tinyworld.tokenizer import MASK, PICTURE, TURN_END, build_tokenizer
from .data import TASK_NAMES, StageData, loader
from .optimizer import MuonAdamW
from .steps import PICTURE_MEAN, PICTURE_STD, PackedLanguage, VisionWarmup

PATCH, MERGE = 8, 2
PICTURE_TOKENS = (CANVAS // PATCH // MERGE) ** 2


@dataclass(frozen=True)
class Stage:
    """Length, batch and learning rates of one stage.

    minutes: wall-clock budget; samples: upper bound on pictures; length: tokens per packed row; muon_lr, adam_lr:
    peak learning rates; vision_scale: their factor for the vision tower; decay_from: share of the stage after which
    the learning rate falls linearly; first_seed: of the samples; shares: of the kinds of pictures.
    """

    name: str
    minutes: float
    samples: int
    batch: int = 32
    length: int = 160
    muon_lr: float = 0.015
    adam_lr: float = 2e-3
    vision_scale: float = 1.0
    decay_from: float = 0.5
    first_seed: int = 0
    shares: tuple[float, ...] = KIND_SHARES

    def __post_init__(self) -> None:
        for field in ("minutes", "samples", "batch", "muon_lr", "adam_lr"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}={getattr(self, field)} must be above 0")

    def factor(self, progress: float, step: int) -> float:
        """Learning-rate factor after a share `progress` of the stage: 50 steps of warm-up, constant, decay."""
        decay = min(1.0, (1.0 - progress) / (1.0 - self.decay_from))
        return max(0.01, decay) * min(1.0, (step + 1) / 50)


def bundled_config(tokenizer, vision_width: int = 192, vision_depth: int = 3) -> DiffusionVLQwenVLConfig:
    """The VL family's configuration, small: 96 x 96 pictures, 36 picture tokens, six decoder layers."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (MASK, PICTURE, TURN_END)}
    return DiffusionVLQwenVLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
            "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": ids[TURN_END],
            "pad_token_id": tokenizer.pad_token_id, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": vision_depth, "hidden_size": vision_width, "intermediate_size": 512,
            "num_heads": vision_width // 64, "patch_size": PATCH, "spatial_merge_size": MERGE,
            "temporal_patch_size": 2, "window_size": CANVAS, "out_hidden_size": 256,
            "fullatt_block_indexes": list(range(vision_depth)),
        },
        tie_word_embeddings=True, eos_token_id=ids[TURN_END], image_token_id=ids[PICTURE], mask_token_id=ids[MASK],
        enable_bd3lm=True, bd3lm_block_size=8,
        bd3lm_sampling_eps_min=0.1, min_pixels=CANVAS**2, max_pixels=CANVAS**2, image_aspect_ratio="pad",
    )


class Log:
    """One JSON object per line, to a file and to the terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **entry) -> None:
        """Append an entry."""
        line = json.dumps(entry)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def run_stage(model, tokenizer, stage: Stage, log: Log, out: Path, compiled: bool) -> None:
    """Train one stage in place; writes the model to `out`/<stage> every few minutes and at its end."""
    diffusion = stage.name in ("diffusion", "polish")
    kind = "diffusion" if diffusion else stage.name
    if stage.name == "vision":
        module = VisionWarmup(model, HEADS)
    else:
        module = PackedLanguage(model, slice(3, 3 + PICTURE_TOKENS), model.config.bd3lm_block_size, diffusion)
    model.train()
    optimizer = MuonAdamW(list(module.named_parameters()), stage.muon_lr, stage.adam_lr, stage.vision_scale)
    forward = torch.compile(module) if compiled else module
    data = StageData(kind, stage.batch, stage.length, stage.first_seed, picture_tokens=PICTURE_TOKENS,
                     shares=stage.shares)
    began, saved, seen, tally = time.monotonic(), time.monotonic(), 0, Tally()
    for step, batch in enumerate(loader(data, tokenizer)):
        minutes = (time.monotonic() - began) / 60
        progress = max(minutes / stage.minutes, seen / stage.samples)
        if progress >= 1:
            break
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(forward, batch, kind, tally)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(stage.factor(progress, step))
        seen += stage.batch
        if step % 50 == 49:
            log.write(stage=stage.name, step=step + 1, samples=seen, minutes=round(minutes, 2), **tally.take())
        if time.monotonic() - saved > 180:
            saved = time.monotonic()
            save(model, tokenizer, out / stage.name, diffusion)
    if stage.name == "vision":
        calibrate(model, module.reader, batch["pictures"])
    save(model, tokenizer, out / stage.name, diffusion)
    log.write(stage=stage.name, done=True, samples=seen, minutes=round((time.monotonic() - began) / 60, 2))


@torch.no_grad()
def calibrate(model, reader, pictures: torch.Tensor, rms: float = 0.5) -> None:
    """Scale the merger's last layer so that features enter the language model at a moderate size.

    The warm-up heads see normalised features, so it leaves their scale open.
    """
    factor = rms / reader(pictures).float().square().mean().sqrt()
    last = model.model.visual.merger.mlp[2]
    last.weight.mul_(factor)
    last.bias.mul_(factor)


def _loss(forward, batch: dict, stage: str, tally: Tally) -> torch.Tensor:
    if stage == "vision":
        labels = {name: batch[name] for name in HEADS}
        loss, right = forward(batch["pictures"], labels)
        tally.add(loss, {name: (value, 1) for name, value in right.items()})
        return loss
    weight = batch["weight"] if stage == "diffusion" else autoregressive_weight(batch)
    loss, right = forward(*(batch[k] for k in ("pictures", "ids", "positions", "segment", "noisy", "labels")), weight)
    conversations = (batch["tasks"] >= 0).sum() if stage == "diffusion" else 1
    loss = loss / conversations
    tally.add(loss, conversation_accuracy(batch, right, weight > 0))
    return loss


def autoregressive_weight(batch: dict) -> torch.Tensor:
    """Labelled tokens weighted by 1 / sqrt(tokens of the answer), normalised over the batch."""
    weight = batch["share"].sqrt() * (batch["labels"] >= 0)
    return weight / weight.sum()


def conversation_accuracy(batch: dict, right: torch.Tensor, counted: torch.Tensor) -> dict[str, tuple[float, int]]:
    """Per task: conversations whose counted tokens are all right, and conversations."""
    wrong = counted & ~right
    result = {}
    hits, totals = Counter(), Counter()
    for row, segment in (batch["tasks"] >= 0).nonzero().tolist():
        task = TASK_NAMES[batch["tasks"][row, segment]]
        totals[task] += 1
        hits[task] += not (wrong[row] & (batch["segment"][row] == segment)).any()
    for task, total in totals.items():
        result[task] = (hits[task], total)
    return result


class Tally:
    """Running means between two log lines."""

    def __init__(self) -> None:
        self.loss, self.steps, self.right, self.count = 0.0, 0, Counter(), Counter()

    def add(self, loss: torch.Tensor, right: dict) -> None:
        """Add one step: its loss and (right, of) per name."""
        self.loss += float(loss.detach())
        self.steps += 1
        for name, (hits, total) in right.items():
            self.right[name] += float(hits)
            self.count[name] += total

    def take(self) -> dict:
        """The means, rounded; starts over."""
        means = {name: round(self.right[name] / self.count[name], 3) for name in sorted(self.count)}
        entry = {"loss": round(self.loss / max(1, self.steps), 4), "right": means}
        self.__init__()
        return entry


def bundled_processor(tokenizer) -> DiffusionVLQwenVLProcessor:
    """The processor of the bundled model: no system turn, pictures padded to a square of one fixed size."""
    pictures = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, min_pixels=CANVAS**2, max_pixels=CANVAS**2,
        image_mean=list(PICTURE_MEAN), image_std=list(PICTURE_STD),
    )
    return DiffusionVLQwenVLProcessor(
        pictures, tokenizer, system_prompt=None, max_prompt_tokens=1024, pad_to_square=True, fixed_size=CANVAS,
        margin=MARGIN,
    )


def save(model, tokenizer, folder: Path, diffusion: bool) -> None:
    """Write model and processor in the published layout, shards under 10 MB.

    Args:
        model: float32, any stage.
        tokenizer: goes into the folder too.
        folder: made where missing.
        diffusion: mark it as a block-diffusion model (True) or as the autoregressive parent (False).
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.enable_bd3lm = diffusion
    model.save_pretrained(folder, max_shard_size="9MB")
    bundled_processor(tokenizer).save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log.jsonl")
    parser.add_argument("--minutes", default="7,33,26,8", help="wall-clock budget of the four stages")
    parser.add_argument("--seed", type=int, default=0, help="of the weights; the samples' seeds are fixed")
    parser.add_argument("--from", dest="start", default="vision",
                        choices=("vision", "autoregressive", "diffusion", "polish"),
                        help="start at this stage, from the checkpoint of the stage before it in --out")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    minutes = [float(part) for part in options.minutes.split(",")]
    stages = [
        Stage("vision", minutes[0], 400_000, batch=64, muon_lr=0.02, adam_lr=2e-3, decay_from=0.4),
        Stage("autoregressive", minutes[1], 1_000_000, vision_scale=0.3, first_seed=1_000_000),
        Stage("diffusion", minutes[2], 500_000, length=256, muon_lr=0.01, adam_lr=1e-3, vision_scale=0.3,
              decay_from=0.4, first_seed=3_000_000, shares=(0.38, 0.32, 0.12, 0.18)),  # the harder kinds more often
        Stage("polish", minutes[3], 500_000, length=256, muon_lr=0.008, adam_lr=8e-4, vision_scale=0.3,
              decay_from=0.2, first_seed=5_000_000, shares=(0.5, 0.18, 0.17, 0.15)),
    ]
    names = [stage.name for stage in stages]
    start = names.index(options.start)
    if start:
        model = DiffusionVLQwenVLForConditionalGeneration.from_pretrained(
            options.out / names[start - 1], dtype=torch.float32, attn_implementation="eager"
        )
    else:
        config = bundled_config(tokenizer)
        config._attn_implementation = "eager"  # CPU attention with a mask has a slow backward in SDPA
        model = DiffusionVLQwenVLForConditionalGeneration(config)
    log = Log(options.out / "log.jsonl")
    log.write(parameters=sum(p.numel() for p in model.parameters()), vision=sum(
        p.numel() for p in model.model.visual.parameters()), tokens=len(tokenizer), seed=options.seed)
    for stage in stages[start:]:
        run_stage(model, tokenizer, stage, log, options.out, not options.no_compile)
    average = averaged(options.out / "diffusion", options.out / "polish")
    save(average.to(torch.bfloat16), tokenizer, options.out / "bundled", True)


def averaged(*folders: Path) -> DiffusionVLQwenVLForConditionalGeneration:
    """The mean of checkpoints of one run, weight by weight (model soups, arXiv 2203.05482)."""
    models = [DiffusionVLQwenVLForConditionalGeneration.from_pretrained(f, dtype=torch.float32) for f in folders]
    states = [model.state_dict() for model in models]
    mean = {name: sum(state[name] for state in states) / len(states) for name in states[0]}
    models[0].load_state_dict(mean)
    return models[0]


if __name__ == "__main__":
    main()
