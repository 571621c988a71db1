"""What is already done: one JSON file per experiment and seed, and the weights that several experiments start from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..machine import processor

Rows = dict[str, Callable[[], dict[str, Any]]]  # name of a row -> what makes it


def write_json(path: Path, data: Any) -> None:
    """Replace a file whole, so that an interruption leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def machine() -> dict[str, Any]:
    """What the seconds depend on: processor, threads, torch."""
    return {"processor": processor()[0], "threads": torch.get_num_threads(), "torch": torch.__version__}


class Store:
    """Rows of results under `out`/runs, weights under `work`.

    Args:
        out, work: folders, made where missing.
        settings: what the runs depend on; rows made with other settings are refused.
    """

    def __init__(self, out: Path, work: Path, settings: dict[str, Any]) -> None:
        self.out, self.work, self.settings = out, work, settings

    def path(self, experiment: str, seed: int) -> Path:
        """Where the rows of an experiment and seed are kept."""
        return self.out / "runs" / f"{experiment}-{seed}.json"

    def rows(self, experiment: str, seed: int) -> dict[str, dict[str, Any]]:
        """Rows that are done, by name.

        Raises:
            ValueError: if they were made with other settings.
        """
        path = self.path(experiment, seed)
        if not path.exists():
            return {}
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["settings"] != self.settings:
            raise ValueError(f"{path} was made with other settings ({data['settings']}); give another --out")
        return data["rows"]

    def fill(
        self, experiment: str, seed: int, rows: Rows, begin: Callable[[str], None] = lambda name: None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Make the rows that are not there, write each down, and give it out by name; `begin` hears the name before."""
        done = self.rows(experiment, seed)
        for name, make in rows.items():
            if name in done:
                continue
            begin(name)
            done[name] = make()
            write_json(self.path(experiment, seed), {
                "experiment": experiment, "seed": seed, "complete": len(done) == len(rows),
                "settings": self.settings, "machine": machine(), "rows": done,
            })
            yield name, done[name]

    def weights(self, name: str, make: Callable[[], tuple[dict, dict]]) -> tuple[dict, dict]:
        """Weights, and what their training gave; trained by `make` unless they are there."""
        path = self.work / f"{name}.pt"
        if path.exists():
            kept = torch.load(path)
            if kept["settings"] == self.settings:
                return kept["weights"], kept["made"]
        weights, made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save({"settings": self.settings, "weights": weights, "made": made}, part)
        os.replace(part, path)
        return weights, made
