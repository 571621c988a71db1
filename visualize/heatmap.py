"""The confidence heatmap as a figure for print and download: answer position across, step of the block down.

Every cell is the confidence of the token proposed at that position in that step; a dot marks the step in which
it was revealed, dotted lines the block boundaries. Uses matplotlib's object interface only, so that visitors
served at the same time never share a figure.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dvl_core.trace import DenoisingTrace
from visualize.theme import PALETTES, Palette


def confidence_grid(trace: DenoisingTrace) -> tuple[np.ndarray, list[tuple[int, int]], list[int]]:
    """The numbers behind the heatmap.

    Returns `(grid, revealed, bounds)`: confidences `[steps per block, opened positions]` with NaN where nothing
    was proposed, the `(step, position)` of every reveal, and the first position of every opened block.
    """
    rows = max((step.step + 1 for step in trace.steps), default=1)
    columns = max((step.span[1] for step in trace.steps), default=1)
    grid = np.full((rows, columns), np.nan)
    revealed = []
    for step in trace.steps:
        grid[step.step, step.masked] = step.confidences
        revealed += [(step.step, position) for position in step.revealed]
    return grid, revealed, sorted({step.span[0] for step in trace.steps})


def confidence_figure(trace: DenoisingTrace, mode: str = "light") -> Figure:
    """The heatmap of `trace` as a matplotlib figure; `mode` is "light" or "dark"."""
    palette = PALETTES[mode]
    grid, revealed, bounds = confidence_grid(trace)
    rows, columns = grid.shape
    figure = Figure(figsize=(9, 1.9 + min(4.0, 0.16 * rows)), dpi=160, facecolor=palette.surface, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=palette.surface)
    colours = LinearSegmentedColormap.from_list("confidence", palette.scale).with_extremes(bad=palette.surface)
    image = axes.imshow(
        np.ma.masked_invalid(grid),
        cmap=colours,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, columns - 0.5, rows + 0.5, 0.5),
    )
    if revealed and columns <= 256:
        size = min(9.0, 3500 / columns**1.5)
        axes.scatter([p for _, p in revealed], [s + 1 for s, _ in revealed], s=size, c=palette.surface, linewidths=0)
    for start in bounds[1:]:
        axes.axvline(start - 0.5, color=palette.muted, linewidth=0.9, linestyle=(0, (1, 2)))
    _label(axes, palette, rows, columns, bounds)
    bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=12)
    bar.set_label("confidence", color=palette.ink, fontsize=9)
    bar.ax.tick_params(colors=palette.muted, labelsize=8)
    bar.outline.set_edgecolor(palette.line)
    axes.set_title(_title(trace), loc="left", fontsize=10, color=palette.ink, parse_math=False)
    return figure


def confidence_png(trace: DenoisingTrace, mode: str = "light") -> bytes:
    """The same figure as PNG bytes."""
    buffer = io.BytesIO()
    confidence_figure(trace, mode).savefig(buffer, format="png")
    return buffer.getvalue()


def _label(axes, palette: Palette, rows: int, columns: int, bounds: list[int]) -> None:
    axes.set_xlabel(
        "position in the answer (dotted: block boundaries; dot: the step that revealed the token)",
        color=palette.ink,
        fontsize=9,
    )
    axes.set_ylabel("step of the block", color=palette.ink, fontsize=9)
    ticks: list[int] = []
    for start in bounds:
        if not ticks or start - ticks[-1] >= columns / 24:
            ticks.append(start)
    axes.set_xticks(ticks)
    axes.set_yticks(range(1, rows + 1) if rows <= 8 else [1, *range(8, rows + 1, max(8, rows // 64 * 8))])
    axes.tick_params(colors=palette.muted, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(palette.line)


def _title(trace: DenoisingTrace) -> str:
    settings = trace.settings
    parts = [str(trace.model.get("name", "")), f"{len(trace.answer_ids())} tokens", f"{trace.forwards} forwards"]
    parts += [f"block size {settings['block_size']}"] if "block_size" in settings else []
    parts += [str(settings["strategy"]).replace("_", " ")] if "strategy" in settings else []
    return "  ·  ".join(part for part in parts if part)
