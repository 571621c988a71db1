"""Folders that a command is to write into, and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def make_folder(option: str, folder: Path) -> None:
    """Make a folder, if it is not there, before the work that fills it. Raises ValueError naming the option."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option}: the folder {folder} can't be made ({error.strerror}); give another.") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{option}: the folder {folder} can't be written to; give another.")


def beside(place: Path) -> Path:
    """The folder in which what is to become `place` is written first."""
    return place.with_name(f".{place.name}.unfinished")


def begin_beside(place: Path) -> Path:
    """That folder, made and empty."""
    unfinished = beside(place)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def finish_beside(place: Path) -> None:
    """Move what was written there to its place, instead of what is there."""
    shutil.rmtree(place, ignore_errors=True)
    beside(place).rename(place)
