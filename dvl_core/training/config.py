"""What a training run is: one file of settings, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..tinyworld.pictures import CANVAS
from .settings import ConfigError, build, override, read_file, require


@dataclass(frozen=True)
class DataConfig:
    """Where conversations come from.

    Attributes:
        kind: "llava" (JSON or JSONL of id, image, conversations) or "tinyworld" (drawn as needed).
        files: of a llava set.
        image_folder: what the image paths in the files are relative to.
        samples: train on this many of the samples only, drawn by the run's seed (llava) or the first seeds
            (tinyworld); None for all, which for tinyworld has no end.
        held_out: llava samples kept out of training for the held-out loss. TinyWorld has a split of its own.
        first_seed: of TinyWorld's training pictures.
        picture_size: pixels per side at which TinyWorld is drawn.
        max_length: longest row in tokens, pictures included; later turns that do not fit are dropped, and counted in
            the log. None for the processor's own limit.
        workers: processes that read and encode; 0 does it in the training process.
    """

    kind: Literal["llava", "tinyworld"]
    files: tuple[str, ...] = ()
    image_folder: str = ""
    samples: int | None = None
    held_out: int = 0
    first_seed: int = 0
    picture_size: int = 192
    max_length: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        llava = self.kind == "llava"
        require(self, "files", bool(self.files) == llava,
                "name at least one JSON or JSONL file" if llava else "is for kind: llava; leave it out")
        require(self, "held_out", self.held_out >= 0 and (llava or not self.held_out),
                "must be 0 or more, and is for kind: llava (TinyWorld holds out its test split)")
        require(self, "samples", self.samples is None or self.samples > 0, "must be above 0, or null for all")
        require(self, "first_seed", self.first_seed >= 0, "must be 0 or more")
        require(self, "picture_size", self.picture_size >= CANVAS, f"must be at least {CANVAS} pixels")
        require(self, "max_length", self.max_length is None or self.max_length >= 16, "must be at least 16 tokens")
        require(self, "workers", self.workers >= 0, "must be 0 or more")


@dataclass(frozen=True)
class BetaNoiseConfig:
    """The beta-noise curriculum; see `options.beta_levels`.

    Attributes:
        enabled: None: on for the diffusion objective, because it helped there with every seed and costs nothing.
        mean, concentration: at the start and at the end.
        until: share of the run after which it stands still.
    """

    enabled: bool | None = None
    mean: tuple[float, float] = (0.8, 0.8)
    concentration: tuple[float, float] = (2.0, 50.0)
    until: float = 1.0

    def __post_init__(self) -> None:
        require(self, "mean", all(0 < m < 1 for m in self.mean), "both must lie between 0 and 1")
        require(self, "concentration", all(c > 0 for c in self.concentration), "both must be above 0")
        require(self, "until", 0 < self.until <= 1, "must be above 0 and at most 1")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised.

    Attributes:
        kind: "diffusion", or "autoregressive" (next token, to finetune a parent).
        block_size, low, high: of the blocks and of the noise; the model's own when None.
        spread: how a batch's noise levels are spread. "even": evenly over the batch and over each row, every block
            uniform by itself, the same on any number of devices. "published": in the order of the blocks of a
            device's micro-batch, as the published code does (later blocks are noisier). "independent": no spreading.
        weighting: "inverse_level" (1 / t, published) or "effective_mask_ratio".
        beta_noise, block_annealing, complementary: see `options`. auto_truncation: see `masks.within_turn`.
        ar_weight: share of the next-token loss, from a second, causal pass; 0 leaves the pass out.

    In the ablation of `assets/results` beta noise, complementary masks and the next-token mix helped with every seed;
    together, over many passes, they make a conversion on few samples keep its parent's accuracy. The first is on by
    default. The other two cost a further pass each: switch them on (`complementary: true`, `ar_weight: 0.5`) where
    samples are fewer than time.
    """

    kind: Literal["diffusion", "autoregressive"] = "diffusion"
    block_size: int | None = None
    low: float | None = None
    high: float | None = None
    spread: Literal["even", "published", "independent"] = "even"
    weighting: Literal["inverse_level", "effective_mask_ratio"] = "inverse_level"
    beta_noise: BetaNoiseConfig = field(default_factory=BetaNoiseConfig)
    block_annealing: bool = False
    auto_truncation: bool = False
    complementary: bool = False
    ar_weight: float = 0.0

    def __post_init__(self) -> None:
        require(self, "block_size", self.block_size is None or 1 <= self.block_size <= 512, "must be from 1 to 512")
        require(self, "low", self.low is None or 0 < self.low < 1, "must lie between 0 and 1")
        require(self, "high", self.high is None or (self.low or 0) < self.high <= 1, "must be above low, at most 1")
        require(self, "ar_weight", 0 <= self.ar_weight < 1,
                "must be from 0 to below 1; for next-token loss alone set kind: autoregressive")
        if self.beta_noise.enabled is None:
            object.__setattr__(self, "beta_noise", replace(self.beta_noise, enabled=self.kind == "diffusion"))
        if self.kind == "autoregressive":
            for name in ("ar_weight", "block_annealing", "auto_truncation", "complementary"):
                require(self, name, not getattr(self, name), "is for kind: diffusion; leave it out")
            if self.beta_noise.enabled:
                raise ConfigError("beta_noise.enabled", True, "is for kind: diffusion; leave it out")


