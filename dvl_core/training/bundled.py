"""Trains the bundled vision-language model: vision warm-up, autoregressive parent, diffusion conversion, polish.

    python -m dvl_core.training.bundled --out runs/tiny --minutes 20,60,40
    python -m dvl_core.training.bundled --out runs/tiny --minutes 1.4,3.4,2.6 --brief 0.1
    python -m dvl_core.training.bundled --out runs/tiny --from polish --polish 7

Every stage runs for its share of minutes (its learning rate follows the clock, so a short run is a whole run) or
until it has seen its `samples`, whichever comes first. On a GPU it takes large batches, drawn by all cores. `--start
FOLDER` begins with an earlier bundled model instead of random weights: tensors of the same name and shape are taken
over, and embeddings word by word; the new one sees pictures as large as that one, or of `--view` pixels. `--polish`
goes on with the conversion at a lower learning rate and teaches beside it what a whole masked block says at first,
which is what a confidence threshold lives by; with `--from polish` that is all, from the conversion in `--out` or from
`--start`.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..folders import make_folder
from ..models.configuration import DiffusionVLQwenVLConfig
from ..models.precision import flush_denormals
from ..models.qwen_vl import DiffusionVLQwenVLForConditionalGeneration
from ..processing.qwen_vl import DiffusionVLQwenVLProcessor
from ..tinyworld.labels import MARGIN, VIEW
from ..tinyworld.tokenizer import MASK, PICTURE, SYSTEM_PROMPT, TURN_END, build_tokenizer
from .data import framed
from .settings import ConfigError, numbers
from .stages import CPU, HEADS_FILE, READING_SHARES, Bundle, Hardware, Log, Stage, check_checkpoint, run_stage
from .steps import PICTURE_MEAN, PICTURE_STD

PATCH, MERGE = 8, 2
BEGINNINGS = ("vision", "autoregressive", "diffusion", "polish")  # the stages, in order
# Tokens beside the picture for five conversations with two noisy copies each: more conversations fill a row better, but
# what doesn't fit is left out, and of answers of 40 tokens and more that were more than half with seven in 432.
TWICE_NOISY = 496
HARD_SHARES = (0.25, 0.21, 0.23, 0.11, 0.09, 0.09, 0.02)  # of `tinyworld.sampling.KINDS`: more charts, tables and sums


def bundled_config(
    tokenizer, vision_width: int = 256, vision_depth: int = 4, view: int = VIEW
) -> DiffusionVLQwenVLConfig:
    """The VL family's configuration, small: pictures of `view` pixels a side, 16 x 16 to a token, eight layers."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (MASK, PICTURE, TURN_END)}
    return DiffusionVLQwenVLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 8,
            "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": ids[TURN_END],
            "pad_token_id": tokenizer.pad_token_id, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": vision_depth, "hidden_size": vision_width, "intermediate_size": 512,
            "num_heads": vision_width // 64, "patch_size": PATCH, "spatial_merge_size": MERGE,
            "temporal_patch_size": 2, "window_size": view, "out_hidden_size": 288,
            "fullatt_block_indexes": list(range(vision_depth)),
        },
        tie_word_embeddings=True, eos_token_id=ids[TURN_END], image_token_id=ids[PICTURE], mask_token_id=ids[MASK],
        enable_bd3lm=True, bd3lm_block_size=8,
        bd3lm_sampling_eps_min=0.1, min_pixels=view**2, max_pixels=view**2, image_aspect_ratio="pad",
    )


@torch.no_grad()
def calibrate(model, reader, pictures: torch.Tensor, rms: float = 0.5) -> None:
    """Scale the merger's last layer so that features enter the language model at a moderate size.

    The warm-up heads see normalised features, so it leaves their scale open.
    """
    factor = rms / reader(pictures).float().square().mean().sqrt()
    last = model.model.visual.merger.mlp[2]
    last.weight.mul_(factor)
    last.bias.mul_(factor)


def view_of(config: DiffusionVLQwenVLConfig) -> int:
    """Pixels per side that a bundled model sees of a picture."""
    return math.isqrt(config.max_pixels)


