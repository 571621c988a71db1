"""The parts of a model (vision tower, projector, language model): what is frozen, what gets adapters, which rate."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from .config import AdapterConfig, OptimizerConfig
from .settings import ConfigError

PARTS = ("vision", "projector", "language")
_PROJECTOR = re.compile(r"mm_projector|merger|image_newline|connector|multi_modal_projector")
_VISION = re.compile(r"visual\.|vision_tower|vision_model")


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name in the stock modules."""
    if _PROJECTOR.search(name):
        return "projector"
    return "vision" if _VISION.search(name) else "language"


def add_adapters(model: nn.Module, config: AdapterConfig, seed: int) -> None:
    """Put low-rank adapters on the language model's linear layers, in place. Needs peft.

    Raises:
        ConfigError: when no layer has one of the target names, or peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("lora.rank", config.rank, "needs peft: pip install peft") from error
    targets = [
        name for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and part_of(name) == "language" and name.split(".")[-1] in config.targets
    ]
    if not targets:
        raise ConfigError("lora.targets", config.targets, "the language model has no linear layers of these names")
    if model.lm_head.weight is model.get_input_embeddings().weight and any("lm_head" in name for name in targets):
        raise ConfigError("lora.targets", config.targets, "lm_head is this model's input embedding, too, and can't "
                          "have an adapter of its own: leave it out")
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model)


def freeze(model: nn.Module, optimizer: OptimizerConfig, adapters: bool) -> None:
    """Mark what is trained: parts with a rate above 0; of a language model with adapters, only those.

    What is trained becomes float32: a small update of a bfloat16 weight would be rounded away.
    """
    for name, parameter in model.named_parameters():
        part = part_of(name)
        chosen = getattr(optimizer.lr, part) > 0
        if part == "language" and adapters:
            chosen = "lora_" in name
        parameter.requires_grad_(chosen)
        if chosen:
            parameter.data = parameter.data.float()


def parameter_groups(named: list[tuple[str, nn.Parameter]], optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Optimizer groups of the trained parameters, by part and kind.

    Each has `params`, `lr`, `weight_decay` and `muon` (whether Muon moves it: matrices inside blocks).
    """
    groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            muon = optimizer.name == "muon" and parameter.ndim == 2 and _in_block(name)
            groups.setdefault((part_of(name), muon, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters, "muon": muon, "weight_decay": optimizer.weight_decay if matrix else 0.0,
            "lr": getattr(optimizer.lr, part) * (optimizer.muon_scale if muon else 1.0),
        }
        for (part, muon, matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]  # fmt: skip


def _in_block(name: str) -> bool:
    return bool(re.search(r"layers\.|blocks\.|merger\.|mm_projector\.", name))


def merged_state(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict in which adapters are added onto the layers they sit on, under the names of the plain model.

    Args:
        state: full state dict of a model, with or without adapters.
        model: the model, for the adapters' scale.
    """
    scales = {name: m.scaling["default"] for name, m in model.named_modules() if hasattr(m, "lora_A")}
    merged = {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
    for layer, scale in scales.items():
        down, up = (state[f"{layer}.lora_{kind}.default.weight"].float() for kind in "AB")
        weight = merged[f"{layer}.weight"]
        merged[f"{layer}.weight"] = (weight.float() + scale * (up @ down)).to(weight.dtype)
    return merged
