"""What is measured while training: the loss on held-out rows, and the TinyWorld benchmark with few questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from .config import BetaNoiseConfig, EvaluationConfig, ObjectiveConfig, TrainConfig
from .logs import by_level_entry
from .objective import IGNORE
from .rows import Row, RowEncoder
from .settings import ConfigError
from .stream import DataSet, Plan, SlotBatches, SlotRows, batches


def check_tasks(config: EvaluationConfig) -> list[str] | None:
    """The benchmark tasks asked for; None for all. Raises ConfigError for an unknown one."""
    from ..tinyworld import TASKS

    for task in config.tasks:
        if task != "all" and task not in TASKS:
            raise ConfigError("evaluation.tasks", task, f"must be all, or some of {', '.join(TASKS)}")
    return None if "all" in config.tasks else list(config.tasks)


def standing(objective: ObjectiveConfig) -> ObjectiveConfig:
    """The objective with nothing that changes during a run, so that losses can be compared along it."""
    return replace(objective, beta_noise=BetaNoiseConfig(enabled=False), block_annealing=False, complementary=False,
                   ar_weight=0.0, weighting="inverse_level", spread="even")


class HeldOutRows(SlotRows):
    """The held-out rows, and behind them rows in which nothing is learnt, to fill the last passes.

    So what is measured does not depend on how many rows a pass has.
    """

    def __getitem__(self, slot: int) -> Row:
        row = super().__getitem__(min(slot, self.plan.batch - 1))
        if slot >= self.plan.batch:
            row.labels, row.skipped = torch.full_like(row.labels, IGNORE), []
        return row


class HeldOut:
    """The loss on the same held-out rows with the same noise, every time.

    Args:
        config: of the run.
        data: its samples.
        encode: messages to rows.
        block_size: tokens per block.
        pad_id: of short rows.
        accelerator: deals the rows to processes.

    Attributes:
        skipped: (name, reason) of samples that could not be used, known once `measure` was called.
    """

    def __init__(self, config: TrainConfig, data: DataSet, encode: RowEncoder, block_size: int, pad_id: int,
                 accelerator: Accelerator) -> None:
        self.accelerator, self.block_size, self.skipped = accelerator, block_size, []
        self.objective = standing(config.objective)
        share = config.micro_batch * accelerator.num_processes
        rows = config.evaluation.rows
        if data.held_out_order is not None and data.held_out_order.indices is not None:
            rows = min(rows, len(data.held_out_order.indices))
        self.rows, self.micro = rows if data.held_out is not None else 0, config.micro_batch
        if self.rows:
            plan = Plan(self.rows, 1, config.seed, block_size, self.objective)
            whole_passes = -(-self.rows // share) * share
            slots = SlotBatches(0, 1, whole_passes, config.micro_batch, accelerator.process_index,
                                accelerator.num_processes)
            source = HeldOutRows(data.held_out, data.held_out_order, encode, plan)
            self.loader = batches(source, slots, pad_id, 0, False)

    def measure(self, learner: nn.Module) -> dict[str, Any]:
        """`held_out_loss`, `held_out_by_level` and, where samples were replaced, their number as `held_out_skipped`;
        nothing where there are no held-out rows."""
        if not self.rows:
            return {}
        inner = self.accelerator.unwrap_model(learner)
        kept, inner.objective = inner.objective, self.objective
        learner.eval()
        total, skipped = torch.zeros(9, dtype=torch.float64), []
        try:
            with torch.no_grad():
                for batch in self.loader:
                    skipped += batch.pop("skipped")
                    batch.pop("dropped")
                    learner(to_device(batch, self.accelerator.device), self.block_size, 1.0)
                    total += inner.measured.double().cpu()
        finally:
            inner.objective = kept
            learner.train()
        whole = self.accelerator.reduce(total.to(self.accelerator.device, torch.float32), "sum")
        loss, *levels = (whole * self.micro / self.rows).tolist()  # the loss of a pass is a mean over its rows
        self.skipped = gather_object(skipped)
        return {"held_out_loss": round(loss, 6),
                "held_out_by_level": by_level_entry([levels[i : i + 2] for i in range(0, 8, 2)]),
                **({"held_out_skipped": len(self.skipped)} if self.skipped else {})}


def benchmark(model: Any, processor: Any, tasks: list[str] | None, samples: int) -> dict[str, Any]:
    """Exact match on TinyWorld's test split: per task, and their mean."""
    from ..evaluation import evaluate

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            exact = {score.task: score.exact for score in evaluate(model, processor, tasks, samples)}
    finally:
        model.train(training)
    return {"exact": exact, "mean_exact": round(sum(exact.values()) / len(exact), 4)}


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch of `rows.collate` on a device."""
    move = {name: value.to(device, non_blocking=True) for name, value in batch.items() if torch.is_tensor(value)}
    pictures = {name: value.to(device, non_blocking=True) for name, value in batch["pictures"].items()}
    return batch | move | {"pictures": pictures}