def cells_of(view: int) -> int:
    """Picture tokens per side of a picture of so many pixels."""
    return view // (PATCH * MERGE)


def bundled_processor(tokenizer, patch: int = PATCH, view: int = VIEW) -> DiffusionVLQwenVLProcessor:
    """The processor of the bundled model: one system turn, pictures padded to a square of one fixed size.

    Args:
        tokenizer: the bundled model's.
        patch, view: pixels per side of a patch and of a picture.
    """
    pictures = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=MERGE, temporal_patch_size=2, min_pixels=view**2, max_pixels=view**2,
        image_mean=list(PICTURE_MEAN), image_std=list(PICTURE_STD),
    )
    return DiffusionVLQwenVLProcessor(
        pictures, tokenizer, system_prompt=SYSTEM_PROMPT, max_prompt_tokens=1024, pad_to_square=True, fixed_size=view,
        margin=round(view * MARGIN),
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
    bundled_processor(tokenizer, view=view_of(model.config)).save_pretrained(folder)


def bundle_of(view: int = VIEW) -> Bundle:
    """What the stages have to know about models that see pictures of so many pixels a side."""
    return Bundle(partial(framed, view=view), MARGIN, save, calibrate, cells_of(view))


def bundled_stages(minutes: list[float], large: bool, skip: int = 0, view: int = VIEW) -> list[Stage]:
    """The three stages.

    Args:
        minutes: of each.
        large: with the batches of a GPU.
        skip: begin every stage this many pictures further on, behind what an earlier run has seen, and without easy
            ones.
        view: pixels per side of a picture.
    """
    vision, parent, conversion = minutes
    picture = cells_of(view) ** 2
    stages = [
        Stage("vision", batch=64, shares=READING_SHARES, pages=0.5,
              minutes=vision, samples=400_000, muon_lr=0.02, decay_from=0.3),
        Stage("autoregressive", batch=16, length=192 + picture, first_seed=1_000_000, easy=20_000,
              minutes=parent, samples=1_000_000, muon_lr=0.01, adam_lr=1.5e-3, vision_scale=0),
        Stage("diffusion", batch=16, length=288 + picture, first_seed=3_000_000, easy=4_000,
              minutes=conversion, samples=500_000, muon_lr=0.01, adam_lr=1e-3, vision_scale=0, decay_from=0.4),
    ]  # fmt: skip
    if large:
        stages = [replace(stage, batch=256, muon_lr=0.02, samples=10**8, wild=0.4, decay_from=0.3) for stage in stages]
        stages[1] = replace(stages[1], length=432 + picture, conversations=10, adam_lr=2e-3, vision_scale=0.3,
                            reading=0.1, easy=60_000, shares=HARD_SHARES)
        stages[2] = replace(stages[2], length=TWICE_NOISY + picture, conversations=5, muon_lr=0.015, adam_lr=1.2e-3,
                            easy=12_000, shares=HARD_SHARES, complementary=True)
    stages = [replace(stage, first_seed=stage.first_seed + skip) for stage in stages]
    return [stages[0], *(replace(stage, easy=0) for stage in stages[1:])] if skip else stages


def polish_stages(minutes: float, large: bool, skip: int = 0, view: int = VIEW) -> list[Stage]:
    """The conversion goes on, at a lower rate, and beside it the first pass over whole blocks of tables (`whole`): of
    those that end with a digit, where nearly all mistakes are, then of all.

    It needs the batches of a GPU: with those of a CPU, 18 minutes cost the bundled child 2.5 points and won no table.

    Args:
        minutes: of both parts.
        large: with the batches of a GPU.
        skip: begin this many pictures further on.
        view: pixels per side of a picture.
    """
    conversion = bundled_stages([minutes] * 3, large, skip, view)[2]
    part = replace(conversion, easy=0, tables=256 if large else 48, muon_lr=0.006, adam_lr=5e-4)
    first = part.first_seed + 20_000_000
    return [
        replace(part, digits=True, minutes=0.4 * minutes, first_seed=first, decay_from=0.9),
        replace(part, minutes=0.6 * minutes, first_seed=first + 20_000_000, decay_from=0.0),
    ]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked by argparse."""
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.training.bundled", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log.jsonl")
    parser.add_argument("--minutes", default="20,60,40",
                        help="wall-clock budget of the three stages (default 20,60,40)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights; the samples' seeds are fixed")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, help="processes that draw pictures; on a GPU one per core by default")
    parser.add_argument("--start", type=Path, help="folder of an earlier bundled model to begin with")
    parser.add_argument("--view", type=int, metavar="PIXELS",
                        help=f"per side of what the model sees of a picture; by default as --start has it, or {VIEW}")
    parser.add_argument("--skip", type=int, default=0,
                        help="begin every stage this many pictures further on, behind what an earlier run has "
                             "seen, and without easy ones")
    parser.add_argument("--from", dest="stage", default="vision", choices=BEGINNINGS,
                        help="go on with this stage, from the checkpoint of the stage before it in --out")
    parser.add_argument("--brief", default="", metavar="SHARES",
                        help="convert the new parent also with these shares of its samples (0.1, or 0.02,0.1), into "
                             "OUT/brief-0.1 and so on")
    parser.add_argument("--polish", type=float, default=0.0, metavar="MINUTES",
                        help="go on with the conversion for so long, at a lower rate, and teach the first pass over "
                             "whole blocks of tables beside it; for a GPU: a CPU's small batches lose by it")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Train every stage from the first one asked for, then write what there is of both models.

    Raises:
        ValueError: naming an option that can't be used.
    """
    minutes = numbers("--minutes", options.minutes, f"give 3 numbers above 0, for {', '.join(BEGINNINGS[:3])}", 3)
    shares = numbers("--brief", options.brief, "give shares above 0, such as 0.02,0.1") if options.brief else []
    if shares and options.stage in ("diffusion", "polish"):
        raise ConfigError("--brief", options.brief, f"needs a parent from this run: leave out --from {options.stage}")
    if options.start and options.stage in ("autoregressive", "diffusion"):
        raise ConfigError("--start", str(options.start), f"is not where {options.stage} begins: leave out --from")
    if options.skip < 0:
        raise ConfigError("--skip", options.skip, "must be 0 or more")
    if not 0 <= options.polish < math.inf or (options.stage == "polish" and not options.polish):
        raise ConfigError("--polish", options.polish, "give its minutes")
    if options.view is not None and (options.view < 64 or options.view % 64):
        raise ConfigError("--view", options.view, "must be a multiple of 64")  # whole blocks of picture tokens
    hardware = Hardware.of(options.device, options.workers, not options.no_compile)
    make_folder("out", options.out)
    torch.manual_seed(options.seed)
    tokenizer, large = build_tokenizer(), hardware.device.type != "cpu"
    model = _beginning(options, tokenizer, hardware)
    view = view_of(model.config)
    bundle = bundle_of(view)
    three = bundled_stages(minutes, large, options.skip, view)
    stages = {name: [stage] for name, stage in zip(BEGINNINGS, three, strict=False)}
    if options.polish:
        stages["polish"] = polish_stages(options.polish, large, options.skip, view)
    if _has_heads(options):  # what the tower knows is not learnt again
        stages["vision"] = [replace(stages["vision"][0], reading=1.0)]
    log = Log(options.out / "log.jsonl")
    log.write(parameters=sum(p.numel() for p in model.parameters()), vision=sum(
        p.numel() for p in model.model.visual.parameters()), tokens=len(tokenizer), seed=options.seed)
    learnt = 0
    for name in BEGINNINGS[BEGINNINGS.index(options.stage) : len(stages)]:
        for share in shares if name == "diffusion" and learnt else ():
            brief = replace(stages[name][0], minutes=60.0, samples=max(1, int(learnt * share)))
            parent = load(options.out / "autoregressive", hardware)
            run_stage(parent, tokenizer, brief, log, options.out, bundle, hardware, f"brief-{share:g}")
        for stage in stages[name]:
            learnt = run_stage(model, tokenizer, stage, log, options.out, bundle, hardware, name)
    for name in ("diffusion", "autoregressive"):
        last = options.out / ("polish" if options.polish and name == "diffusion" else name)
        if last.exists():
            save(load(last).to(torch.bfloat16), tokenizer, options.out / "bundled" / name, name == "diffusion")


def _has_heads(options: argparse.Namespace) -> bool:
    """Whether the vision stage begins with the heads that lie beside `--start`."""
    return options.stage == "vision" and bool(options.start) and (options.start / HEADS_FILE).exists()


def _beginning(options: argparse.Namespace, tokenizer, hardware: Hardware) -> DiffusionVLQwenVLForConditionalGeneration:
    """The model that the first stage begins with: of the stage before it, of `--start`, or random."""
    before = BEGINNINGS.index(options.stage) - 1
    if before >= 0 and not options.start:
        try:
            model = load(options.out / BEGINNINGS[before], hardware)
        except (ValueError, OSError) as error:
            raise ConfigError("--from", options.stage, f"goes on from the stage before it: {error}") from error
        if options.view not in (None, view_of(model.config)):
            raise ConfigError("--view", options.view, f"the model in --out sees {view_of(model.config)}: leave it out")
        return model
    if not options.start:
        return new_model(tokenizer, options.view or VIEW, hardware)
    try:
        model = taken_over(tokenizer, options.start, options.view, hardware)
    except (ValueError, OSError) as error:
        raise ConfigError("--start", str(options.start), f"is no earlier bundled model: {error}") from error
    if _has_heads(options):
        (options.out / "vision").mkdir(exist_ok=True)
        shutil.copy(options.start / HEADS_FILE, options.out / "vision")
    return model


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 on an option that can't be used, with one sentence on standard error."""
    options = parse(arguments)
    flush_denormals()
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"bundled: {error}", file=sys.stderr)
        return 2
    return 0


