"""Writes a checkpoint shard by shard into a working folder, which takes its place only when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tqdm import tqdm

from .config import TranslationError
from .plan import Recipe, split_shards
from .source import CheckpointReader

_JOURNAL = "translation.json"


class ShardWriter:
    """The working folder `.NAME.translating` beside the destination.

    A shard has its final name there only when it is complete, so a run that was stopped goes on after the last one.
    The configuration is the last file written before the folder is renamed: until then nothing loads it as a model.

    Args:
        destination: folder to make; must not exist.
        recipes: of all tensors, in order.
        limit: bytes of a shard.
        made_from: what the result depends on, JSON data; a working folder made from something else is begun anew.

    Raises:
        TranslationError: when the destination exists, or can't be made.
    """

    def __init__(self, destination: Path, recipes: list[Recipe], limit: int, made_from: dict[str, Any]):
        check_destination(destination)
        self.destination = destination
        self.folder = destination.with_name(f".{destination.name}.translating")
        shards = split_shards(recipes, limit)
        self.shards = {shard_name(number, len(shards)): shard for number, shard in enumerate(shards, 1)}
        plan = {name: [repr(recipe) for recipe in shard] for name, shard in self.shards.items()}
        self.made_from = hashlib.sha256(json.dumps([made_from, plan], sort_keys=True).encode()).hexdigest()

    def open(self) -> None:
        """Make the working folder, or take over that of a run with the same plan."""
        journal = self.folder / _JOURNAL
        try:
            if journal.is_file() and json.loads(journal.read_text())["made_from"] == self.made_from:
                for path in self.folder.iterdir():  # what was being written when the run was stopped
                    if path.name not in {_JOURNAL, *self.shards}:
                        path.unlink()
                return
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
            journal.write_text(json.dumps({"made_from": self.made_from, "destination": self.destination.name}))
        except (OSError, ValueError, KeyError) as error:
            raise TranslationError(f"The working folder {self.folder} can't be used: {error}. Remove it.") from error

    def write_shards(self, reader: CheckpointReader, progress: bool) -> None:
        """Write the shards that are not there yet, one in memory at a time."""
        total = sum(recipe.bytes for shard in self.shards.values() for recipe in shard)
        bar = tqdm(total=total, unit="B", unit_scale=True, desc="translating", disable=not progress)
        with bar:
            for name, shard in self.shards.items():
                if (self.folder / name).exists():
                    bar.update(sum(recipe.bytes for recipe in shard))
                else:
                    self._write(name, shard, reader, bar)

    def _write(self, name: str, shard: list[Recipe], reader: CheckpointReader, bar: tqdm) -> None:
        tensors = {}
        for recipe in shard:
            tensors[recipe.name] = recipe.make(reader).contiguous()
            bar.update(recipe.bytes)
        partial = self.folder / f"{name}.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        shutil.copymode(self.folder / _JOURNAL, partial)  # safetensors lets nobody else read its files
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.rename(self.folder / name)

    def finish(self, write_files: Callable[[Path], None], config: dict[str, Any]) -> None:
        """Write the rest, the configuration last, and put the folder in its place.

        Args:
            write_files: writes tokenizer and processor into the folder it is given.
            config: contents of config.json.
        """
        write_files(self.folder)
        if len(self.shards) > 1:
            size = sum(recipe.bytes for shard in self.shards.values() for recipe in shard)
            weights = {recipe.name: name for name, shard in self.shards.items() for recipe in shard}
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weights.items()))}
            write_json(self.folder / "model.safetensors.index.json", index)
        write_json(self.folder / "config.json", config)
        (self.folder / _JOURNAL).unlink()
        check_destination(self.destination)  # somebody may have made it meanwhile
        self.folder.rename(self.destination)


def check_destination(destination: Path) -> None:
    """Refuse a destination that exists, or whose parent is no folder. Raises TranslationError."""
    if os.path.lexists(destination):
        raise TranslationError(f"{destination} exists already: give another destination, or remove it.")
    if destination.parent.exists() and not destination.parent.is_dir():
        raise TranslationError(f"{destination.parent} is not a folder: give another destination.")


def shard_name(number: int, count: int) -> str:
    """File name of a shard, counted from 1, as transformers names them."""
    return f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"


def write_json(path: Path, contents: dict[str, Any]) -> None:
    """JSON that people can read."""
    path.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
