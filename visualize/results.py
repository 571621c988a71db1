"""Plots of measured results, drawn from a `results.json` alone: one PNG and one SVG each.

    python -m visualize.results assets/results

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every series has a marker of its own too. Error
bars are one sample standard deviation over seeds. Uses matplotlib's object interface only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from visualize.theme import LIGHT

INKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6a00")  # Okabe and Ito
MARKERS = "osD^vPX*<>"
SUDOKU = "sudoku, "
Rows = Mapping[str, Mapping[str, Any]]


def figures(results: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure that the results have the rows for, by file name."""
    tables = {name: values["rows"] for name, values in results["experiments"].items()}
    made: dict[str, Figure] = {}
    if "recipe" in tables:
        made["conversion"] = conversion_figure(tables["recipe"], tables.get("conversion", {}))
    if "scratch" in tables and "recipe" in tables:
        made["ways"] = ways_figure(tables["recipe"], tables.get("ar_lm", {}), tables["scratch"])
    if "options" in tables:
        made["options"] = options_figure(tables["options"])
    for name, rest in (("decoding", ""), ("bundled", "bundled-")):
        if name in tables:
            made[name] = tradeoff_figure(tables[name])
            made[f"{rest}tasks"] = tasks_figure(_exam(tables[name]))
            if any(row.startswith(SUDOKU) for row in tables[name]):
                made[f"{rest}sudoku"] = sudoku_figure(tables[name])
    return made


def conversion_figure(rows: Rows, short: Rows) -> Figure:
    """Accuracy after conversion against the share of the parent's samples: the average, that of short conversions, and
    every task."""
    figure, (left, right) = _figure(2, (10, 3.9))
    shares = _shares(rows)
    x = [_percent(name) for name in shares]
    parent = rows["parent"]["accuracy"]
    left.axhspan(*_band(parent), color=LIGHT.mask, alpha=0.5, linewidth=0)
    left.axhline(parent["mean"], color=LIGHT.accent, linewidth=1.2)
    left.axhline(0.95 * parent["mean"], color=LIGHT.muted, linewidth=0.9, linestyle=(0, (2, 2)))
    left.annotate("parent", (x[0], parent["mean"]), (0, 4), textcoords="offset points", fontsize=8, color=LIGHT.accent)
    left.annotate("95 % of it", (x[0], 0.95 * parent["mean"]), (0, -11), textcoords="offset points", fontsize=8,
                  color=LIGHT.muted)
    _line(left, x, [rows[name]["accuracy"] for name in shares], 0, "as long as the parent")
    if short:
        others = {_percent(name): short[name]["accuracy"] for name in _shares(short)}
        _line(left, list(others), list(others.values()), 1, "short, as published")
        left.legend(fontsize=8, frameon=False, labelcolor=LIGHT.ink, loc="lower right")
    for number, task in enumerate(rows["parent"]["tasks"]):
        _line(right, x, [rows[name]["tasks"][task] for name in shares], number, task)
    for axes, title in ((left, "average over tasks"), (right, "by task")):
        axes.set_xscale("log")
        ticks = sorted({*x, *(map(_percent, _shares(short)) if axes is left else ())})
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axes.minorticks_off()
        _label(axes, "conversion samples, % of the parent's", "exact match", title)
        axes.set_ylim(0, 1.04)
    _legend(right)
    return figure


def ways_figure(recipe: Rows, ar_lm: Rows, scratch: Rows) -> Figure:
    """How a model came about, and its accuracy: one line per way."""
    entries = [("AR-VLM (parent)", recipe["parent"])]
    entries += [(f"AR-VLM → dVLM, {name}", recipe[name]) for name in _shares(recipe)]
    entries += [("AR-LM → AR-VLM" if name == "autoregressive" else "AR-LM → dVLM", row) for name, row in ar_lm.items()]
    entries += [(f"dVLM from scratch, {name}", row) for name, row in scratch.items()]
    labels = [f"{name}  ({row['samples']['mean']:,.0f} samples)" for name, row in entries]
    return _dots(labels, [row["accuracy"] for _, row in entries], "exact match, average over tasks", (8.6, 3.9))


def options_figure(rows: Rows) -> Figure:
    """Accuracy of the conversion with each training option."""
    values = [row["accuracy"] for row in rows.values()]
    figure = _dots(list(rows), values, "exact match, average over tasks", (8.6, 3.4))
    off = rows["off"]["accuracy"]["mean"]
    figure.axes[0].axvline(off, color=LIGHT.muted, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
    return figure


def tradeoff_figure(rows: Rows) -> Figure:
    """Accuracy against tokens per forward pass, and against tokens per second of processor time."""
    figure, both = _figure(2, (11, 4.1))
    series = {
        "block size, one token a step": _names(rows, "block "),
        "steps per block of 8": _names(rows, "steps "),
        "confidence threshold": _names(rows, "threshold "),
    }
    speeds = (("tokens_per_forward", "tokens per forward pass"),
              ("tokens_per_processor_second", "tokens per processor second, batches of 64"))
    for axes, (field, text) in zip(both, speeds, strict=True):
        for number, (label, names) in enumerate(series.items()):
            _curve(axes, [rows[name] for name in names], field, number, label,
                   [name.split()[1] for name in names], above=number != 1)
        if "autoregressive" in rows:
            row = rows["autoregressive"]
            axes.errorbar(row[field]["mean"], row["accuracy"]["mean"], yerr=_spread(row["accuracy"]),
                          color=LIGHT.ink, marker="*", markersize=11, capsize=2, linestyle="none",
                          label="autoregressive parent")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        _label(axes, text, "exact match, average over tasks", "")
    _legend(both[1])
    return figure


def tasks_figure(rows: Rows) -> Figure:
    """Accuracy of every decoding on every task, as a table of shades."""
    tasks = list(next(iter(rows.values()))["tasks"])
    grid = np.array([[row["tasks"][task]["mean"] for task in tasks] for row in rows.values()])
    figure, (axes,) = _figure(1, (1.9 + 0.62 * len(tasks), 1.0 + 0.27 * len(rows)))
    colours = LinearSegmentedColormap.from_list("accuracy", ("#f3f1e7", *LIGHT.scale))
    axes.imshow(grid, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                  color="#ffffff" if value > 0.3 else LIGHT.ink)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30 if len(tasks) > 8 else 0, ha="right" if len(tasks) > 8
                    else "center")
    axes.set_yticks(range(len(rows)), list(rows))
    _label(axes, "", "", "exact match by task and decoding")
    axes.grid(False)
    return figure