def load(folder: Path, hardware: Hardware = CPU) -> DiffusionVLQwenVLForConditionalGeneration:
    """A checkpoint of a stage, in float32, with the attention that the hardware does best.

    Raises:
        ValueError: for a folder that holds none.
    """
    check_checkpoint(folder, DiffusionVLQwenVLForConditionalGeneration)
    return DiffusionVLQwenVLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=hardware.attention
    )


def new_model(tokenizer, view: int = VIEW, hardware: Hardware = CPU) -> DiffusionVLQwenVLForConditionalGeneration:
    """A bundled model with random weights (of torch's current seed)."""
    config = bundled_config(tokenizer, view=view)
    config._attn_implementation = hardware.attention
    return DiffusionVLQwenVLForConditionalGeneration(config)


@torch.no_grad()
def taken_over(
    tokenizer, folder: Path, view: int | None = None, hardware: Hardware = CPU
) -> DiffusionVLQwenVLForConditionalGeneration:
    """A new bundled model with the weights of an earlier one.

    A token that the earlier one knew keeps its embedding; a new word begins as the mean of what it was spelt with.

    Args:
        tokenizer: of the new model.
        folder: of the earlier one.
        view: pixels per side that the new one sees of a picture; None for as many as the earlier one.
        hardware: what the new one will be trained on.

    Raises:
        ValueError: if a tensor is missing or has another shape.
    """
    earlier = load(folder)
    given = earlier.state_dict()
    model = new_model(tokenizer, view or view_of(earlier.config), hardware)
    for name, tensor in model.state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:
            continue
        if name not in given or given[name].shape != tensor.shape:
            raise ValueError(f"{folder}: {name} is not {tuple(tensor.shape)} there")
        tensor.copy_(given[name])
    spelling = PreTrainedTokenizerFast.from_pretrained(folder)
    known, words = spelling.get_vocab(), model.get_input_embeddings().weight
    of_old = earlier.get_input_embeddings().weight
    for token, number in tokenizer.get_vocab().items():
        text = tokenizer.convert_tokens_to_string([token])
        pieces = [known[token]] if token in known else spelling(text, add_special_tokens=False).input_ids
        words[number] = of_old[pieces].mean(0)
    return model


if __name__ == "__main__":
    sys.exit(main())
