"""The training run: what a configuration describes, from the first update (or the last resume point) to the model."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    gather_object,
    parse_flag_from_env,
    set_seed,
)
from PIL import Image

from ..folders import make_folder
from ..models.loading import load_model
from ..models.precision import without_cudnn_attention
from .checkpoints import check_same_run, latest, load_point, save_model, save_point, sharded
from .config import TrainConfig, same_run
from .ema import WeightAverage
from .learner import QUARTILES, Learner
from .logs import RunLog, by_level_entry, check_tracker
from .measure import HeldOut, benchmark, check_tasks, to_device
from .muon import build_optimizer
from .parts import add_adapters, freeze, parameter_groups
from .rows import RowEncoder
from .schedule import rate_factor
from .settings import ConfigError, plain
from .stream import Plan, SlotBatches, SlotRows, batches, open_data


@dataclass
class Window:
    """Sums since the last line of the log, over all processes."""

    updates: int = 0
    loss: float = 0.0
    levels: list[list[float]] = field(default_factory=lambda: [[0.0, 0.0] for _ in range(QUARTILES)])

    def add(self, loss: float, levels: list[list[float]]) -> None:
        """One update."""
        self.updates += 1
        self.loss += loss
        self.levels = [[a + c, b + d] for (a, b), (c, d) in zip(self.levels, levels, strict=True)]


class Trainer:
    """One run. `run()` does it, or what is left of it.

    Args:
        config: all settings.

    Raises:
        ConfigError: for settings that do not go together, with the data, the devices or an earlier run.
        CheckpointError: when the model can't be loaded.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.folder = config, Path(config.output)
        self.tasks = check_tasks(config.evaluation)
        check_tracker(config.logging)
        make_folder("output", self.folder)
        check_same_run(self.folder, same_run(plain(config)))
        self.accelerator = _accelerator(config)
        self._check_sharding()
        set_seed(config.seed)
        self.data = open_data(config.data, config.seed)
        self.updates = _updates(config, self.data.size)
        self._load()
        self.update, self.window, self.skipped, self.dropped = 0, Window(), 0, 0

    def _check_sharding(self) -> None:
        split, kind = sharded(self.accelerator), self.accelerator.distributed_type
        whole = kind not in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if not whole and self.config.optimizer.name == "muon":
            raise ConfigError("optimizer.name", "muon", "needs whole matrices: use adamw with FSDP and DeepSpeed")
        if split and self.config.weights != "float32":
            raise ConfigError("weights", self.config.weights, "must be float32 where weights are sharded")
        if split and self.config.evaluation.tasks:
            raise ConfigError("evaluation.tasks", self.config.evaluation.tasks,
                              "can't be asked while weights are sharded: leave it out")
        if split and kind == DistributedType.DEEPSPEED and self.config.ema_decay:
            raise ConfigError("ema_decay", self.config.ema_decay, "does not go with DeepSpeed ZeRO-3: use FSDP")

    def _load(self) -> None:
        """Model, processor, optimizer and average, prepared for the devices."""
        config, objective = self.config, self.config.objective
        model, self.processor = load_model(config.model, device="cpu", dtype=config.weights)
        _mark(model.config, config)
        self.block_size = model.config.bd3lm_block_size
        if config.lora.rank:
            add_adapters(model, config.lora, config.seed)
        freeze(model, config.optimizer, bool(config.lora.rank))
        if config.gradient_checkpointing:
            # the older name is deprecated where both exist
            name = next(n for n in ("activation_checkpointing_enable", "gradient_checkpointing_enable")
                        if hasattr(model, n))
            getattr(model, name)({"use_reentrant": False})
        self.tied = model.lm_head.weight is model.get_input_embeddings().weight
        self.encode = RowEncoder(self.processor, model.eos_token_ids[0], config.data.max_length)
        tokenizer = self.processor.tokenizer
        self.pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        learner = Learner(model, objective, _dummy(self.processor), config.attention).train()
        optimizer = build_optimizer(parameter_groups(list(learner.named_parameters()), config.optimizer),
                                    config.optimizer)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.learner, self.optimizer = self.accelerator.prepare(learner, optimizer)
        named = list(self.accelerator.unwrap_model(self.learner).named_parameters())
        self.average = WeightAverage(named, config.ema_decay) if config.ema_decay else None

    def run(self) -> Path:
        """Train to the end. Returns the folder of the finished model, at once where this very run made it before."""
        finished = self.folder / "model"
        if (finished / "config.json").exists():
            return finished
        self._resume()
        self.log = RunLog(self.folder, self.config, self.accelerator, self.update, self.updates)
        self._record()
        self.log.write(self.update, processes=self.accelerator.num_processes, device=self.accelerator.device.type)
        with self.log.bar:
            if self.update == 0:
                self._measure()
            self._train()
        with self._averaged():
            dtype = getattr(torch, self.config.precision)
            save_model(finished, self.accelerator, self.learner, self.processor, self.tied, dtype)
        self.log.close()
        return finished

    def _resume(self) -> None:
        point = latest(self.folder / "checkpoints")
        if point is None:
            return
        state = load_point(point, self.accelerator, self.average)
        self.update, self.skipped, self.window = state["update"], state["skipped"], Window(**state["window"])
        self.dropped = state.get("dropped", 0)

    def _record(self) -> None:
        if self.accelerator.is_main_process and self.update == 0:
            (self.folder / "run.json").write_text(json.dumps(same_run(plain(self.config)), indent=1))

    @without_cudnn_attention()
    def _train(self) -> None:
        config, plan = self.config, self._plan()
        slots = SlotBatches(self.update, self.updates, config.batch, config.micro_batch,
                            self.accelerator.process_index, self.accelerator.num_processes)
        rows = SlotRows(self.data.train, self.data.train_order, self.encode, plan)
        if self.update < self.updates:
            rows[self.update * config.batch]  # a wrong folder is found here, where the message can be read
        loader = batches(rows, slots, self.pad_id, config.data.workers, self.accelerator.device.type == "cuda")
        sums = torch.zeros(3 + 2 * QUARTILES, device=self.accelerator.device)  # skipped, loss, levels, dropped
        skipped: list[tuple[str, str]] = []
        began = time.monotonic()
        for batch in loader:
            skipped += batch.pop("skipped")
            sums[-1] += batch.pop("dropped")
            self._set_rates()
            with self.accelerator.accumulate(self.learner):
                result = self.learner(to_device(batch, self.accelerator.device), plan.block_at(self.update),
                                      plan.progress(self.update))
                self.accelerator.backward(result["loss"])
                sums[1:-1] += self.accelerator.unwrap_model(self.learner).measured
                norm = self._step()
            if self.accelerator.sync_gradients:
                sums[0] = len(skipped)
                self._finish_update(sums, skipped, norm, began)
                sums, skipped = torch.zeros_like(sums), []

    def _plan(self) -> Plan:
        return Plan(self.config.batch, self.updates, self.config.seed, self.block_size, self.config.objective)

    def _set_rates(self) -> None:
        """Before the backward pass, in which DeepSpeed moves the weights."""
        self.factor = rate_factor(self.update, self.updates, self.config.schedule)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.factor

    def _step(self) -> float | None:
        """Clip and move the weights when the gradients of an update are complete; returns their norm.

        Raises:
            ValueError: when it is not finite: it would leave no weight that is a number, nor would what is saved next.
        """
        norm = None
        if self.accelerator.sync_gradients:
            limit = self.config.optimizer.clip or math.inf
            norm = self.accelerator.clip_grad_norm_(self.learner.parameters(), limit)  # None before DeepSpeed knows
            norm = None if norm is None else float(norm)
            if norm is not None and not math.isfinite(norm):
                raise ValueError(f"the gradient became {norm} at update {self.update + 1}: lower optimizer.lr, or clip "
                                 "harder; the run goes on from its last resume point")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _finish_update(self, sums: torch.Tensor, skipped: list[tuple[str, str]], norm: float | None,
                       began: float) -> None:
        """Count, log, measure and save, as the number of the update says."""
        config = self.config
        if self.average is not None:
            self.average.update()
        total = self.accelerator.reduce(sums, "sum").tolist()
        passes = config.batch // config.micro_batch
        loss = total[1] / passes
        self.window.add(loss, [total[i : i + 2] for i in range(2, 2 + 2 * QUARTILES, 2)])
        self.update += 1
        self.skipped += int(total[0])
        self.dropped += int(total[-1])
        self.log.advance(loss, self.skipped)
        if total[0]:
            self.log.skip(self.update, gather_object(skipped))
        if not math.isfinite(loss):
            raise ValueError(f"the loss became {loss} at update {self.update}: lower optimizer.lr, or clip harder")
        last = self.update == self.updates
        if self.update % config.logging.every == 0 or last:
            self._log_window(norm, began)
        if config.evaluation.every and (self.update % config.evaluation.every == 0 or last):
            self._measure()
        if self.update % config.checkpoints.every == 0 or last:
            state = {"update": self.update, "skipped": self.skipped, "dropped": self.dropped,
                     "window": asdict(self.window)}
            save_point(self.folder / "checkpoints", self.update, config.checkpoints.keep, self.accelerator, state,
                       self.average)

    def _log_window(self, norm: float | None, began: float) -> None:
        window = self.window
        self.log.write(
            self.update, loss=window.loss / window.updates, by_level=by_level_entry(window.levels),
            rate=self.factor, **({} if norm is None else {"gradient_norm": round(norm, 6)}),
            block_size=self._plan().block_at(self.update - 1), samples=self.update * self.config.batch,
            skipped_samples=self.skipped, dropped_turns=self.dropped, seconds=round(time.monotonic() - began, 2),
        )  # fmt: skip
        self.window = Window()

    def _measure(self) -> None:
        """The held-out loss and the benchmark, with the averaged weights where there is an average."""
        evaluation = self.config.evaluation
        if not evaluation.every:
            return
        begins = not hasattr(self, "held_out")
        if begins:
            self.held_out = HeldOut(self.config, self.data, self.encode, self.block_size, self.pad_id,
                                    self.accelerator)
        with self._averaged():
            found = self.held_out.measure(self.learner)
            if evaluation.tasks and self.accelerator.is_main_process:
                model = self.accelerator.unwrap_model(self.learner).model
                found |= benchmark(model, self.processor, self.tasks, evaluation.samples)
            self.accelerator.wait_for_everyone()
        if begins:  # the same rows every time
            self.log.skip(self.update, self.held_out.skipped, rows="held out")
        if found:
            self.log.write(self.update, **found)

    def _averaged(self) -> Any:
        return self.average.in_place() if self.average is not None else nullcontext()


