"""Dense labels of the small world's pictures, one per picture token, that teach the vision tower."""

from __future__ import annotations

import numpy as np

from ..tinyworld.labels import GLYPHS, MARGIN
from ..tinyworld.pen import Mark
from ..tinyworld.pictures import CANVAS, COLOURS, MAX_READING, SHAPES, SIZES
from .small import MERGE, PATCH

CELLS = CANVAS // PATCH // MERGE  # picture tokens per side
HEADS: dict[str, int] = {  # attribute -> number of classes; class 0 = nothing of the kind here
    "glyph": len(GLYPHS) + 1, "shape": len(SHAPES) + 1, "colour": len(COLOURS) + 1, "size": len(SIZES) + 1,
    "height": MAX_READING + 1, "row": CELLS + 1, "column": CELLS + 1,
}  # fmt: skip
_VALUES = {"glyph": GLYPHS, "shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES}


def cell_labels(marks: list[Mark]) -> dict[str, np.ndarray]:
    """Class of every picture token for every attribute of `HEADS`: int64 [CELLS^2], in reading order.

    Args:
        marks: from `drawing.render`.
    """
    maps = {name: np.zeros((CELLS, CELLS), np.int64) for name in HEADS}
    maps["row"][:] = np.arange(1, CELLS + 1)[:, None]  # its own place: a tower with relative positions must learn it
    maps["column"][:] = np.arange(1, CELLS + 1)
    for mark in marks:
        x, y = (CANVAS * MARGIN + at * (1 - 2 * MARGIN) for at in (mark.x, mark.y))
        cell = min(CELLS - 1, int(y * CELLS / CANVAS)), min(CELLS - 1, int(x * CELLS / CANVAS))
        value = mark.value if mark.what == "height" else _VALUES[mark.what].index(mark.value) + 1
        maps[mark.what][cell] = value
    return {name: grid.reshape(-1) for name, grid in maps.items()}
