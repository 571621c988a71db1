"""Trains the bundled vision-language model: vision warm-up, autoregressive parent, diffusion conversion.

    python -m dvl_core.training.bundled --out runs/tiny --minutes 20,60,40

Every stage runs for its share of minutes (its learning rate follows the clock, so a short run is a whole run) or
until it has seen its `samples`, whichever comes first. `--start FOLDER` begins with an earlier bundled model instead
of random weights: tensors of the same name and shape are taken over, and embeddings word by word.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..models.configuration import DiffusionVLQwenVLConfig
from ..models.qwen_vl import DiffusionVLQwenVLForConditionalGeneration
from ..processing.qwen_vl import DiffusionVLQwenVLProcessor
from ..tinyworld.labels import CELLS, HEADS, MARGIN, patch_heads
from ..tinyworld.pictures import CANVAS
from ..tinyworld.sampling import KIND_SHARES
from ..tinyworld.tokenizer import MASK, PICTURE, SYSTEM_PROMPT, TURN_END, build_tokenizer
from .data import STAGES, TASK_NAMES, StageData, framed, loader
from .optimizer import MuonAdamW
from .packing import Packer
from .precision import fast_dtype, flush_denormals
from .steps import PICTURE_MEAN, PICTURE_STD, PackedLanguage, VisionWarmup

PATCH, MERGE = 8, 2
HEADS_FILE = "heads.safetensors"  # beside the checkpoint of the vision stage, no part of the model
READING_SHARES = (0.2, 0.4, 0.18, 0.1, 0.06, 0.05, 0.01)  # of `tinyworld.sampling.KINDS`: characters need most
PICTURE_TOKENS = (CANVAS // PATCH // MERGE) ** 2


@dataclass(frozen=True)
class Stage:
    """Length, batch and learning rates of one stage.

    name: what is learnt, one of `data.STAGES`; minutes: wall-clock budget; samples: upper bound on pictures; length:
    tokens per packed row; muon_lr, adam_lr: peak learning rates; vision_scale: their factor for the vision tower,
    which stays as it is at 0; decay_from: share of the stage after which the learning rate falls linearly; first_seed:
    of the samples; shares: of the kinds of pictures; reading: weight of the patches' loss beside the language model's,
    whose heads the vision stage left behind (which goes on with them itself where this is above 0); pages: share of
    pages full of characters in the vision stage (`tinyworld.sampling.sample_page`); easy: samples over which the share
    of easy pictures falls from all of them to none (`tinyworld.sampling.simplified`).
    """

    name: str
    minutes: float
    samples: int
    batch: int = 32
    length: int = 256
    muon_lr: float = 0.015
    adam_lr: float = 2e-3
    vision_scale: float = 1.0
    decay_from: float = 0.5
    first_seed: int = 0
    shares: tuple[float, ...] = KIND_SHARES
    reading: float = 0.0
    pages: float = 0.0
    easy: int = 0

    def __post_init__(self) -> None:
        if self.name not in STAGES:
            raise ValueError(f"name={self.name!r} must be one of {', '.join(STAGES)}")
        for field in ("minutes", "samples", "batch", "muon_lr", "adam_lr"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}={getattr(self, field)} must be above 0")
        if self.reading and not self.vision_scale:
            raise ValueError(f"reading={self.reading} teaches the vision tower, which vision_scale=0 holds still")

    def factor(self, progress: float, step: int) -> float:
        """Learning-rate factor after a share `progress` of the stage: 50 steps of warm-up, constant, decay."""
        decay = min(1.0, (1.0 - progress) / (1.0 - self.decay_from))
        return max(0.01, decay) * min(1.0, (step + 1) / 50)


def bundled_config(tokenizer, vision_width: int = 192, vision_depth: int = 3) -> DiffusionVLQwenVLConfig:
    """The VL family's configuration, small: 128 x 128 pictures, 64 picture tokens, six decoder layers."""
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


def picture_slice(tokenizer, picture_tokens: int = PICTURE_TOKENS) -> slice:
    """Where the picture stands in every packed row."""
    return Packer(tokenizer, picture_tokens, block_size=8, length=picture_tokens, diffusion=False).picture_at


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