def _accelerator(config: TrainConfig) -> Accelerator:
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")  # read by accelerate only where no state exists yet
    processes = PartialState(cpu=cpu).num_processes
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if processes < launched:
        raise ValueError(f"{launched} processes were launched and each would train alone: "
                         "set ACCELERATE_USE_CPU=true for processes without GPUs")
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if config.precision == "bfloat16" else "no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.accumulation(processes), sync_with_dataloader=False
        ),
        log_with=None if config.logging.tracker == "none" else config.logging.tracker,
        project_dir=config.output,
        step_scheduler_with_optimizer=False,
        # some towers have weights that the model does not use, such as a last norm whose input is taken
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)],
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:  # what it would read off a loader, and its own clip
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": config.micro_batch, "gradient_clipping": config.optimizer.clip,
        }  # fmt: skip
    return accelerator


def _updates(config: TrainConfig, size: int | None) -> int:
    if config.schedule.steps is not None:
        return config.schedule.steps
    return max(1, math.ceil(config.schedule.epochs * size / config.batch))


def _mark(model_config: Any, config: TrainConfig) -> None:
    """Write into the model's configuration what it is trained as."""
    objective = config.objective
    model_config.enable_bd3lm = objective.kind == "diffusion"
    for name, value in (("block_size", objective.block_size), ("sampling_eps_min", objective.low),
                        ("sampling_eps_max", objective.high)):
        if value is not None:
            setattr(model_config, f"bd3lm_{name}", value)
    if not model_config.bd3lm_sampling_eps_min < model_config.bd3lm_sampling_eps_max:
        raise ConfigError("objective.high", model_config.bd3lm_sampling_eps_max,
                          f"must be above the lowest noise, {model_config.bd3lm_sampling_eps_min}")
    if model_config.bd3lm_sampling_eps_min <= 0:
        raise ConfigError("objective.low", model_config.bd3lm_sampling_eps_min,
                          "the model's own lowest noise is 0 and 1 / t has no end: set it, for example to 0.001")


def _dummy(processor: Any) -> dict[str, torch.Tensor]:
    """Model inputs of one small picture."""
    content = [{"type": "image", "image": Image.new("RGB", (56, 56))}, {"type": "text", "text": "?"}]
    inputs = dict(processor.apply_chat_template([{"role": "user", "content": content}]))
    inputs.pop("attention_mask")
    return inputs
