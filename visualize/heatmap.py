"""Heatmaps of a run as figures for print and download: answer position across, denoising step down.

Three kinds. "confidence" and "entropy" show, step by step of the block, what the model said about every masked
position, with a dot in the step that revealed it. "reveal" shows over all steps how long each position waited, and in
which step, how confidently, it was revealed. Dotted lines are block boundaries, triangles mark what a person changed.

A cell is strong where its value is high: sure in "confidence" and "reveal", unsure in "entropy". Where a branch
denoised a position again, its last denoising is shown. Uses matplotlib's object interface only, so that visitors
served at the same time never share a figure.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text

from dvl_core.trace import DenoisingTrace, TraceStep
from visualize.fonts import drawable, installed_families
from visualize.text import cell_texts
from visualize.theme import PALETTES, Palette

KINDS = ("confidence", "entropy", "reveal")
SUFFIXES = ("png", "svg")
_LEVELS = 32  # few enough that the colour bar of an SVG is drawn as shapes, not as a bitmap
_MOST_CELLS = 2**24  # of a grid; a file may claim anything
_SETTINGS_LOCK = threading.Lock()  # savefig reads matplotlib's settings, which all threads share


class CannotDraw(ValueError):
    """There is no such figure of this run; the message is one sentence for a person."""


class NotObserved(CannotDraw):
    """The run holds nothing of the kind that was asked for."""


@dataclass(frozen=True)
class Cells:
    """What a heatmap is drawn from.

    Attributes:
        grid: float [rows, opened positions], NaN where there is nothing.
        revealed: `(row, position)` of every reveal that is shown.
        bounds: first position of every opened block.
        changed: `(row, position)` of what a person changed, to be marked at the upper edge of the row: of the first
            step that knew of it, or below the last where rows are steps of a block.
    """

    grid: np.ndarray
    revealed: list[tuple[int, int]]
    bounds: list[int]
    changed: list[tuple[int, int]]


def figure(trace: DenoisingTrace, kind: str = "confidence", mode: str = "light") -> Figure:
    """A heatmap of `trace` as a matplotlib figure.

    Args:
        trace: a run with any number of steps.
        kind: one of `KINDS`.
        mode: "light" or "dark".

    Raises:
        NotObserved: the run holds no such observation.
        CannotDraw: it is far too large.
        ValueError: there is no such kind or mode.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    if mode not in PALETTES:
        raise ValueError(f"mode must be one of {', '.join(PALETTES)}; got {mode!r}.")
    return _FIGURES[kind](trace, PALETTES[mode])


def figure_bytes(trace: DenoisingTrace, kind: str = "confidence", mode: str = "light", suffix: str = "png") -> bytes:
    """The same figure as a file; `suffix` is "png" or "svg". In an SVG, cells are shapes and text is text."""
    if suffix not in SUFFIXES:
        raise ValueError(f"suffix must be one of {', '.join(SUFFIXES)}; got {suffix!r}.")
    drawn = figure(trace, kind, mode)
    about = {"Title": f"{kind}: {drawable(_question(trace))}", "Description": drawable(trace.text)}
    buffer = io.BytesIO()
    with _SETTINGS_LOCK, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": kind}), _quiet_fonts():
        drawn.savefig(buffer, format=suffix, metadata=about | ({"Date": None} if suffix == "svg" else {}))
    return buffer.getvalue()


def confidence_figure(trace: DenoisingTrace, mode: str = "light") -> Figure:
    """The confidence heatmap as a matplotlib figure."""
    return figure(trace, "confidence", mode)


def confidence_png(trace: DenoisingTrace, mode: str = "light") -> bytes:
    """The confidence heatmap as PNG bytes."""
    return figure_bytes(trace, "confidence", mode, "png")


# -- the numbers --


