"""Plots of the benchmark's numbers: `python -m visualize.benchmark FOLDER` draws a PNG beside each JSON file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from visualize.theme import LIGHT


def figure(result: dict[str, Any]) -> Figure:
    """Tokens per second of every variant, with the span of its runs; or seconds by what grows, of a growth suite.

    Args:
        result: what `python -m dvl_core.benchmark --out` keeps.
    """
    grown = list(dict.fromkeys(row["grows"] for row in result["rows"] if "grows" in row))
    size = (4 * len(grown), 3.8) if grown else (8, 0.9 + 0.46 * len(result["rows"]))
    drawn = Figure(figsize=size, dpi=160, layout="constrained", facecolor=LIGHT.surface)
    FigureCanvasAgg(drawn)
    for axes, what in zip(drawn.subplots(1, max(1, len(grown)), squeeze=False)[0], grown or [None], strict=True):
        axes.set_facecolor(LIGHT.surface)
        _bars(axes, result["rows"]) if what is None else _growth(axes, what, result["rows"])
        axes.tick_params(colors=LIGHT.muted, labelsize=8)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(LIGHT.line)
    machine = result.get("machine", {})
    about = [result["suite"], result["size"], machine.get("gpu") or machine.get("processor", "")]
    title = "  ·  ".join(part for part in about if part)
    drawn.axes[0].set_title(title, loc="left", fontsize=9, color=LIGHT.ink, parse_math=False)
    return drawn


def _bars(axes, rows: list[dict[str, Any]]) -> None:
    names = [row["name"] for row in rows]
    speeds = [row["tokens_per_second"] for row in rows]
    spans = [
        [speed - row["tokens"] / row["slowest"] for speed, row in zip(speeds, rows, strict=True)],
        [row["tokens"] / row["fastest"] - speed for speed, row in zip(speeds, rows, strict=True)],
    ]
    axes.barh(names, speeds, height=0.6, color=LIGHT.scale[6])
    axes.errorbar(speeds, names, xerr=[[max(0.0, v) for v in side] for side in spans], fmt="none", ecolor=LIGHT.ink,
                  elinewidth=1, capsize=3)  # fmt: skip
    for name, speed, row in zip(names, speeds, rows, strict=True):
        axes.annotate(f"{row['ratio']:.2f} ×", (speed, name), xytext=(6, 8), textcoords="offset points", fontsize=8,
                      color=LIGHT.muted)  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlabel("answer tokens per second (median; line: slowest to fastest run)", fontsize=9, color=LIGHT.ink)


GROWN = {"answer": "tokens of the answer", "picture": "tokens of the picture", "batch": "conversations at once"}


def _growth(axes, what: str, rows: list[dict[str, Any]]) -> None:
    for name, style, colour in (("ours", "-", LIGHT.scale[7]), ("whole answer, no cache", "--", LIGHT.scale[3])):
        found = [row for row in rows if row["name"] == name and row["grows"] == what]
        if found:
            axes.plot([row["at"] for row in found], [row["seconds"] for row in found], style, marker="o", color=colour,
                      label=name)  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(GROWN[what], fontsize=9, color=LIGHT.ink)
    axes.set_ylabel("seconds (median)", fontsize=9, color=LIGHT.ink)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 drawn, 2 nothing to draw (one sentence on standard error)."""
    parser = argparse.ArgumentParser(prog="python -m visualize.benchmark", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the benchmark kept its numbers")
    files = sorted(parser.parse_args(argv).folder.glob("*.json"))
    if not files:
        print("error: there are no numbers; make some with python -m dvl_core.benchmark --out FOLDER.", file=sys.stderr)
        return 2
    for file in files:
        try:
            drawn = figure(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError):
            print(f"error: {file} does not hold numbers of the benchmark; remove it from there.", file=sys.stderr)
            return 2
        drawn.savefig(file.with_suffix(".png"))
        print(file.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
