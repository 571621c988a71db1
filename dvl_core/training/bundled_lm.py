"""Trains the bundled language-model family: a language model without eyes becomes a block-diffusion model with eyes.

    python -m dvl_core.training.bundled_lm --out runs/tinylm --minutes 25,20,2,45
    python -m dvl_core.training.bundled_lm --out runs/tinylm --minutes 25,20,2,45 --stages words --go-on 1
    python -m dvl_core.training.bundled_lm --score runs/tinylm/words
    python -m dvl_core.training.bundled_lm --out runs/tinylm --minutes 15,10,2,40 --easy

Four stages, each for its share of minutes, with one translation in the middle:

1. `vision`: a SigLIP tower learns what is in each patch, without any language;
2. `words`: a plain Qwen2 language model learns TinyWorld's questions on pictures that are described in words;
   then `dvl_core.translate` joins the two, as it joins Qwen2.5-7B and SigLIP2; the projector between them is random;
3. `projector`: the projector alone, next-token loss;
4. `diffusion`: everything, the block-diffusion loss.

A stage that was too short goes on with `--go-on 1`, then 2, …: from its own checkpoint, with new samples and a learning
rate that rises and falls once more. `--easy` keeps to pictures with little in them, which a CPU learns in an hour or
two. `--score` asks a language model about described pictures of the test split.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from ..evaluation.tinyworld import SEEDS_PER_RUN
from ..folders import make_folder
from ..models.loading import check_folder
from ..models.precision import flush_denormals
from ..models.qwen_lm import DiffusionVLQwenForConditionalGeneration
from ..processing.qwen_lm import DiffusionVLQwenProcessor
from ..tinyworld.description import describe
from ..tinyworld.pictures import CANVAS
from ..tinyworld.tokenizer import SYSTEM_PROMPT, TURN_END, build_tokenizer
from ..tinyworld.world import TASKS, sample, task_sample
from ..translation import TranslationConfig, translate
from .data import picture_bytes
from .packing import Packer
from .settings import ConfigError, numbers
from .stages import CPU, READING_SHARES, Bundle, Hardware, Log, Stage, check_checkpoint, run_stage
from .steps import TileReader

PATCH, SIDE = 8, 96  # pixels: of a patch, of the one view of a picture
KINDS = {"vision": SiglipVisionModel, "words": Qwen2ForCausalLM}
STAGES = ("vision", "words", "projector", "diffusion")


def words_config(tokenizer) -> Qwen2Config:
    """A plain Qwen2 language model, small: six layers of width 192."""
    return Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, rms_norm_eps=1e-6,
        bos_token_id=None, eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END), pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip


def tower_config() -> SiglipVisionConfig:
    """A SigLIP tower, small: 144 patches of 8 pixels. Its last layer is never used: translation drops it.

    Patches of 16 pixels, 64 of 128 x 128, would be cheaper for the decoder, but hardly learn to tell shapes and
    characters apart: after 5,600 pictures a tower of that kind had .18 and .15 of them right, this one .25 and .22.
    """
    return SiglipVisionConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=192, intermediate_size=576, num_hidden_layers=4,
        num_attention_heads=3, vision_use_head=False,
    )  # fmt: skip


def picture_processor() -> SiglipImageProcessorPil:
    """The stock SigLIP picture processor, for pictures of 96 x 96 pixels."""
    return SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})


def bundled_processor(tokenizer) -> DiffusionVLQwenProcessor:
    """The processor of the bundled model: one system turn, one view of a picture, padded to a square."""
    return DiffusionVLQwenProcessor(
        picture_processor(), tokenizer, system_prompt=SYSTEM_PROMPT, max_prompt_tokens=1024, patch_size=PATCH,
        image_aspect_ratio="pad", image_grid_pinpoints=[[SIDE, SIDE]],
    )  # fmt: skip


def save(model, tokenizer, folder: Path, diffusion: bool) -> None:
    """Write a checkpoint of any stage, shards under 10 MB: a tower, a language model, or both joined.

    Args:
        model: float32 or bfloat16.
        tokenizer: goes into the folder too, except a tower's.
        folder: made where missing.
        diffusion: mark a joined model as a block-diffusion model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, DiffusionVLQwenForConditionalGeneration):
        model.config.enable_bd3lm = diffusion
        bundled_processor(tokenizer).save_pretrained(folder)
    elif isinstance(model, SiglipVisionModel):
        picture_processor().save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="9MB")


def load(folder: Path, kind: type = DiffusionVLQwenForConditionalGeneration, hardware: Hardware = CPU):
    """A checkpoint of a stage, in float32, with the attention that the hardware does best.

    Raises:
        ValueError: for a folder that holds none.
    """
    check_checkpoint(folder, kind)
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation=hardware.attention)


