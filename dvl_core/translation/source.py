"""A checkpoint to read from: what it says it is, and its tensors, one at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, SiglipVisionConfig

from ..models.checkpoint import CONFIG_ERRORS, CheckpointError, first_line
from ..models.loading import check_folder
from .config import TranslationError

_NEEDED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]
_TOWERS = {"siglip": "vision_config", "siglip_vision_model": None}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: file, name in it, and what its header says."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it: F32, BF16, ...


def open_source(path_or_repo: str | Path) -> Path:
    """The folder of a checkpoint; a repository of the Hugging Face Hub is downloaded first.

    Raises:
        TranslationError: when there is none, or it has no config.json.
    """
    source = str(path_or_repo)
    folder = Path(source).expanduser()
    try:
        check_folder(source)
        return folder if folder.is_dir() else Path(snapshot_download(source, allow_patterns=_NEEDED))
    except CheckpointError as error:
        raise TranslationError(f"{source} can't be read: {error}") from error
    except (OSError, ValueError) as error:
        raise TranslationError(
            f"{source} can't be downloaded ({first_line(error)}): check the name and the network, or give a folder."
        ) from error


def model_type(folder: Path) -> str:
    """What the checkpoint says it is."""
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TranslationError(f"{folder / 'config.json'} can't be read: {error}") from error
    return str(said.get("model_type")) if isinstance(said, dict) else "None"


def read_config(folder: Path) -> Any:
    """The checkpoint's configuration. Raises TranslationError when it is not valid."""
    try:
        return AutoConfig.from_pretrained(folder)
    except CONFIG_ERRORS as error:
        raise TranslationError(f"{folder / 'config.json'} is not valid: {first_line(error)}") from error


def read_tower_config(folder: Path) -> SiglipVisionConfig:
    """The vision tower's configuration.

    Raises:
        TranslationError: when the checkpoint is no SigLIP, or leaves nothing when its last layer is dropped.
    """
    kind = model_type(folder)
    if kind not in _TOWERS:
        raise TranslationError(
            f"The vision tower {folder} is a {kind!r} checkpoint; it must be SigLIP or SigLIP2 at a fixed resolution "
            "(siglip or siglip_vision_model), such as google/siglip2-so400m-patch14-384."
        )
    config = read_config(folder)
    tower = getattr(config, _TOWERS[kind]) if _TOWERS[kind] else config
    if tower.num_hidden_layers < 2:
        raise TranslationError(f"The vision tower {folder} has one layer, and its last layer is dropped.")
    return tower


class CheckpointReader:
    """The tensors of a folder of safetensors files. Headers are read at once, tensors when they are asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tensors = {tensor.name: tensor for file in _files(folder) for tensor in _headers(file)}

    def read(self, tensor: StoredTensor) -> Tensor:
        """One tensor, in memory of its own."""
        with safe_open(tensor.file, "pt") as file:
            return file.get_tensor(tensor.name)


def _files(folder: Path) -> list[Path]:
    """The files of weights. Raises TranslationError when one is missing, or none are safetensors."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TranslationError(f"{index} lists no tensors in a weight_map: download it again.") from error
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise TranslationError(f"{folder} lacks {', '.join(missing)}: download the checkpoint again.")
    if not names:
        raise TranslationError(f"{folder} has no *.safetensors files: save the checkpoint with safetensors first.")
    return [folder / name for name in names]


def _headers(file: Path) -> list[StoredTensor]:
    try:
        with safe_open(file, "pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}
            return [StoredTensor(file, name, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()]
    except (SafetensorError, OSError) as error:
        raise TranslationError(f"{file} is damaged ({error}): download it again.") from error
