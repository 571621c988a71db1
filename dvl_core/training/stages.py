"""One stage of a bundled model's training: what is learnt from which pictures, for how long, and the loop itself."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..folders import begin_beside, finish_beside
from ..models.loading import resolve_device
from ..models.precision import fast_dtype, without_cudnn_attention
from ..tinyworld.labels import CELLS, HEADS, patch_heads
from .data import TASK_NAMES, StageData, add_tree_noise, loader
from .optimizer import MuonAdamW
from .packing import Packer
from .replay import Replay
from .settings import ConfigError
from .steps import PackedLanguage, VisionWarmup
from .whole import TABLE_SHARES, Pool, TableBatches, WholeBlocks

HEADS_FILE = "heads.safetensors"  # beside the checkpoint of the vision stage, no part of the model
READING_SHARES = (0.2, 0.4, 0.18, 0.1, 0.06, 0.05, 0.01)  # of `tinyworld.sampling.KINDS`: characters need most


@dataclass(frozen=True, kw_only=True)
class Stage(StageData):
    """One stage: what it draws, how long it goes on, and how fast it learns.

    Attributes:
        minutes: wall-clock budget, from the end of the first step on, which waits for pictures and compiles.
        samples: upper bound on pictures.
        muon_lr, adam_lr: peak learning rates.
        vision_scale: their factor for the vision tower, which stays as it is at 0.
        decay_from: share of the stage after which the learning rate falls linearly.
        reading: weight of the patches' loss beside the language model's, whose heads the vision stage left behind
            (which goes on with them itself where this is above 0).
        tables: pictures a step whose blocks are learnt whole beside the batch (`whole.WholeBlocks`).
    """

    minutes: float
    samples: int
    muon_lr: float = 0.015
    adam_lr: float = 2e-3
    vision_scale: float = 1.0
    decay_from: float = 0.5
    reading: float = 0.0
    tables: int = 0
    wild: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("minutes", "samples", "muon_lr", "adam_lr"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}={getattr(self, field)} must be above 0")
        if self.tables < 0:
            raise ValueError(f"tables={self.tables} must be at least 0")
        if self.tables and (self.stage != "diffusion" or self.vision_scale):
            raise ValueError(f"tables={self.tables}: only the diffusion stage has blocks, and the features of their "
                             "pictures are kept: set vision_scale to 0")
        if self.digits and not self.tables:
            raise ValueError("digits=True chooses blocks of tables: give tables")
        if self.reading and not self.vision_scale:
            raise ValueError(f"reading={self.reading} teaches the vision tower, which vision_scale=0 holds still")

    def factor(self, progress: float, step: int) -> float:
        """Learning-rate factor after a share `progress` of the stage: 50 steps of warm-up, constant, decay."""
        decay = min(1.0, (1.0 - progress) / (1.0 - self.decay_from))
        return max(0.01, decay) * min(1.0, (step + 1) / 50)


@dataclass(frozen=True)
class Hardware:
    """What a stage runs on: the device, the processes that draw pictures, and whether passes are compiled."""

    device: torch.device
    workers: int = 1
    compiled: bool = False

    @classmethod
    def of(cls, device: str = "auto", workers: int | None = None, compiled: bool = True) -> Hardware:
        """`auto` is a CUDA GPU where there is one; it gets a worker for every core but one, a CPU a single worker.

        Raises:
            ValueError: for a device that there isn't, or a number of workers that can't be.
        """
        if workers is not None and workers < 1:
            raise ConfigError("--workers", workers, "must be at least 1")
        if device == "auto" and not torch.cuda.is_available():
            device = "cpu"
        chosen, _ = resolve_device(device)
        if workers is None:
            workers = max(1, len(os.sched_getaffinity(0)) - 1) if chosen.type != "cpu" else 1
        return cls(chosen, workers, compiled)

    @property
    def attention(self) -> str:
        """SDPA, but on a CPU that multiplies bfloat16, where SDPA's backward pass is slow."""
        return "eager" if self.device.type == "cpu" and fast_dtype() == torch.bfloat16 else "sdpa"