def sudoku_figure(rows: Rows) -> Figure:
    """Share of sudokus solved by number of blanks, for every decoding."""
    figure, (axes,) = _figure(1, (7.4, 3.9))
    for number, name in enumerate(name for name in rows if name.startswith(SUDOKU)):
        solved = rows[name]["tasks"]
        label = name.removeprefix(SUDOKU)
        _line(axes, [int(blanks) for blanks in solved], list(solved.values()), number,
              "autoregressive parent" if label == "autoregressive" else label)
    axes.set_xticks([int(blanks) for blanks in solved])
    axes.set_ylim(-0.02, 1.04)
    _label(axes, "blanks", "solved", "sudokus solved, by number of blanks")
    _legend(axes)
    return figure


def save(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure into a folder as PNG and SVG; returns the files."""
    paths = []
    for name, figure in figures(results).items():
        for ending, about in (("png", {}), ("svg", {"Date": None})):
            paths.append(folder / f"{name}.{ending}")
            with matplotlib.rc_context({"svg.hashsalt": name}):
                figure.savefig(paths[-1], metadata=about)
    return paths


def _exam(rows: Rows) -> Rows:
    return {name: row for name, row in rows.items() if not name.startswith(SUDOKU)}


def _shares(rows: Rows) -> list[str]:
    """Rows of conversions, named by percent of the parent's samples."""
    return [name for name in rows if name.endswith(" %")]


def _percent(name: str) -> float:
    return float(name.split()[0])


def _names(rows: Rows, start: str) -> list[str]:
    return [name for name in rows if name.startswith(start)]


def _spread(value: Mapping[str, Any]) -> float:
    return value["spread"] or 0.0


def _band(value: Mapping[str, Any]) -> tuple[float, float]:
    return value["mean"] - _spread(value), value["mean"] + _spread(value)


def _figure(columns: int, size: tuple[float, float]) -> tuple[Figure, list]:
    figure = Figure(figsize=size, dpi=160, facecolor=LIGHT.surface, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _line(axes, x: Iterable[float], values: list[Mapping[str, Any]], number: int, label: str | None = None) -> None:
    axes.errorbar(x, [v["mean"] for v in values], yerr=[_spread(v) for v in values], label=label, linewidth=1.4,
                  color=INKS[number % len(INKS)], marker=MARKERS[number % len(MARKERS)], markersize=5, capsize=2,
                  elinewidth=0.9)


def _curve(axes, rows: list[Mapping[str, Any]], field: str, number: int, label: str, marks: list[str],
           above: bool) -> None:
    x, y = [row[field]["mean"] for row in rows], [row["accuracy"] for row in rows]
    _line(axes, x, y, number, label)
    for at, value, mark in zip(x, y, marks, strict=True):
        axes.annotate(mark, (at, value["mean"]), (3, 5 if above else -12), textcoords="offset points", fontsize=7,
                      color=INKS[number])


def _dots(labels: list[str], values: list[Mapping[str, Any]], text: str, size: tuple[float, float]) -> Figure:
    figure, (axes,) = _figure(1, size)
    for row, value in enumerate(values):
        axes.scatter(value["values"], [row] * len(value["values"]), s=14, color=INKS[5], linewidths=0, zorder=2)
        axes.errorbar(value["mean"], row, xerr=_spread(value), color=INKS[0], marker="o", markersize=6, capsize=3,
                      elinewidth=1.2, zorder=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    _label(axes, f"{text} (large: mean ± spread, small: each seed)", "", "")
    return figure


def _label(axes, x: str, y: str, title: str) -> None:
    axes.set_facecolor(LIGHT.surface)
    axes.set_xlabel(x, color=LIGHT.ink, fontsize=9)
    axes.set_ylabel(y, color=LIGHT.ink, fontsize=9)
    axes.set_title(title, loc="left", fontsize=10, color=LIGHT.ink)
    axes.tick_params(colors=LIGHT.muted, labelsize=8)
    axes.grid(True, color=LIGHT.line, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_color(LIGHT.line)
        spine.set_visible(side in ("left", "bottom"))


def _legend(axes) -> None:
    axes.legend(fontsize=8, frameon=False, labelcolor=LIGHT.ink, loc="center left", bbox_to_anchor=(1.0, 0.5))


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 where there are no results."""
    parser = argparse.ArgumentParser(
        prog="python -m visualize.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with results.json; the plots go there too")
    folder = parser.parse_args(arguments).folder
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except OSError as error:
        print(f"results: {folder / 'results.json'} can't be read ({error.strerror}); "
              "python -m dvl_core.reproduce makes it", file=sys.stderr)
        return 2
    for path in save(results, folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
