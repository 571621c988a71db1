"""`load_model`: model and processor of a checkpoint in one call, refusing what is not one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ..families import MODEL_TYPES
from .checkpoint import CheckpointError


def load_model(path_or_repo: str | Path, device: str = "auto", dtype: str | torch.dtype = "auto") -> tuple[Any, Any]:
    """Load a DiffusionVL checkpoint in the published layout.

    Args:
        path_or_repo: a folder, or a repository on the Hugging Face Hub.
        device: "auto" (the first GPU, else Apple's, else the CPU), any torch device, or "balanced" to spread the
            model over all GPUs through accelerate.
        dtype: "auto" (as stored on a GPU; float32 on a CPU), a torch dtype or its name.

    Returns:
        `(model, processor)`, the model in evaluation mode.

    Raises:
        CheckpointError: when the checkpoint is not one, or its tensors are missing, extra or of the wrong shape.
        ValueError: for a device or dtype that does not exist.
    """
    source = str(path_or_repo)
    check_folder(source)
    target, device_map = resolve_device(device)
    resolved = resolve_dtype(dtype, target)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source} can't be loaded: {_first_line(error)}") from error
    if config.model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{source} is a {config.model_type!r} checkpoint, not a DiffusionVL one ({' or '.join(MODEL_TYPES)}). "
            "An autoregressive checkpoint becomes one with python -m dvl_core.translate."
        )
    if device_map is None and target.type != "cpu":
        device_map = {"": target}  # straight onto the device, never whole in the host's memory
    options = {"device_map": device_map} if device_map else {}
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, config=config, dtype=resolved, **options)
    except OSError as error:
        raise CheckpointError(f"The weights of {source} can't be read: {_first_line(error)}") from error
    return model.eval(), AutoProcessor.from_pretrained(source)


def check_folder(source: str) -> None:
    """Refuse a path that exists but is no checkpoint folder. Raises CheckpointError."""
    path = Path(source).expanduser()
    looks_local = path.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1
    if not looks_local:
        return
    if not path.is_dir():
        raise CheckpointError(
            f"There is no folder {source}. Give a checkpoint folder or a repository such as owner/name."
        )
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{source} is not a checkpoint folder: it has no config.json.")


def resolve_device(device: str) -> tuple[torch.device, str | None]:
    """The device named, and the accelerate device map when the model is to be spread."""
    if device == "balanced":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu"), "auto"
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), None
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu"), None
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, balanced, cpu, cuda, cuda:N or mps; got {device!r}.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: torch finds no CUDA GPU here; use cpu, or install torch with CUDA.")
    return chosen, None


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | str:
    """The dtype named; "auto" keeps the stored one, except on a CPU, where float32 is exact and faster."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    chosen = getattr(torch, dtype, None)
    if not isinstance(chosen, torch.dtype):
        raise ValueError(f"dtype must be auto, float32, bfloat16 or float16; got {dtype!r}.")
    return chosen


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
