"""Dense labels of TinyWorld pictures: what each merged patch of the vision tower should know.

They teach the vision tower before any language is trained; without that warm-up the language model finds nothing
to read for a long time.
"""

from __future__ import annotations

import numpy as np

from .pictures import (
    CANVAS,
    CHART_BASE,
    COLOURS,
    LETTERS,
    MAX_VALUE,
    SHAPES,
    SIZES,
    UNIT,
    Chart,
    Picture,
    Scene,
    Sudoku,
    Word,
    bar_span,
)

CELLS = 6  # merged patches per side
MARGIN = 2  # pixels round the picture, of the 96 that the model sees
_STEP = CANVAS // CELLS


def _cell(at: float) -> float:
    """Where a canvas coordinate lands once the picture has its margin, in merged patches."""
    return (MARGIN + at * (CANVAS - 2 * MARGIN) / CANVAS) / _STEP


GLYPHS = LETTERS + "1"  # sudokus also use the digit 1

HEADS: dict[str, int] = {  # attribute -> number of classes; class 0 = nothing of the kind here
    "glyph": len(GLYPHS) + 1,
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "size": len(SIZES) + 1,
    "height": MAX_VALUE + 1,
    "row": CELLS + 1,
    "column": CELLS + 1,
}


def patch_labels(picture: Picture) -> dict[str, np.ndarray]:
    """Class of every merged patch for every attribute of `HEADS`.

    Returns:
        attribute -> int64 array [36] in reading order.
    """
    maps = {name: np.zeros((CELLS, CELLS), np.int64) for name in HEADS}
    maps["row"][:] = np.arange(1, CELLS + 1)[:, None]  # its own place: a tower with relative positions must learn it
    maps["column"][:] = np.arange(1, CELLS + 1)
    colours = tuple(COLOURS)
    if isinstance(picture, Scene):
        for s in picture.shapes:  # the four merged patches round the centre
            row, column = round(_cell(s.y)) - 1, round(_cell(s.x)) - 1
            at = (slice(max(row, 0), row + 2), slice(max(column, 0), column + 2))
            maps["shape"][at] = SHAPES.index(s.kind) + 1
            maps["colour"][at] = colours.index(s.colour) + 1
            maps["size"][at] = SIZES.index(s.size) + 1
    elif isinstance(picture, Word):
        row = int(_cell(picture.y))
        for i, character in enumerate(picture.text):
            at = (row, int(_cell(picture.x + (i + 0.5) * picture.pitch)))
            maps["glyph"][at] = GLYPHS.index(character) + 1
            maps["colour"][at] = colours.index(picture.colour) + 1
    elif isinstance(picture, Chart):
        for i, value in enumerate(picture.values):  # the middle column of the bar, from its foot to its top
            left, right = bar_span(len(picture.values), i)
            top = int(_cell(CHART_BASE - value * UNIT))
            at = (slice(top, int(_cell(CHART_BASE)) + 1), int(_cell((left + right) / 2)))
            maps["height"][at] = value
            maps["colour"][at] = colours.index(picture.colours[i]) + 1
    elif isinstance(picture, Sudoku):
        for i, digit in enumerate(picture.givens):
            if digit:
                at = tuple(int(_cell(2.0 + (k + 0.5) * 23.0)) for k in (i // 4, i % 4))
                maps["glyph"][at] = GLYPHS.index(str(digit)) + 1
    return {name: grid.reshape(-1) for name, grid in maps.items()}
