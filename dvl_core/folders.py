"""Folders that a command is to write into."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(option: str, folder: Path) -> None:
    """Make a folder, if it is not there, before the work that fills it. Raises ValueError naming the option."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option}: the folder {folder} can't be made ({error.strerror}); give another.") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{option}: the folder {folder} can't be written to; give another.")
