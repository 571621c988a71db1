"""Everything measured so far, gathered from the rows of all seeds: `results.json` and the page beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..tinyworld import TASKS
from .aggregate import experiment
from .findings import judge
from .report import page
from .store import write_json

VERSION = 1


def collect(folder: Path) -> dict[str, Any]:
    """Merge the rows under `folder`/runs.

    A seed counts once it has every row of an experiment.

    Returns:
        experiments: by name, their `seeds`, `settings`, `machine`, `command` and merged `rows` (`aggregate`);
        findings: by experiment, see `findings.judge`.

    Raises:
        ValueError: if the seeds of an experiment were run with different settings.
    """
    runs: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for path in sorted((folder / "runs").glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["complete"]:
            runs[data["experiment"]][data["seed"]] = data
    for name, of in runs.items():
        if any(data["settings"] != next(iter(of.values()))["settings"] for data in of.values()):
            raise ValueError(f"{folder}/runs/{name}-*.json were made with different settings; keep one of them")
    experiments = {name: _merged(name, dict(sorted(of.items()))) for name, of in runs.items()}
    return {"version": VERSION, "experiments": experiments, "findings": judge({
        name: {seed: data["rows"] for seed, data in of.items()} for name, of in runs.items()
    })}


def _merged(name: str, of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(of.values()))
    return {
        "seeds": list(of), "settings": first["settings"], "machine": first["machine"],
        "command": _command(name, list(of), first["settings"]),
        "rows": experiment({seed: data["rows"] for seed, data in of.items()}),
    }


def _command(name: str, seeds: list[int], settings: dict[str, Any]) -> str:
    command = f"python -m dvl_core.reproduce --experiments {name}"
    if name != "bundled":
        return f"{command} --scale {settings['scale']} --seeds {','.join(map(str, seeds))}"
    parent = f" --parent {settings['parent']}" if settings["parent"] else ""
    tasks = f" --tasks {','.join(settings['tasks'])}" if settings["tasks"] != list(TASKS) else ""
    return f"{command} --model {settings['model']}{parent}{tasks} --questions {settings['questions']}"


def write(folder: Path) -> None:
    """Write `results.json` and `README.md` into a folder; `notes.md` there, if any, goes into the page."""
    results, notes = collect(folder), folder / "notes.md"
    write_json(folder / "results.json", results)
    text = page(results, notes.read_text(encoding="utf-8") if notes.exists() else "")
    (folder / "README.md").write_text(text, encoding="utf-8")