@dataclass(frozen=True)
class RatesConfig:
    """Peak learning rate of each part of the model; 0 freezes the part."""

    vision: float = 2e-6
    projector: float = 1e-5
    language: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("vision", "projector", "language"):
            require(self, name, 0 <= getattr(self, name) < 1, "must be 0 (frozen) or a rate below 1")
        require(self, "language", self.vision + self.projector + self.language > 0, "every part is frozen: train one")


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move.

    Attributes:
        name: "adamw", or "muon" (matrices inside blocks by Muon, the rest by AdamW).
        lr: peak rates by part.
        weight_decay: of matrices; vectors are never decayed.
        betas, eps: of AdamW.
        muon_scale: Muon's rate is the part's rate times this.
        clip: largest norm of the gradient; 0 for no clipping.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: RatesConfig = field(default_factory=RatesConfig)
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    muon_scale: float = 10.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        require(self, "weight_decay", 0 <= self.weight_decay < 1, "must be from 0 to below 1")
        require(self, "betas", all(0 <= b < 1 for b in self.betas), "both must be from 0 to below 1")
        require(self, "eps", self.eps > 0, "must be above 0")
        require(self, "muon_scale", self.muon_scale > 0, "must be above 0")
        require(self, "clip", self.clip >= 0, "must be 0 (off) or more")


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and how the rate rises and falls.

    Attributes:
        steps: updates; or leave it out and give `epochs`.
        epochs: passes over the data.
        warmup: share of the updates in which the rate rises from 0.
        hold: share of the updates up to which the rate stays at its peak before it falls.
        decay: "cosine", "linear" or "constant".
        floor: the rate at the end, as a share of the peak.
    """

    steps: int | None = None
    epochs: float | None = None
    warmup: float = 0.03
    hold: float = 0.0
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    floor: float = 0.0

    def __post_init__(self) -> None:
        require(self, "steps", (self.steps is None) != (self.epochs is None), "give either steps or epochs")
        require(self, "steps", self.steps is None or self.steps > 0, "must be above 0")
        require(self, "epochs", self.epochs is None or self.epochs > 0, "must be above 0")
        require(self, "warmup", 0 <= self.warmup < 1, "must be from 0 to below 1")
        require(self, "hold", 0 <= self.hold < 1, "must be from 0 to below 1")
        require(self, "floor", 0 <= self.floor <= 1, "must be from 0 to 1")


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank adapters on the language model (LoRA, arXiv 2106.09685), through peft.

    Attributes:
        rank: 0 for none. Otherwise the language model itself is frozen and `optimizer.lr.language` is the adapters'.
        alpha, dropout: as in peft.
        targets: names of the linear layers that get one.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        require(self, "rank", self.rank >= 0, "must be 0 (off) or more")
        require(self, "alpha", self.alpha > 0, "must be above 0")
        require(self, "dropout", 0 <= self.dropout < 1, "must be from 0 to below 1")
        require(self, "targets", bool(self.targets), "name at least one linear layer")


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured while training.

    Attributes:
        every: updates between evaluations; 0 for none. There is one more at the start and one at the end.
        rows: held-out rows, always the same with the same noise.
        tasks: tasks of the TinyWorld benchmark to ask as well, or "all".
        samples: questions per task.
    """

    every: int = 0
    rows: int = 64
    tasks: tuple[str, ...] = ()
    samples: int = 16

    def __post_init__(self) -> None:
        require(self, "every", self.every >= 0, "must be 0 (off) or more")
        require(self, "rows", self.rows >= 0, "must be 0 or more")
        require(self, "samples", self.samples > 0, "must be above 0")
        require(self, "tasks", bool(self.every) or not self.tasks, "are asked when every is above 0: set it")