def confidence_grid(trace: DenoisingTrace) -> tuple[np.ndarray, list[tuple[int, int]], list[int]]:
    """The numbers behind the confidence heatmap.

    Returns `(grid, revealed, bounds)`: confidences `[steps per block, opened positions]` with NaN where nothing
    was proposed, the `(step, position)` of every reveal, and the first position of every opened block.
    """
    cells = block_cells(trace, lambda step: step.confidences)
    return cells.grid, cells.revealed, cells.bounds


def block_cells(trace: DenoisingTrace, values: Callable[[TraceStep], list[float] | None]) -> Cells:
    """`values` of every masked position, step of the block down; nothing where a step has none."""
    rows = max((step.step + 1 for step in trace.steps), default=1)
    grid = _empty_grid(rows, opened_positions(trace))
    reveals: dict[int, int] = {}
    before = None
    for step in trace.steps:
        if before is None or before.span != step.span or before.step >= step.step:  # the block is opened, or again
            grid[:, step.masked] = np.nan
        before = step
        for position in step.masked:
            reveals.pop(position, None)
        observed = values(step)
        if observed is not None:
            grid[step.step, step.masked] = observed
        reveals |= {position: step.step for position in step.revealed}
    changed = [(rows, position) for _, position, _ in _changes(trace)]
    revealed = sorted((row, position) for position, row in reveals.items())
    return Cells(grid, revealed, block_starts(trace), changed)


def reveal_cells(trace: DenoisingTrace) -> tuple[Cells, list[tuple[int, int, int]]]:
    """Which step revealed which position, and `(position, first row, last row + 1)` of every wait for it.

    Rows are the steps of the run; a cell of the grid is the confidence of the token revealed there and then.
    """
    grid = _empty_grid(max(1, len(trace.steps)), opened_positions(trace))
    revealed, waits, since = [], [], {}
    for index, step in enumerate(trace.steps):
        for _, position, token in trace.changes_before(index):
            if token is not None and position in since:
                waits.append((position, since.pop(position), index))
        for position in step.masked:
            since.setdefault(position, index)
        confidence = dict(zip(step.masked, step.confidences, strict=True))
        for position in step.revealed:
            grid[index, position] = confidence[position]
            revealed.append((index, position))
            waits.append((position, since.pop(position), index + 1))
    waits += [(position, first, len(trace.steps)) for position, first in since.items()]
    changed = [(index, position) for index, position, _ in _changes(trace)]
    return Cells(grid, revealed, block_starts(trace), changed), sorted(waits)


def _empty_grid(rows: int, columns: int) -> np.ndarray:
    if rows * columns > _MOST_CELLS:
        raise CannotDraw(f"A heatmap of {rows:,} steps by {columns:,} positions is too large to be drawn.")
    return np.full((rows, columns), np.nan)


def opened_positions(trace: DenoisingTrace) -> int:
    """Answer positions up to the end of the last opened block, at least 1."""
    ends = (max(step.span[1], 1 + max(step.masked, default=0)) for step in trace.steps)
    return min(max(ends, default=1), trace.length)


def block_starts(trace: DenoisingTrace) -> list[int]:
    """First position of every opened block. Where blocks of two sizes overlap, the later ones hold."""
    spans: dict[int, tuple[int, int]] = {}
    last = None
    for step in trace.steps:
        if step.span != last:
            start, end = step.span
            spans |= dict.fromkeys(range(start, min(end, trace.length)), (start, end))
        last = step.span
    return [position for position in sorted(spans) if spans.get(position - 1) != spans[position]]


def _changes(trace: DenoisingTrace) -> list[list[int | None]]:
    opened = opened_positions(trace)
    return [change for change in trace.changes if change[0] < len(trace.steps) and change[1] < opened]


# -- the figures --


def _confidence(trace: DenoisingTrace, palette: Palette) -> Figure:
    cells = block_cells(trace, lambda step: step.confidences)
    return _steps_of_blocks(trace, palette, cells, Normalize(0, 1), "confidence")


