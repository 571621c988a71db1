"""A sweep as a figure for print: time across, agreement with the slow setting up, a mark per setting.

Shape is the strategy; colour is the mean confidence, and so is the filling, as on the page: full from 90 %, a ring with
a dot from 50 %, a bare ring below. The numbers beside a mark are "block size/steps"; the slow setting stands in a
ring. Uses matplotlib's object interface only, so that visitors served at the same time never share a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from visualize.theme import PALETTES, Palette

MARKERS = "os^DvPX"
Rows = Sequence[Mapping[str, Any]]
_WIDE = 10  # the slowest over so many times the fastest: the axis of time is logarithmic
# Where a label may stand, in points from its mark.
_PLACES = (((6, -2.5), "left"), ((-6, -2.5), "right"), ((0, -13), "center"), ((0, 8), "center"))


def figure(rows: Rows, mode: str = "light") -> Figure:
    """The rows of a sweep (see `protocol`) as a matplotlib figure; `mode` is "light" or "dark".

    Raises:
        ValueError: for no rows.
    """
    if not rows:
        raise ValueError("There is nothing to draw: the sweep has no rows yet.")
    palette = PALETTES[mode]
    drawn = Figure(figsize=(9, 4.8), dpi=160, facecolor=palette.surface, layout="constrained")
    canvas = FigureCanvasAgg(drawn)
    axes = drawn.add_subplot(facecolor=palette.surface)
    shapes = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(dict.fromkeys(r["strategy"] for r in rows))}
    colours = ScalarMappable(cmap=LinearSegmentedColormap.from_list("confidence", palette.scale))
    colours.set_clim(0, 1)
    for row in rows:
        _mark(axes, palette, row, shapes[row["strategy"]], colours)
    _slow(axes, palette, rows)
    _axes(axes, palette, rows)
    bar = drawn.colorbar(colours, ax=axes, pad=0.015, aspect=24)
    bar.set_label("mean confidence", color=palette.ink, fontsize=9)
    bar.ax.tick_params(colors=palette.muted, labelsize=8)
    bar.outline.set_edgecolor(palette.line)
    _legend(drawn, palette, shapes)
    canvas.draw()  # the layout is known from here on
    _labels(axes, palette, rows)
    return drawn


def _mark(axes, palette: Palette, row: Mapping[str, Any], shape: str, colours: ScalarMappable) -> None:
    """A setting's mark, and behind it the span from its fastest to its slowest run."""
    x, y, confidence = row["seconds"], 100 * row["agreement"], row["confidence"]
    colour = palette.muted if confidence is None else colours.to_rgba(confidence)
    full = confidence is not None and confidence >= 0.9
    face, edge = (colour, palette.surface) if full else (palette.surface, colour)
    width = 0.6 if full else 1.2
    axes.scatter([x], [y], marker=shape, s=42, facecolor=[face], edgecolor=[edge], linewidths=width, zorder=3)
    if confidence is not None and 0.5 <= confidence < 0.9:
        axes.scatter([x], [y], marker="o", s=4, color=[colour], linewidths=0, zorder=3)
    if row["runs"] > 1:
        axes.plot([row["fastest"], row["slowest"]], [y, y], color=palette.muted, linewidth=0.7, alpha=0.5, zorder=2)


def _slow(axes, palette: Palette, rows: Rows) -> None:
    for row in rows:
        if row["slow"]:
            x, y = row["seconds"], 100 * row["agreement"]
            axes.axvline(x, color=palette.muted, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
            axes.scatter([x], [y], s=150, facecolor="none", edgecolor=palette.ink, linewidths=0.9, zorder=4)
            above = {"xytext": (0, 4), "textcoords": "offset points", "xycoords": ("data", "axes fraction")}
            axes.annotate("slow setting", (x, 1), ha="center", fontsize=8, color=palette.ink, **above)


def _axes(axes, palette: Palette, rows: Rows) -> None:
    fastest, slowest = min(row["fastest"] for row in rows), max(row["slowest"] for row in rows)
    wide = 0 < fastest * _WIDE < slowest
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if slowest < 1000 * fastest else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, slowest * 1.08 or 1)
    scale = " (log scale)" if wide else ""
    axes.set_xlabel(f"seconds per answer{scale}; beside a mark: block size/steps", color=palette.ink, fontsize=9)
    axes.set_ylim(max(-3.0, 100 * min(row["agreement"] for row in rows) - 10), 103)
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_ylabel("agreement with the slow setting", color=palette.ink, fontsize=9)
    axes.grid(axis="y", color=palette.line, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=palette.muted, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(palette.line)


def _legend(drawn: Figure, palette: Palette, shapes: Mapping[str, str]) -> None:
    handles = [
        Line2D([], [], marker=shape, color=palette.muted, linestyle="none", markersize=6, label=name.replace("_", " "))
        for name, shape in shapes.items()
    ]
    text = {"fontsize": 8, "labelcolor": palette.ink}
    drawn.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, **text)


def _labels(axes, palette: Palette, rows: Rows) -> None:
    """Block size/steps beside each mark, where there is a place that covers nothing; the slow setting's first."""
    points = axes.transData.transform([(row["seconds"], 100 * row["agreement"]) for row in rows])
    reach = 5 * axes.figure.dpi / 72
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in points]
    for row in sorted(rows, key=lambda row: (not row["slow"], row["index"])):
        for offset, side in _PLACES:
            label = axes.annotate(
                f"{row['block_size']}/{row['steps']}", (row["seconds"], 100 * row["agreement"]), offset, ha=side,
                textcoords="offset points", fontsize=7, color=palette.muted, zorder=5,
                path_effects=[withStroke(linewidth=2.5, foreground=palette.surface)],
            )  # fmt: skip
            box = label.get_window_extent().padded(2)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()