CPU = Hardware(torch.device("cpu"))


@dataclass(frozen=True)
class Bundle:
    """What the stages have to know about one bundled family.

    view, margin, cells: how it sees pictures, as in `data.StageData`; save: writes (model, tokenizer, folder,
    diffusion); settle: what is done with (model, reader, pictures) after the vision warm-up, if anything.
    """

    view: Callable
    margin: float
    save: Callable
    settle: Callable | None = None
    cells: int = CELLS


def picture_slice(tokenizer, picture_tokens: int = CELLS**2) -> slice:
    """Where the picture stands in every packed row."""
    return Packer(tokenizer, picture_tokens, block_size=8, length=picture_tokens, diffusion=False).picture_at


def check_checkpoint(folder: Path, kind: type) -> None:
    """Refuse a folder that holds no model of a class, by what its config.json says. Raises ValueError."""
    wanted = kind.config_class.model_type
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no folder of a {wanted} model: it has no usable config.json") from error
    if found != wanted:
        raise ValueError(f"{folder} holds a {found} model, not a {wanted} one")


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


def run_stage(model, tokenizer, stage: Stage, log: Log, out: Path, bundle: Bundle, hardware: Hardware = CPU,
              folder: str | None = None) -> int:
    """Train one stage in place, on the hardware's device, where the model stays.

    Args:
        model: what is trained.
        tokenizer: its own.
        stage: what is learnt, and for how long.
        log: gets an entry every 50 steps.
        out: the model is written to its subfolder every minute and at the end.
        bundle: of the model's family.
        hardware: what it runs on.
        folder: name of the subfolder; the stage's by default.

    Returns:
        how many samples were learnt from, repeated ones included.

    Raises:
        ValueError: when most gradients between two log lines are not finite; single ones are passed over.
    """
    kind, diffusion, device = stage.stage, stage.stage == "diffusion", hardware.device
    folder = folder or kind
    module = _module(model, tokenizer, stage, out, bundle.cells).to(device)
    model.train()
    model.requires_grad_(False)
    trained = [(n, p) for n, p in module.named_parameters() if _learns(n, stage)]
    for _, parameter in trained:
        parameter.requires_grad_(True)
    optimizer = MuonAdamW(trained, stage.muon_lr, stage.adam_lr, stage.vision_scale)
    forward = _compiled(module, device) if hardware.compiled else module
    data = replace(stage, view=bundle.view, margin=bundle.margin, cells=bundle.cells)
    batches: Iterable = loader(data, tokenizer, hardware.workers)
    if device.type != "cpu":
        batches = Replay(batches, device)
    noise = torch.Generator(device).manual_seed(stage.first_seed)
    whole = _whole_blocks(model, module, data, tokenizer, hardware) if stage.tables else None
    began, saved, seen, tally = time.monotonic(), time.monotonic(), 0, Tally(device)
    for step, batch in enumerate(batches):
        minutes = (time.monotonic() - began) / 60
        progress = max(minutes / stage.minutes, seen / stage.samples)
        if progress >= 1:
            break
        if diffusion:
            batch = add_tree_noise(batch, data, tokenizer.mask_token_id, noise)
        precision = torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16)
        with precision, without_cudnn_attention(stage.length):
            loss = _loss(module, forward, batch, stage, tally)
            if whole:
                loss = loss + tally.add_whole(whole.next())
        optimizer.zero_grad()
        loss.backward()
        tally.passed_over += drop_unusable([parameter for _, parameter in trained])
        optimizer.step(stage.factor(progress, step))
        if step == 0:
            began = time.monotonic()
        seen += stage.batch
        if step % 50 == 49:
            drawn = {"drawn": batches.drawn * stage.batch} if isinstance(batches, Replay) else {}
            entry = tally.take()
            log.write(stage=folder, step=step + 1, samples=seen, **drawn, minutes=round(minutes, 2), **entry)
            if entry.get("passed_over", 0) > 25:
                raise ValueError(f"{folder}: most gradients of the last 50 steps were not finite; what was saved "
                                 f"before is in {out / folder}. Lower the learning rate.")
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            _save(bundle, model, tokenizer, out / folder, diffusion)
    if kind == "vision" and bundle.settle:
        bundle.settle(model, module.reader, batch["pictures"])
    _save(bundle, model, tokenizer, out / folder, diffusion)
    if kind == "vision":
        save_file(module.heads.state_dict(), out / kind / HEADS_FILE)
    log.write(stage=folder, done=True, samples=seen, minutes=round((time.monotonic() - began) / 60, 2))
    return seen