def run_stage(model, tokenizer, stage: Stage, log: Log, out: Path, compiled: bool,
              bundle: Bundle | None = None) -> None:
    """Train one stage in place; writes the model to `out`/<stage> every few minutes and at its end."""
    kind, diffusion, bundle = stage.name, stage.name == "diffusion", bundle or VL
    module = _module(model, tokenizer, stage, out, bundle.cells)
    model.train()
    model.requires_grad_(False)
    trained = [(n, p) for n, p in module.named_parameters() if _learns(n, stage)]
    for _, parameter in trained:
        parameter.requires_grad_(True)
    optimizer = MuonAdamW(trained, stage.muon_lr, stage.adam_lr, stage.vision_scale)
    forward = torch.compile(module) if compiled else module
    data = StageData(kind, stage.batch, stage.length, stage.first_seed, shares=stage.shares, pages=stage.pages,
                     easy=stage.easy, view=bundle.view, margin=bundle.margin, cells=bundle.cells)
    began, saved, seen, tally = time.monotonic(), time.monotonic(), 0, Tally()
    for step, batch in enumerate(loader(data, tokenizer)):
        minutes = (time.monotonic() - began) / 60
        progress = max(minutes / stage.minutes, seen / stage.samples)
        if progress >= 1:
            break
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            loss = _loss(module, forward, batch, stage, tally)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(stage.factor(progress, step))
        seen += stage.batch
        if step % 50 == 49:
            log.write(stage=stage.name, step=step + 1, samples=seen, minutes=round(minutes, 2), **tally.take())
        if time.monotonic() - saved > 180:
            saved = time.monotonic()
            bundle.save(model, tokenizer, out / stage.name, diffusion)
    if kind == "vision" and bundle.settle:
        bundle.settle(model, module.reader, batch["pictures"])
    bundle.save(model, tokenizer, out / stage.name, diffusion)
    if kind == "vision":
        save_file(module.heads.state_dict(), out / stage.name / HEADS_FILE)
    log.write(stage=stage.name, done=True, samples=seen, minutes=round((time.monotonic() - began) / 60, 2))


def _learns(name: str, stage: Stage) -> bool:
    """Whether a stage moves the parameter of that name."""
    if stage.name == "projector":
        return "merger." in name
    return stage.vision_scale > 0 or "visual." not in name


def _module(model, tokenizer, stage: Stage, out: Path, cells: int = CELLS) -> nn.Module:
    """What a stage runs: pictures, or packed rows, to a loss."""
    heads = None
    if stage.name == "vision" or stage.reading:
        warmup = VisionWarmup(model, patch_heads(cells))
        heads = warmup.heads
        if stage.reading:
            heads.load_state_dict(load_file(out / "vision" / HEADS_FILE))
        if stage.name == "vision":
            return warmup
    block_size = getattr(model.config, "bd3lm_block_size", 1)
    at = slice(0, 0) if stage.name == "words" else picture_slice(tokenizer, cells**2)
    return PackedLanguage(model, at, block_size, stage.name == "diffusion", heads)


@torch.no_grad()
def calibrate(model, reader, pictures: torch.Tensor, rms: float = 0.5) -> None:
    """Scale the merger's last layer so that features enter the language model at a moderate size.

    The warm-up heads see normalised features, so it leaves their scale open.
    """
    factor = rms / reader(pictures).float().square().mean().sqrt()
    last = model.model.visual.merger.mlp[2]
    last.weight.mul_(factor)
    last.bias.mul_(factor)


def _loss(module, forward, batch: dict, stage: Stage, tally: Tally) -> torch.Tensor:
    patches = {name: batch[name] for name in HEADS if name in batch}
    if stage.name == "vision":
        loss, right = forward(batch["pictures"], patches)
        tally.add(loss, {name: (value, 1) for name, value in right.items()})
        return loss
    weight = batch["weight"] if stage.name == "diffusion" else autoregressive_weight(batch)
    mask = module.mask(batch["positions"], batch["segment"], batch["noisy"])
    loss, right, reading = forward(batch["pictures"], batch["ids"], batch["positions"], mask, batch["labels"], weight,
                                   patches if stage.reading else None)
    conversations = (batch["tasks"] >= 0).sum() if stage.name == "diffusion" else 1
    loss = loss / conversations
    tally.add(loss, conversation_accuracy(batch, right, weight > 0), reading)
    return loss + stage.reading * reading


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
        self.loss, self.reading, self.steps, self.right, self.count = 0.0, 0.0, 0, Counter(), Counter()

    def add(self, loss: torch.Tensor, right: dict, reading: torch.Tensor | float = 0.0) -> None:
        """Add one step: its loss, (right, of) per name, and the loss of the patches beside it."""
        self.loss += float(loss.detach())
        self.reading += float(reading.detach()) if torch.is_tensor(reading) else reading
        self.steps += 1
        for name, (hits, total) in right.items():
            self.right[name] += float(hits)
            self.count[name] += total

    def take(self) -> dict:
        """The means, rounded; starts over."""
        means = {name: round(self.right[name] / self.count[name], 3) for name in sorted(self.count)}
        entry = {"loss": round(self.loss / max(1, self.steps), 4)}
        if self.reading:
            entry["reading_loss"] = round(self.reading / self.steps, 4)
        entry["right"] = means
        self.__init__()
        return entry


