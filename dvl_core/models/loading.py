"""Model and processor of a checkpoint, refusing what is not one: `load_model` at once, `outline_model` with its weights
still to be read, so that a server can show itself first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ..families import MODEL_TYPES
from .checkpoint import CONFIG_ERRORS, CheckpointError, first_line
from .precision import fast_dtype

_DTYPES = ("float32", "bfloat16", "float16")
_WIDE = 512  # least width from which a CPU with bfloat16 instructions gains by them
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what damaged files raise inside transformers
_ONE_AT_A_TIME = threading.Lock()  # transformers builds models under process-wide switches


def load_model(path_or_repo: str | Path, device: str = "auto", dtype: str | torch.dtype = "auto") -> tuple[Any, Any]:
    """Load a DiffusionVL checkpoint in the published layout.

    Args:
        path_or_repo: a folder, or a repository on the Hugging Face Hub.
        device: "auto" (the first GPU, else Apple's, else the CPU), any torch device, or "balanced" to spread the
            model over all GPUs through accelerate.
        dtype: "auto" (as `resolve_dtype` has it), a torch dtype or its name.

    Returns:
        `(model, processor)`, the model in evaluation mode.

    Raises:
        CheckpointError: when the checkpoint is not one, or its tensors are missing, extra or of the wrong shape.
        ValueError: for a device or dtype that does not exist.
    """
    checkpoint = _Checkpoint(path_or_repo, device, dtype)
    processor = checkpoint.processor()  # first: what is missing there need not wait for the weights
    return checkpoint.load(), processor


@dataclass(frozen=True)
class Outline:
    """A checkpoint whose weights are still to be read.

    Attributes:
        model: the whole module on the meta device: its shapes and its configuration, no numbers.
        processor: ready to use.
        device: where the model will be.
        load: reads the weights; gives the model in evaluation mode, or raises `CheckpointError`.
    """

    model: Any
    processor: Any
    device: torch.device
    load: Callable[[], Any]


def outline_model(path_or_repo: str | Path, device: str = "auto", dtype: str | torch.dtype = "auto") -> Outline:
    """What is known of a checkpoint before its weights are read; arguments and errors as of `load_model`."""
    checkpoint = _Checkpoint(path_or_repo, device, dtype)
    return Outline(checkpoint.shell(), checkpoint.processor(), checkpoint.device, checkpoint.load)


def outline_parent(path_or_repo: str | Path, device: str = "auto", dtype: str | torch.dtype = "auto") -> Outline:
    """`outline_model` of an autoregressive model; a block-diffusion one is a `CheckpointError`."""
    outline = outline_model(path_or_repo, device, dtype)
    if outline.model.config.enable_bd3lm:
        raise CheckpointError(f"parent: {path_or_repo} is a block-diffusion model. Give an autoregressive one to "
                              "compare with, such as the one that it was made from.")
    return outline


class _Checkpoint:
    """A checkpoint that is what it should be, as far as its configuration tells."""

    def __init__(self, path_or_repo: str | Path, device: str, dtype: str | torch.dtype):
        self.source = str(path_or_repo)
        check_folder(self.source)
        if self.source.startswith("~"):
            self.source = str(Path(self.source).expanduser())
        self.device, self.device_map = resolve_device(device)
        resolve_dtype(dtype, self.device)  # a wrong name is refused before anything is read
        try:
            self.config = AutoConfig.from_pretrained(self.source)
        except CONFIG_ERRORS as error:
            if Path(self.source).is_dir():
                raise CheckpointError(f"{self.source}/config.json can't be loaded: {first_line(error)}") from error
            raise CheckpointError(
                f"{self.source} can't be loaded: {first_line(error)} Check the name and the network."
            ) from error
        kind = self.config.model_type
        if kind not in MODEL_TYPES:
            raise CheckpointError(
                f"{self.source} is a {kind!r} checkpoint, not a DiffusionVL one ({' or '.join(MODEL_TYPES)}). "
                "An autoregressive checkpoint becomes one with python -m dvl_core.translate."
            )
        self.dtype = resolve_dtype(dtype, self.device, self.config.get_text_config().hidden_size)
        if self.device_map is None and self.device.type != "cpu":
            self.device_map = {"": self.device}  # straight onto the device, never whole in the host's memory

    def shell(self) -> Any:
        """The module without its numbers, on the meta device."""
        dtype = (self.config.dtype or torch.float32) if self.dtype == "auto" else self.dtype
        with _ONE_AT_A_TIME, torch.device("meta"):
            return AutoModelForImageTextToText.from_config(self.config, dtype=dtype)

    def processor(self) -> Any:
        """What prepares conversations and pictures."""
        try:
            return AutoProcessor.from_pretrained(self.source)
        except _DAMAGE as error:
            raise CheckpointError(
                f"The tokenizer or processor files of {self.source} can't be read: {first_line(error)}"
            ) from error

    def load(self) -> Any:
        """The model in evaluation mode."""
        options = {"device_map": self.device_map} if self.device_map else {}
        try:
            with _ONE_AT_A_TIME:
                model = AutoModelForImageTextToText.from_pretrained(
                    self.source, config=self.config, dtype=self.dtype, **options
                )
        except CheckpointError:
            raise
        except _DAMAGE as error:
            raise CheckpointError(f"The weights of {self.source} can't be read: {first_line(error)}") from error
        return model.eval()


def check_folder(source: str) -> None:
    """Refuse a path that is no checkpoint folder, but not the name of a repository. Raises CheckpointError."""
    path = Path(source).expanduser()
    looks_local = path.parent.is_dir() or source.startswith((".", "/", "~")) or source.count("/") != 1
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
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: the last GPU here is cuda:{torch.cuda.device_count() - 1}.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device!r}: torch finds no Apple GPU here; use cpu.")
    return chosen, None


def resolve_dtype(dtype: str | torch.dtype, device: torch.device, width: int = 0) -> torch.dtype | str:
    """The dtype named; "auto" keeps the stored one, except on most CPUs, where float32 is exact and faster.

    A CPU that multiplies bfloat16 (AMX) decodes a model of width 512 1.2 to 1.5 times as fast with it, one of width 128
    0.8 times (measured on a Xeon with eight and two threads): there "auto" is float32 below `_WIDE`.

    Args:
        dtype: "auto", a torch dtype or its name.
        device: where the model will be.
        width: of its decoder.

    Raises:
        ValueError: for a dtype that does not exist.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        slow = device.type == "cpu" and (width < _WIDE or fast_dtype(device) == torch.float32)
        return torch.float32 if slow else "auto"
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be auto, float32, bfloat16 or float16; got {dtype!r}.")
    return getattr(torch, dtype)