def _save(bundle: Bundle, model, tokenizer, place: Path, diffusion: bool) -> None:
    """Write the model beside its place and move it there whole: shards of two moments would load without complaint.

    The heads that lie there stay.
    """
    unfinished = begin_beside(place)
    bundle.save(model, tokenizer, unfinished, diffusion)
    if (place / HEADS_FILE).exists():
        shutil.copy(place / HEADS_FILE, unfinished)
    finish_beside(place)


def _compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its passes compiled: as a whole on a CPU; layer by layer, all of which share their code, on a
    GPU, where compiling the whole would take most of a short stage."""
    if device.type == "cpu":
        return torch.compile(module)
    module.compile_layers()
    return module


def _whole_blocks(model, module: PackedLanguage, data: Stage, tokenizer, hardware: Hardware) -> WholeBlocks:
    """What learns from tables beside a stage's own pictures."""
    tables = replace(data, batch=data.tables, shares=TABLE_SHARES, first_seed=data.first_seed + 10_000_000, wild=0.1)
    fresh = loader(tables, tokenizer, max(1, hardware.workers // 3), TableBatches)
    batches: Iterable
    if hardware.device.type == "cpu":
        reader = torch.compile(module.reader) if hardware.compiled else module.reader
        batches = Pool(fresh, reader, size=190, seed=data.first_seed)
    else:
        batches = Replay(fresh, hardware.device, keep=250, seed=data.first_seed)
    return WholeBlocks(model, module.reader, module.picture_at, batches, tokenizer.mask_token_id, data.block_size)


def _learns(name: str, stage: Stage) -> bool:
    """Whether a stage moves the parameter of that name."""
    if stage.stage == "projector":
        return "merger." in name
    return stage.vision_scale > 0 or "visual." not in name


def _module(model, tokenizer, stage: Stage, out: Path, cells: int = CELLS) -> nn.Module:
    """What a stage runs: pictures, or packed rows, to a loss."""
    heads = None
    if stage.stage == "vision" or stage.reading:
        warmup = VisionWarmup(model, patch_heads(cells))
        heads = warmup.heads
        if stage.reading:
            _take_heads(heads, load_file(out / "vision" / HEADS_FILE))
        if stage.stage == "vision":
            return warmup
    block_size = getattr(model.config, "bd3lm_block_size", 1)
    at = slice(0, 0) if stage.stage == "words" else picture_slice(tokenizer, cells**2)
    return PackedLanguage(model, at, block_size, stage.stage == "diffusion", heads)


def _take_heads(heads: nn.Module, given: dict[str, Tensor]) -> None:
    """Put earlier heads into new ones; those of a tower with other places (rows, columns) begin anew."""
    own = heads.state_dict()
    heads.load_state_dict({name: given[name] if given[name].shape == t.shape else t for name, t in own.items()})


def _loss(module, forward, batch: dict, stage: Stage, tally: Tally) -> Tensor:
    patches = {name: batch[name] for name in HEADS if name in batch}
    if stage.stage == "vision":
        loss, right = forward(batch["pictures"], patches)
        tally.add(loss, right)
        return loss
    weight = batch["weight"] if stage.stage == "diffusion" else autoregressive_weight(batch)
    mask = module.mask(batch["positions"], batch["segment"], batch["noisy"], batch["complement"])
    loss, right, reading = forward(batch["pictures"], batch["ids"], batch["positions"], mask, batch["labels"], weight,
                                   patches if stage.reading else None)
    if stage.stage == "diffusion":
        loss = loss / (batch["tasks"] >= 0).sum()
    tally.add(loss, reading=reading)
    tally.add_conversations(batch, right, weight > 0)
    return loss + stage.reading * reading


@torch.no_grad()
def drop_unusable(parameters: list[nn.Parameter]) -> Tensor:
    """Set every gradient to zero if one of them is not finite, so that one bad batch does not cost the model.

    Nothing leaves the device: what is decided there is done there.

    Returns:
        1.0 where that was done, else 0.0, on the parameters' device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    usable = torch.stack(torch._foreach_norm(gradients)).isfinite().all()
    for gradient in gradients:
        gradient.masked_fill_(~usable, 0.0)
    return 1.0 - usable.float()


def autoregressive_weight(batch: dict) -> Tensor:
    """Labelled tokens weighted by 1 / sqrt(tokens of the answer), normalised over the batch."""
    weight = batch["share"].sqrt() * (batch["labels"] >= 0)
    return weight / weight.sum()


class Tally:
    """Running means between two log lines; nothing leaves the device before they are taken."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device, self.steps, self.right = device, 0, {}
        self.passed_over = torch.zeros((), device=device)
        self.loss, self.reading, self.whole = torch.zeros(3, device=device)
        self.hits, self.totals = torch.zeros(2, len(TASK_NAMES), device=device)

    def add(self, loss: Tensor, right: dict[str, Tensor] | None = None, reading: Tensor | float = 0.0) -> None:
        """Add one step: its loss, the share right of every attribute of the patches, and the loss of the patches beside
        it."""
        self.steps += 1
        self.loss = self.loss + loss.detach().nan_to_num()  # a loss without a number moves nothing
        self.reading = self.reading + (reading.detach() if torch.is_tensor(reading) else reading)
        for name, share in (right or {}).items():
            self.right[name] = self.right.get(name, 0.0) + share.detach()

    def add_whole(self, loss: Tensor) -> Tensor:
        """Add a step's loss of whole blocks, and return it."""
        self.whole = self.whole + loss.detach().nan_to_num()
        return loss

    def add_conversations(self, batch: dict[str, Tensor], right: Tensor, counted: Tensor) -> None:
        """Add the conversations of a step, each to its task: right where every counted token is, bool [B, L]."""
        tasks = batch["tasks"]
        wrong = torch.zeros(tasks.shape, device=tasks.device)
        wrong.scatter_add_(1, batch["segment"].clamp(min=0), (counted & ~right).float())
        there = (tasks >= 0).float().flatten()
        of = tasks.clamp(min=0).flatten()
        self.totals.scatter_add_(0, of, there)
        self.hits.scatter_add_(0, of, there * (wrong == 0).flatten())

    def take(self) -> dict:
        """The means, rounded; starts over."""
        means = {name: round(float(share) / self.steps, 3) for name, share in sorted(self.right.items())}
        scores = zip(TASK_NAMES, self.hits.tolist(), self.totals.tolist(), strict=True)
        means |= {name: round(hits / total, 3) for name, hits, total in sorted(scores) if total}
        entry = {"loss": round(float(self.loss) / max(1, self.steps), 4)}
        if float(self.reading):
            entry["reading_loss"] = round(float(self.reading) / self.steps, 4)
        if float(self.whole):
            entry["whole_loss"] = round(float(self.whole) / self.steps, 4)
        if float(self.passed_over):
            entry["passed_over"] = int(self.passed_over)
        entry["right"] = means
        self.__init__(self.device)
        return entry
