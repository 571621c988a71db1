"""What a run says: one JSON object per line, always; a progress bar; one of accelerate's trackers if asked for."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from .config import LoggingConfig, TrainConfig
from .settings import ConfigError, plain

NAMED = 3  # skipped samples that the terminal hears of; log.jsonl names all
LEVEL_NAMES = ("t<0.25", "t<0.5", "t<0.75", "t<=1")


def check_tracker(config: LoggingConfig) -> None:
    """Refuse a tracker that is not installed. Raises ConfigError."""
    if config.tracker != "none" and importlib.util.find_spec(config.tracker) is None:
        raise ConfigError("logging.tracker", config.tracker, f"is not installed: pip install {config.tracker}")


class RunLog:
    """Writes on the main process only.

    Args:
        folder: of the run, there already; entries go to log.jsonl in it.
        config: of the run.
        accelerator: holds the tracker.
        update: updates done so far; entries of later ones, from before a run was killed, are dropped.
        updates: of the whole run.
    """

    def __init__(self, folder: Path, config: TrainConfig, accelerator: Accelerator, update: int, updates: int) -> None:
        self.path, self.accelerator = folder / "log.jsonl", accelerator
        self.main, self.tracked = accelerator.is_main_process, config.logging.tracker != "none"
        if self.tracked:
            accelerator.init_trackers("diffusionvl", config=_flat(plain(config)))
        if self.main:
            _drop_after(self.path, update)
        hidden = None if self.main and config.logging.progress else True  # None: hidden where there is no terminal
        self.progress, self.named = self.main and config.logging.progress, set()
        self.bar = tqdm(total=updates, initial=update, unit="update", disable=hidden, dynamic_ncols=True)

    def advance(self, loss: float, skipped: int) -> None:
        """One update is done; `skipped`: samples so far."""
        self.bar.set_postfix({"loss": f"{loss:.4f}"} | ({"skipped": skipped} if skipped else {}), refresh=False)
        self.bar.update()

    def skip(self, step: int, skipped: list[tuple[str, str]], **entry: Any) -> None:
        """Name samples that could not be used: (name, reason). The terminal hears of the first few, once each."""
        for name, reason in skipped:
            self.write(step, skipped=name, reason=reason, **entry)
            if self.progress and name not in self.named and len(self.named) < NAMED:
                self.named.add(name)
                more = f" (further ones are named in {self.path} only)" if len(self.named) == NAMED else ""
                self.bar.write(f"skipped {name}: {reason}{more}", file=sys.stderr)

    def write(self, step: int, **entry: Any) -> None:
        """Append an entry of update `step`; numbers in it, nested ones too, go to the tracker."""
        if self.main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **entry}, ensure_ascii=False) + "\n")
        if self.tracked:
            numbers = {k: v for k, v in _flat(entry).items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=step)

    def close(self) -> None:
        """End the tracker."""
        if self.tracked:
            self.accelerator.end_training()


def by_level_entry(levels: list[list[float]]) -> dict[str, float]:
    """Mean token loss per quartile of the noise level; quartiles without a token are left out."""
    return {name: round(total / count, 6) for name, (total, count) in zip(LEVEL_NAMES, levels, strict=True) if count}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log; a last line that was cut off when the run was killed is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def _drop_after(path: Path, update: int) -> None:
    kept = [entry for entry in read_log(path) if update and entry["step"] <= update]
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept), encoding="utf-8")


def _flat(values: dict[str, Any], at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{at}{name}/")
        else:
            flat[f"{at}{name}"] = str(value) if isinstance(value, list) else value
    return flat
