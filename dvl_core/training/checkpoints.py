"""Resume points and finished models, each written beside its place and moved there whole."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from ..folders import begin_beside, beside, finish_beside
from .ema import WeightAverage
from .parts import merged_state
from .settings import ConfigError, differences

STATE = "run.json"


def sharded(accelerator: Accelerator) -> bool:
    """Whether processes hold different parts of the weights."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.state.deepspeed_plugin.zero_stage == 3
    return accelerator.distributed_type == DistributedType.FSDP


def latest(folder: Path) -> Path | None:
    """The newest whole resume point of a run."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def _read(file: Path, *names: str) -> dict[str, Any]:
    """What a run has written down about itself, `names` among it. Raises ConfigError naming the folder and the file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not values.keys() >= set(names):
            raise ValueError("something is missing in it")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError("output", str(file.parent), f"its {file.name} can't be used ({reason}): "
                          "delete this folder, or choose another") from error
    return values


def check_same_run(folder: Path, fields: dict[str, Any]) -> None:
    """Refuse to continue a run with other settings than it began with. Raises ConfigError naming them.

    A folder with neither a resume point nor a finished model holds nothing to continue, and may begin anew.
    """
    if not latest(folder / "checkpoints") and not (folder / "model").exists():
        return
    if found := differences(_read(folder / STATE), fields):
        raise ConfigError("output", str(folder), f"holds a run with other settings ({'; '.join(found)}): "
                          "choose another folder, or delete this one")


def write_whole(place: Path, accelerator: Accelerator, write: Callable[[Path], None]) -> None:
    """Call `write` on every process with a folder that becomes `place` only when all have finished."""
    if accelerator.is_main_process:
        begin_beside(place)
    accelerator.wait_for_everyone()
    write(beside(place))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish_beside(place)
    accelerator.wait_for_everyone()


def save_point(folder: Path, update: int, keep: int, accelerator: Accelerator, state: dict[str, Any],
               average: WeightAverage | None) -> None:
    """Write everything that the run needs to go on after `update`; drop resume points beyond the last `keep`."""

    def write(place: Path) -> None:
        accelerator.save_state(str(place), safe_serialization=False)
        if average is not None and (sharded(accelerator) or accelerator.is_main_process):
            torch.save(average.state_dict(), place / f"average-{accelerator.process_index}.pt")
        if accelerator.is_main_process:
            (place / STATE).write_text(json.dumps(state))

    write_whole(folder / f"step-{update:06d}", accelerator, write)
    if accelerator.is_main_process:
        points = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        for old in points[:-keep]:
            shutil.rmtree(old)


def load_point(point: Path, accelerator: Accelerator, average: WeightAverage | None) -> dict[str, Any]:
    """Bring model, optimizer, random state and average back; returns the state that was saved with them."""
    state = _read(point / STATE, "update", "skipped", "window")
    accelerator.load_state(str(point))
    if average is not None:
        own = accelerator.process_index if sharded(accelerator) else 0
        average.load_state_dict(torch.load(point / f"average-{own}.pt", map_location=accelerator.device))
    return state


def save_model(place: Path, accelerator: Accelerator, learner: nn.Module, processor: Any, tied: bool,
               dtype: torch.dtype) -> None:
    """Write the model in the layout that `dvl_core.load_model` reads, adapters merged into their layers.

    Args:
        learner: as prepared by accelerate.
        tied: whether the output layer is the input embedding.
        dtype: of the stored weights.
    """
    state = accelerator.get_state_dict(learner)

    def write(folder: Path) -> None:
        if not accelerator.is_main_process:
            return
        model = accelerator.unwrap_model(learner).model
        named = merged_state({name.removeprefix("model."): value for name, value in state.items()}, model)
        if tied:
            named.pop("lm_head.weight", None)
        named = {name: v.to(dtype) if v.is_floating_point() else v for name, v in named.items()}
        model.config.dtype = dtype
        if accelerator.distributed_type == DistributedType.DEEPSPEED and sharded(accelerator):
            model._weight_conversions = None  # loading under ZeRO-3 leaves all there are, and saving would undo them
        model.save_pretrained(folder, state_dict=named, max_shard_size="4GB")
        processor.save_pretrained(folder)

    write_whole(place, accelerator, write)