def _entropy(trace: DenoisingTrace, palette: Palette) -> Figure:
    if not any(step.entropies is not None for step in trace.steps):
        raise NotObserved("Entropy was not observed in this run; record it with Observe(entropy=True).")
    cells = block_cells(trace, lambda step: step.entropies)
    # At least the entropy of a coin toss, so that the noise of a sure run stays pale.
    highest = max(math.log(2), float(np.nanmax(cells.grid, initial=0.0)))
    return _steps_of_blocks(trace, palette, cells, Normalize(0, highest), "entropy (nats)")


def _steps_of_blocks(trace: DenoisingTrace, palette: Palette, cells: Cells, norm: Normalize, label: str) -> Figure:
    rows, columns = cells.grid.shape
    drawn, axes = _sheet(trace, palette, cells, 0.16 * rows)
    mappable = _paint(axes, palette, cells.grid, norm)
    if columns <= 256:
        size = min(9.0, 3500 / columns**1.5)
        across, down = [p for _, p in cells.revealed], [row + 1 for row, _ in cells.revealed]
        axes.scatter(across, down, s=size, c=palette.surface, linewidths=0)
    axes.set_ylabel("step of the block", color=palette.ink, fontsize=9)
    axes.set_yticks(range(1, rows + 1) if rows <= 8 else [1, *range(8, rows + 1, max(8, rows // 64 * 8))])
    _bar(drawn, axes, palette, mappable, label)
    _finish(drawn, axes, palette, trace, cells, "dot: the step that revealed the token")
    return drawn


def _reveal(trace: DenoisingTrace, palette: Palette) -> Figure:
    cells, waits = reveal_cells(trace)
    rows, _ = cells.grid.shape
    drawn, axes = _sheet(trace, palette, cells, 0.06 * rows)
    shapes = [_rectangle(position, first, last - first) for position, first, last in waits]
    axes.add_collection(PolyCollection(shapes, facecolors=palette.mask, linewidths=0, antialiased=False))
    mappable = _paint(axes, palette, cells.grid, Normalize(0, 1))
    axes.set_ylabel("step of the run", color=palette.ink, fontsize=9)
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, rows) if rows / n <= 9)
    axes.set_yticks([1, *range(every, rows + 1, every)] if every > 1 else range(1, rows + 1))
    _bar(drawn, axes, palette, mappable, "confidence when revealed")
    _finish(drawn, axes, palette, trace, cells, "bar: masked; cell: revealed")
    return drawn


_FIGURES = {"confidence": _confidence, "entropy": _entropy, "reveal": _reveal}


def _sheet(trace: DenoisingTrace, palette: Palette, cells: Cells, inches: float) -> tuple[Figure, Axes]:
    """An empty figure for `cells`, whose cells together want to be `inches` high; tokens name their columns."""
    rows, columns = cells.grid.shape
    names = _token_names(trace, columns) if columns <= 96 else []
    height = 1.9 + min(4.0, inches) + 0.06 * max(map(len, names), default=0)
    drawn = Figure(figsize=(9, height), dpi=160, facecolor=palette.surface, layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot(facecolor=palette.surface)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows + 0.5, 0.5)
    if names:
        top = axes.secondary_xaxis("top")
        top.set_xticks(range(len(names)), names, rotation=90, fontsize=min(7.0, 480 / columns), parse_math=False)
        top.tick_params(length=0, pad=2, colors=palette.muted)
        top.spines["top"].set_visible(False)
    return drawn, axes


def _token_names(trace: DenoisingTrace, columns: int) -> list[str]:
    """The answer's tokens, shortened, up to its end."""
    stops = set(trace.model.get("eos_token_ids", []))
    ids = trace.canvas()[:columns]
    end = next((position for position, token in enumerate(ids) if token in stops), columns)
    cells = cell_texts(ids[:end], trace.vocabulary, stops.__contains__)
    names = [drawable(cell.text.strip(" ").replace("\n", "↵"))[:14] for cell in cells]
    return names + ["(end)"] * (end < len(ids))


def _paint(axes: Axes, palette: Palette, grid: np.ndarray, norm: Normalize) -> ScalarMappable:
    """Every cell that holds a value, as a shape of its own."""
    colours = LinearSegmentedColormap.from_list("confidence", palette.scale, N=_LEVELS)
    down, across = np.nonzero(np.isfinite(grid))
    shapes = [_rectangle(position, row, 1) for row, position in zip(down.tolist(), across.tolist(), strict=True)]
    painted = PolyCollection(shapes, array=grid[down, across], cmap=colours, norm=norm, linewidths=0, antialiased=False)
    axes.add_collection(painted)
    return painted


def _rectangle(position: int, row: int, height: int) -> list[tuple[float, float]]:
    left, top = position - 0.5, row + 0.5
    return [(left, top), (left + 1, top), (left + 1, top + height), (left, top + height)]


def _finish(drawn: Figure, axes: Axes, palette: Palette, trace: DenoisingTrace, cells: Cells, key: str) -> None:
    """Block boundaries, what a person changed, the axis of positions, and the words around."""
    columns = cells.grid.shape[1]
    blocks = trace.model.get("kind") != "autoregressive"  # whose every token is a block of its own
    for start in cells.bounds[1:] if blocks else ():
        axes.axvline(start - 0.5, color=palette.muted, linewidth=0.9, linestyle=(0, (1, 2)))
    if cells.changed:
        across, down = zip(*((position, row + 0.5) for row, position in cells.changed), strict=True)
        edge = {"edgecolors": palette.surface, "linewidths": 0.8, "clip_on": False, "zorder": 4}
        axes.scatter(across, down, marker="v", s=30, c=palette.ink, **edge)
    ticks: list[int] = []
    for start in cells.bounds:
        if not ticks or start - ticks[-1] >= columns / 24:
            ticks.append(start)
    axes.set_xticks(ticks)
    axes.tick_params(colors=palette.muted, labelsize=8)
    keys = (["dotted: block boundaries"] if blocks else []) + [key]
    keys += ["triangle: changed by a person"] if cells.changed else []
    axes.set_xlabel(f"position in the answer ({'; '.join(keys)})", color=palette.ink, fontsize=9)
    for spine in axes.spines.values():
        spine.set_color(palette.line)
    title = "\n".join(line for line in (_shortened(_question(trace)), _title(trace)) if line)
    axes.set_title(title, loc="left", fontsize=9, linespacing=1.5, color=palette.ink, parse_math=False)
    families = installed_families()
    for text in drawn.findobj(Text):
        text.set_fontfamily(families)


def _bar(drawn: Figure, axes: Axes, palette: Palette, mappable: ScalarMappable, label: str) -> None:
    bar = drawn.colorbar(mappable, ax=axes, pad=0.015, aspect=12)
    bar.set_label(label, color=palette.ink, fontsize=9)
    bar.ax.tick_params(colors=palette.muted, labelsize=8)
    bar.outline.set_edgecolor(palette.line)


def _title(trace: DenoisingTrace) -> str:
    settings = trace.settings
    parts = [str(trace.model.get("name", "")), f"{len(trace.answer_ids())} tokens", f"{trace.forwards} forwards"]
    parts += [f"block size {settings['block_size']}"] if "block_size" in settings else []
    parts += [str(settings["strategy"]).replace("_", " ")] if "strategy" in settings else []
    return "  ·  ".join(drawable(part) for part in parts if part)


def _question(trace: DenoisingTrace) -> str:
    """What was asked last, on one line."""
    return " ".join(trace.question.split())


def _shortened(text: str, longest: int = 120) -> str:
    return drawable(text if len(text) <= longest else text[: longest - 1] + "…")


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """A glyph that no installed font has becomes a box; that needs no warning each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield
