"""Results as a Markdown page: verdicts first, what did not come out above what did; then every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .findings import plus_minus

TITLES = {
    "recipe": "AR-VLM → dVLM: accuracy kept, by conversion samples",
    "conversion": "AR-VLM → dVLM: short conversions by the published objective",
    "ar_lm": "AR-LM → dVLM, against the same language model finetuned autoregressively",
    "scratch": "Block diffusion from scratch, beside the other ways",
    "decoding": "Block size, steps and threshold",
    "options": "Training options, on and off",
    "bundled": "Block size, steps and threshold: the bundled model",
}
FIGURES = {
    "recipe": ("conversion",), "conversion": (), "ar_lm": (), "scratch": ("ways",), "options": ("options",),
    "decoding": ("decoding", "tasks", "sudoku"), "bundled": ("bundled", "bundled-tasks", "bundled-sudoku"),
}  # experiment -> plots that visualize.results makes
HOW = (
    "Accuracy is exact match on unseen questions, averaged over tasks. Numbers are mean ± sample standard deviation "
    "over seeds; with one seed there is no spread. A sample is a picture with three questions; visits count how often "
    "training saw one. Seconds are of training, and of answering all questions of a row in batches of 64: wall-clock "
    "seconds, which other work on the same machine lengthens, and processor seconds, which it does not."
)
SMALL = (
    "The small models have the published VL architecture and {parameters:,} weights. They learn plain TinyWorld "
    "pictures (`dvl_core/reproduction/world.py`): {tasks}. The vision tower is taught once, with dense labels on "
    "{vision:,} pictures, and every run starts from it; decoder, samples and noise differ by seed."
)

MEASURED: dict[str, tuple[str, int | None]] = {  # column -> field and decimals; None for a count, the same in all seeds
    "tokens per forward": ("tokens_per_forward", 2),
    "tokens per processor second": ("tokens_per_processor_second", 0),
    "questions": ("questions", None),
    "seconds": ("seconds", 1),
    "samples": ("samples", None),
    "visits": ("visits", None),
    "training seconds": ("train_seconds", 0),
    "training processor seconds": ("train_processor_seconds", 0),
}


def page(results: Mapping[str, Any], notes: str = "") -> str:
    """The page of what `results.collect` gives; `notes`, Markdown, stand between the verdicts and the rows."""
    experiments = results["experiments"]
    parts = ["# The findings of the paper, measured at small scale\n", HOW + "\n", *_small(experiments)]
    parts += [_verdicts(results["findings"], held) for held in (False, True)]
    parts += [notes] if notes else []
    parts += [_experiment(name, experiments[name]) for name in TITLES if name in experiments]
    return "\n".join(parts)


def _small(experiments: Mapping[str, Any]) -> list[str]:
    for name, values in experiments.items():
        if name != "bundled":
            row = next(iter(values["rows"].values()))
            facts = {"parameters": round(row["parameters"]["mean"]), "tasks": ", ".join(row["tasks"])}
            return [SMALL.format(vision=values["settings"]["vision"], **facts) + "\n"]
    return []


def _verdicts(findings: Mapping[str, list[Mapping[str, Any]]], held: bool) -> str:
    lines = []
    for name, found in findings.items():
        on = " (Bundled model.)" if name == "bundled" else ""
        lines += [f"- **{f['claim']}**{on} Rule: {f['rule']}. Measured: {f['measured']}." for f in found
                  if f["held"] is held]
    title = "## Came out as in the paper" if held else "## Did not come out as in the paper"
    return "\n".join([title, "", *(lines or ["Nothing."]), ""])


def _experiment(name: str, values: Mapping[str, Any]) -> str:
    machine, rows = values["machine"], values["rows"]
    lines = [f"## {TITLES[name]}", "", f"`{values['command']}`", "",
             f"On {machine['processor']}, {machine['threads']} thread(s), torch {machine['torch']}.", ""]
    for figure in FIGURES[name]:
        lines += [f"![{TITLES[name]}]({figure}.png)", ""]
    lines += _table({row: cells for row, cells in rows.items() if not row.startswith("sudoku, ")})
    sudoku = {row.removeprefix("sudoku, "): cells for row, cells in rows.items() if row.startswith("sudoku, ")}
    if sudoku:
        lines += ["Sudokus by number of blanks:", "", *_table(sudoku)]
    return "\n".join(lines)


def _table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first = next(iter(rows.values()))
    tasks = list(first["tasks"])
    measured = {name: (field, digits) for name, (field, digits) in MEASURED.items() if field in first}
    lines = [f"| {' | '.join(['', 'mean', *tasks, *measured])} |", f"|{'---|' * (2 + len(tasks) + len(measured))}"]
    for title, row in rows.items():
        cells = [title, f"**{plus_minus(row['accuracy'])}**", *(plus_minus(row["tasks"][t], digits=2) for t in tasks)]
        for field, digits in measured.values():
            value = row[field] if digits is not None else row[field] | {"spread": None}
            cells.append(plus_minus(value, digits=digits or 0))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]