@torch.no_grad()
def join(out: Path, pictures: torch.Tensor, hardware: Hardware = CPU) -> DiffusionVLQwenForConditionalGeneration:
    """Translate the language model of `out`/words, with the tower of `out`/vision, into `out`/translated.

    The random projector is then scaled so that a picture's tokens enter the decoder about as large as words do.

    Args:
        pictures: uint8 [B, 96, 96, 3], to measure the projector's outputs on.
        hardware: what the model will be trained on.
    """
    shutil.rmtree(out / "translated", ignore_errors=True)
    translate(out / "words", out / "translated", TranslationConfig(vision_tower=str(out / "vision")))
    model = load(out / "translated", hardware=hardware)
    model.config.image_aspect_ratio, model.config.image_grid_pinpoints = "pad", [[SIDE, SIDE]]
    model.config.bd3lm_sampling_eps_min = 0.1
    factor = model.get_input_embeddings().weight.std() / TileReader(model)(pictures).std()
    model.mm_projector[2].weight.mul_(factor)
    model.mm_projector[2].bias.mul_(factor)
    return model


def described_prompt(packer: Packer, picture, question: str) -> list[int]:
    """Token ids of a question about a picture that is described in words, up to where the answer begins."""
    packer.instead_of_picture(describe(picture))
    return packer.trunk + packer.conversation(((question, ""),))[0]


@torch.no_grad()
def score_words(
    model, tokenizer, tasks: Iterable[str], samples: int, seed: int = 0, easy: bool = False
) -> Iterator[tuple[str, float]]:
    """Exact match of a language model on described test pictures, greedy; (task, share right) one by one.

    Args:
        model: any causal language model of transformers.
        tokenizer: its own.
        tasks: names in `tinyworld.TASKS`.
        samples: questions per task.
        seed, easy: which test pictures, as in `evaluation.evaluate_task`.
    """
    packer = Packer(tokenizer, 0, 1, 1, False)
    for task in tasks:
        asked = [task_sample(task, "test", seed * SEEDS_PER_RUN + i, easy) for i in range(samples)]
        right = 0
        for start in range(0, samples, 25):
            some = asked[start : start + 25]
            rows = [described_prompt(packer, picture, question) for picture, question, _ in some]
            length = max(map(len, rows))
            ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(row)) + row for row in rows])
            real = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
            made = model.generate(input_ids=ids, attention_mask=real, max_new_tokens=96, do_sample=False)
            said = tokenizer.batch_decode(made[:, length:], skip_special_tokens=True)
            right += sum(text == wanted for text, (_, _, wanted) in zip(said, some, strict=True))
        yield task, right / samples


def bundled_stages(minutes: list[float], large: bool = False, easy: bool = False) -> list[Stage]:
    """The four stages, given their minutes; `large`: with the batches of a GPU; `easy`: of easy pictures alone."""
    vision, words, projector, diffusion = minutes
    stages = [
        Stage("vision", batch=32, shares=READING_SHARES, pages=0.5,
              minutes=vision, samples=400_000, muon_lr=0.02, decay_from=0.3),
        Stage("words", batch=16, first_seed=1_000_000, easy=8_000,
              minutes=words, samples=400_000, muon_lr=0.01, adam_lr=1.5e-3),
        Stage("projector", batch=16, length=320, first_seed=2_000_000,
              minutes=projector, samples=100_000, muon_lr=0.01, adam_lr=1e-3),
        Stage("diffusion", batch=16, length=400, first_seed=3_000_000, easy=8_000,
              minutes=diffusion, samples=400_000, muon_lr=0.01, adam_lr=1.5e-3, vision_scale=0.5, decay_from=0.4,
              reading=0.1),
    ]  # fmt: skip
    if large:
        stages = [replace(stage, batch=256, muon_lr=0.02, samples=10**8) for stage in stages]
        stages[1] = replace(stages[1], length=512, conversations=10, easy=40_000)
        stages[2] = replace(stages[2], length=512, conversations=7)
        stages[3] = replace(stages[3], length=640, conversations=5, complementary=True)
    if easy:
        stages = [replace(stage, only_easy=True, easy=0, pages=0.0, wild=0.0) for stage in stages]
    return stages


