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
    """Tokens per second of every variant, with the span of its runs; or seconds by answer length, of a growth suite.

    Args:
        result: what `python -m dvl_core.benchmark --out` keeps.
    """
    growing = any("answer" in row for row in result["rows"])
    drawn = Figure(figsize=(8, 4.4 if growing else 0.9 + 0.46 * len(result["rows"])), dpi=160, layout="constrained",
                   facecolor=LIGHT.surface)  # fmt: skip
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot(facecolor=LIGHT.surface)
    (_growth if growing else _bars)(axes, result["rows"])
    machine = result.get("machine", {})
    about = [result["suite"], result["size"], machine.get("gpu") or machine.get("processor", "")]
    title = "  ·  ".join(part for part in about if part)
    axes.set_title(title, loc="left", fontsize=9, color=LIGHT.ink, parse_math=False)
    axes.tick_params(colors=LIGHT.muted, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LIGHT.line)
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


def _growth(axes, rows: list[dict[str, Any]]) -> None:
    for name, style, colour in (("ours", "-", LIGHT.scale[7]), ("whole answer, no cache", "--", LIGHT.scale[3])):
        found = [row for row in rows if row["name"] == name]
        axes.plot([row["answer"] for row in found], [row["seconds"] for row in found], style, marker="o", color=colour,
                  label=name)  # fmt: skip
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("answer length in tokens", fontsize=9, color=LIGHT.ink)
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
        figure(json.loads(file.read_text(encoding="utf-8"))).savefig(file.with_suffix(".png"))
        print(file.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