def bundled_processor(tokenizer, patch: int = PATCH) -> DiffusionVLQwenVLProcessor:
    """The processor of the bundled model: one system turn, pictures padded to a square of one fixed size.

    Args:
        tokenizer: the bundled model's.
        patch: pixels per side of a patch, for a tower that takes others.
    """
    pictures = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=MERGE, temporal_patch_size=2, min_pixels=CANVAS**2, max_pixels=CANVAS**2,
        image_mean=list(PICTURE_MEAN), image_std=list(PICTURE_STD),
    )
    return DiffusionVLQwenVLProcessor(
        pictures, tokenizer, system_prompt=SYSTEM_PROMPT, max_prompt_tokens=1024, pad_to_square=True, fixed_size=CANVAS,
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


@dataclass(frozen=True)
class Bundle:
    """What the stages have to know about one bundled family.

    view, margin, cells: how it sees pictures, as in `data.StageData`; save: writes (model, tokenizer, folder,
    diffusion); settle: what is done with (model, reader, pictures) after the vision warm-up, if anything.
    """

    view: Callable
    margin: int
    save: Callable
    settle: Callable | None = None
    cells: int = CELLS


VL = Bundle(framed, MARGIN, save, calibrate)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log.jsonl")
    parser.add_argument("--minutes", default="20,60,40", help="wall-clock budget of the three stages")
    parser.add_argument("--seed", type=int, default=0, help="of the weights; the samples' seeds are fixed")
    parser.add_argument("--start", type=Path, help="folder of an earlier bundled model to begin with")
    parser.add_argument("--skip", type=int, default=0,
                        help="begin every stage this many pictures further on, behind what an earlier run has "
                             "seen, and the parent without easy ones")
    parser.add_argument("--from", dest="stage", default="vision", choices=("vision", "autoregressive", "diffusion"),
                        help="go on with this stage, from the checkpoint of the stage before it in --out")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    flush_denormals()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    minutes = [float(part) for part in options.minutes.split(",")]
    stages = [
        Stage("vision", minutes[0], 400_000, batch=64, muon_lr=0.02, decay_from=0.3, shares=READING_SHARES,
              pages=0.5),
        Stage("autoregressive", minutes[1], 1_000_000, batch=16, muon_lr=0.01, adam_lr=1.5e-3, vision_scale=0,
              first_seed=1_000_000, easy=0 if options.skip else 20_000),
        Stage("diffusion", minutes[2], 500_000, batch=16, length=352, muon_lr=0.01, adam_lr=1e-3, vision_scale=0,
              decay_from=0.4, first_seed=3_000_000, easy=4_000),
    ]
    stages = [replace(stage, first_seed=stage.first_seed + options.skip) for stage in stages]
    begin = [stage.name for stage in stages].index(options.stage)
    if begin:
        model = load(options.out / stages[begin - 1].name)
    else:
        config = bundled_config(tokenizer)
        config._attn_implementation = attention()
        model = DiffusionVLQwenVLForConditionalGeneration(config)
        if options.start:
            take_over(model, tokenizer, options.start)
        if options.start and (options.start / HEADS_FILE).exists():  # what the tower knows is not learnt again
            (options.out / "vision").mkdir(exist_ok=True)
            shutil.copy(options.start / HEADS_FILE, options.out / "vision")
            stages[0] = replace(stages[0], reading=1.0)
    log = Log(options.out / "log.jsonl")
    log.write(parameters=sum(p.numel() for p in model.parameters()), vision=sum(
        p.numel() for p in model.model.visual.parameters()), tokens=len(tokenizer), seed=options.seed)
    for stage in stages[begin:]:
        run_stage(model, tokenizer, stage, log, options.out, not options.no_compile)
    for name, diffusion in (("autoregressive", False), ("diffusion", True)):
        save(load(options.out / name).to(torch.bfloat16), tokenizer, options.out / "bundled" / name, diffusion)


def attention() -> str:
    """The faster attention for training on this CPU: SDPA's backward pass is slow in bfloat16, and good in float32."""
    return "eager" if fast_dtype() == torch.bfloat16 else "sdpa"


def load(folder: Path) -> DiffusionVLQwenVLForConditionalGeneration:
    """A checkpoint of a stage, in float32."""
    return DiffusionVLQwenVLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention()
    )


@torch.no_grad()
def take_over(model, tokenizer, folder: Path) -> None:
    """Put the weights of an earlier bundled model into a new one.

    A token that the earlier one knew keeps its embedding; a new word begins as the mean of what it was spelt with.

    Raises:
        ValueError: if a tensor is missing or has another shape.
    """
    earlier = load(folder)
    spelling = PreTrainedTokenizerFast.from_pretrained(folder)
    known, given, words = spelling.get_vocab(), earlier.state_dict(), model.get_input_embeddings().weight
    of_old = earlier.get_input_embeddings().weight
    for token, number in tokenizer.get_vocab().items():
        text = tokenizer.convert_tokens_to_string([token])
        pieces = [known[token]] if token in known else spelling(text, add_special_tokens=False).input_ids
        words[number] = of_old[pieces].mean(0)
    for name, tensor in model.state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:
            continue
        if name not in given or given[name].shape != tensor.shape:
            raise ValueError(f"{folder}: {name} is not {tuple(tensor.shape)} there")
        tensor.copy_(given[name])


if __name__ == "__main__":
    main()