def train(out: Path, stages: list[Stage], tokenizer, hardware: Hardware = CPU, go_on: int = 0) -> None:
    """Run stages in order; what came before the first of them is read from `out`.

    Args:
        out: folder for checkpoints, log and, after the last stage, `bundled`: both models in bfloat16.
        stages: some of `bundled_stages`.
        tokenizer: of both models.
        hardware: what they run on.
        go_on: how many times the stages were run already: they begin with their own checkpoints, and with samples
            that they have not seen. 0 begins anew.
    """
    out.mkdir(parents=True, exist_ok=True)
    bundle = Bundle(bundled_processor(tokenizer).square_view, 0, save, cells=SIDE // PATCH)
    log = Log(out / "log.jsonl")
    for stage in stages:
        if go_on:
            kind = KINDS.get(stage.stage, DiffusionVLQwenForConditionalGeneration)
            model = load(out / stage.stage, kind, hardware)
            reading = stage.reading or float(stage.stage == "vision")
            stage = replace(stage, first_seed=stage.first_seed + 500_000 * go_on, reading=reading, easy=0)
        else:
            model = _start(stage.stage, tokenizer, out, hardware)
        log.write(stage=stage.stage, parameters=sum(p.numel() for p in model.parameters()), tokens=len(tokenizer))
        run_stage(model, tokenizer, stage, log, out, bundle, hardware)
        if stage.stage == "diffusion":
            save(model.to(torch.bfloat16), tokenizer, out / "bundled" / "tinylm", True)
            save(load(out / "words", Qwen2ForCausalLM).bfloat16(), tokenizer, out / "bundled" / "tinylm-ar", False)


def _start(stage: str, tokenizer, out: Path, hardware: Hardware):
    """The model that a stage begins with."""
    if stage == "vision":
        return SiglipVisionModel._from_config(tower_config())
    if stage == "words":
        return Qwen2ForCausalLM._from_config(words_config(tokenizer), attn_implementation=hardware.attention)
    if stage == "projector":
        view = bundled_processor(tokenizer).square_view
        drawn = [picture_bytes(sample("train", seed).picture, CANVAS, view)[0] for seed in range(64)]
        return join(out, torch.from_numpy(np.stack(drawn)), hardware)
    return load(out / "projector", hardware=hardware)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked by argparse."""
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.training.bundled_lm", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder for checkpoints and log.jsonl")
    what.add_argument("--score", metavar="MODEL", help="a language model to ask about described pictures")
    parser.add_argument("--minutes", default="25,20,2,45",
                        help="wall-clock budget of the four stages (default 25,20,2,45)")
    parser.add_argument("--stages", default=",".join(STAGES),
                        help="which of them to run; what comes before the first is read from --out")  # fmt: skip
    parser.add_argument("--go-on", type=int, default=0, metavar="N",
                        help="the stage's Nth continuation: begin with its own checkpoint in --out")  # fmt: skip
    parser.add_argument("--easy", action="store_true", help="pictures with little in them alone")
    parser.add_argument("--samples", type=int, default=200, help="of --score: questions per task (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, or of the test pictures of --score")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, help="processes that draw pictures; on a GPU one per core by default")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    return parser.parse_args(arguments)


def score(options: argparse.Namespace) -> None:
    """Print a language model's exact match on described pictures. Raises ValueError naming a bad option."""
    if options.samples < 1:
        raise ConfigError("--samples", options.samples, "must be at least 1")
    try:
        check_folder(options.score)
        model = AutoModelForCausalLM.from_pretrained(options.score, dtype=torch.float32).eval()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.score)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("--score", options.score, f"is no language model that can be loaded: {reason}") from error
    scores = dict(score_words(model, tokenizer, TASKS, options.samples, options.seed, options.easy))
    print(json.dumps({"mean": sum(scores.values()) / len(scores)} | scores, indent=1))


def run(options: argparse.Namespace) -> None:
    """Train the stages asked for. Raises ValueError naming a bad option."""
    minutes = numbers("--minutes", options.minutes, f"give {len(STAGES)} numbers above 0, for {', '.join(STAGES)}",
                      len(STAGES))
    wanted = options.stages.split(",")
    if set(wanted) - set(STAGES):
        raise ConfigError("--stages", options.stages, f"must be some of {','.join(STAGES)}")
    first, last = min(map(STAGES.index, wanted)), max(map(STAGES.index, wanted))
    if missing := set(STAGES[first : last + 1]) - set(wanted):
        between = [stage for stage in STAGES if stage in missing and not (options.out / stage).is_dir()]
        if between:
            raise ConfigError("--stages", options.stages, f"leaves out {','.join(between)}, which is not in --out")
    if options.go_on < 0:
        raise ConfigError("--go-on", options.go_on, "must be 0 or more")
    hardware = Hardware.of(options.device, options.workers, options.compile)
    make_folder("out", options.out)
    torch.manual_seed(options.seed)
    flush_denormals()
    stages = bundled_stages(minutes, hardware.device.type != "cpu", options.easy)
    stages = [stage for stage in stages if stage.stage in wanted]
    train(options.out, stages, build_tokenizer(), hardware, options.go_on)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 on an option that can't be used, with one sentence on standard error."""
    options = parse(arguments)
    try:
        (score if options.score else run)(options)
    except (ValueError, OSError) as error:
        print(f"bundled_lm: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