@dataclass(frozen=True)
class CheckpointConfig:
    """Resume points: one every `every` updates, the last `keep` of them kept."""

    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        require(self, "every", self.every > 0, "must be above 0")
        require(self, "keep", self.keep > 0, "must be above 0")


@dataclass(frozen=True)
class LoggingConfig:
    """log.jsonl is always written. `every`: updates per line; `tracker`: one of accelerate's, as well."""

    every: int = 10
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    progress: bool = True

    def __post_init__(self) -> None:
        require(self, "every", self.every > 0, "must be above 0")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        model: what to start from, anything that `dvl_core.load_model` loads.
        output: folder of the run: `checkpoints/`, `log.jsonl`, and at the end `model/`.
        batch: rows per update, over all devices.
        micro_batch: rows per device and forward pass; accumulation follows from it and the number of devices.
        seed: of order and noise.
        precision: of the computation; bfloat16 by autocast.
        weights: dtype in which frozen weights are held; what is trained is always held in float32.
        attention: under a "dense" mask; "auto": by FlexAttention on CUDA where its kernels take the model; "flex":
            wherever it can be. The same loss and gradients; see `flex.takes_flex`.
        gradient_checkpointing: recompute activations in the backward pass.
        ema_decay: of an exponential moving average of the weights, which is then what is evaluated and saved; 0 for
            none.
    """

    model: str
    output: str
    data: DataConfig
    schedule: ScheduleConfig
    batch: int
    micro_batch: int
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    weights: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "dense", "flex"] = "dense"
    gradient_checkpointing: bool = False
    ema_decay: float = 0.0
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        require(self, "micro_batch", self.micro_batch > 0, "must be above 0")
        require(self, "batch", self.batch >= self.micro_batch and self.batch % self.micro_batch == 0,
                f"must be a multiple of micro_batch, which is {self.micro_batch}")
        require(self, "seed", self.seed >= 0, "must be 0 or more")
        require(self, "ema_decay", 0 <= self.ema_decay < 1, "must be 0 (off) or below 1, for example 0.999")
        require(self, "weights", self.weights == "float32" or self.precision == "bfloat16",
                "needs precision: bfloat16, which casts as it goes")
        if self.schedule.epochs is not None and self.data.kind == "tinyworld" and self.data.samples is None:
            raise ConfigError("schedule.epochs", self.schedule.epochs,
                              "TinyWorld has no end: give schedule.steps, or data.samples")
        rows = self.evaluation.rows and (self.data.kind == "tinyworld" or self.data.held_out)
        if self.evaluation.every and not rows and not self.evaluation.tasks:
            raise ConfigError("evaluation.every", self.evaluation.every, "there is nothing to measure: set "
                              "data.held_out (with evaluation.rows above 0) or evaluation.tasks, or leave it out")
        if self.lora.rank and self.optimizer.lr.language == 0:
            raise ConfigError("lora.rank", self.lora.rank, "the adapters' rate, optimizer.lr.language, is 0: set it")

    def accumulation(self, processes: int) -> int:
        """Forward passes per update on each of `processes` devices. Raises ConfigError when it comes out uneven."""
        if self.batch % (self.micro_batch * processes):
            raise ConfigError("batch", self.batch, f"must be a multiple of micro_batch ({self.micro_batch}) times the "
                              f"number of processes ({processes})")
        return self.batch // (self.micro_batch * processes)


def load_config(path: str | Path, assignments: Sequence[str] = ()) -> TrainConfig:
    """The run that a YAML or JSON file and `field=value` assignments describe. Raises ConfigError."""
    return build(TrainConfig, override(read_file(Path(path)), list(assignments)))


def same_run(plain_config: dict[str, Any]) -> dict[str, Any]:
    """The fields that decide what is trained; a run can be resumed when these agree.

    Not among them is what only says how it is computed and watched, so that a run can move to other devices.
    """
    free = ("output", "evaluation", "checkpoints", "logging", "micro_batch", "attention", "gradient_checkpointing")
    fields = {name: value for name, value in plain_config.items() if name not in free}
    return fields | {"data": {name: value for name, value in fields["data"].items() if name != "workers"}}
