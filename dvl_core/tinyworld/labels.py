"""Dense labels of TinyWorld pictures: what each merged patch of the vision tower should know.

They teach the vision tower before any language is trained; without that warm-up the language model finds nothing
to read for a long time. Small characters come up to three to a merged patch, so each third of its width has a label
of its own. Line and slot say where something stands in the picture's own order, whatever the picture's size, margins
and turn: with them a lookup ("what is left of the star", "the value of K") compares labels instead of geometry.
"""

from __future__ import annotations

import numpy as np

from .pen import Mark
from .pictures import CANVAS, INKS, MAX_LINE, MAX_READING, SHAPES, SIZES
from .sampling import CHARACTERS

VIEW = 192  # pixels per side that the bundled vision-language model sees of a picture
MARGIN = 1 / 64  # round the picture, as a share of what the model sees
CELLS = VIEW // 16  # its merged patches per side
GLYPHS = CHARACTERS + "+-="
THIRDS = ("left_glyph", "middle_glyph", "right_glyph")
LINES = 6  # of a picture's own order, see `pen.Mark`


def patch_heads(cells: int) -> dict[str, int]:
    """Attribute to number of classes, for `cells` patches per side; class 0 = nothing of the kind here."""
    return {
        **dict.fromkeys(THIRDS, len(GLYPHS) + 1),
        "shape": len(SHAPES) + 1,
        "colour": len(INKS) + 1,
        "size": len(SIZES) + 1,
        "height": MAX_READING + 1,
        "row": cells + 1,
        "column": cells + 1,
        "line": LINES + 1,
        "slot": MAX_LINE + 1,
    }


HEADS = patch_heads(CELLS)
_VALUES = {"shape": SHAPES, "colour": tuple(INKS), "size": SIZES}


def _cell(at: float, margin: float, cells: int) -> float:
    """Where a canvas coordinate lands once the picture has its margin, in merged patches."""
    return (margin + at / CANVAS * (1 - 2 * margin)) * cells


def patch_labels(marks: list[Mark], margin: float = MARGIN, cells: int = CELLS) -> dict[str, np.ndarray]:
    """Class of every merged patch for every attribute of `HEADS`.

    Args:
        marks: from `drawing.render`.
        margin: round the picture, as a share of what the model sees.
        cells: patches per side.

    Returns:
        attribute -> int64 array [cells * cells] in reading order.
    """
    maps = {name: np.zeros((cells, cells), np.int64) for name in HEADS}
    maps["row"][:] = np.arange(1, cells + 1)[:, None]  # its own place: a tower with relative positions must learn it
    maps["column"][:] = np.arange(1, cells + 1)
    shapes = any(m.what == "shape" for m in marks)
    for m in marks:
        x, y = _cell(m.x, margin, cells), _cell(m.y, margin, cells)
        if not (0 <= x < cells and 0 <= y < cells):
            continue
        where: tuple = (int(y), int(x))
        if shapes:  # the four merged patches round the centre
            row, column = round(y) - 1, round(x) - 1
            where = (slice(max(row, 0), row + 2), slice(max(column, 0), column + 2))
        if m.what == "glyph" and m.value not in GLYPHS:
            continue
        if m.what == "glyph":
            third = int(x % 1 * 3)
            second = any(maps[name][where] for name in THIRDS[:third])
            maps[THIRDS[third]][where] = GLYPHS.index(m.value) + 1
        elif m.what == "height":
            maps["height"][where] = m.value
        else:
            maps[m.what][where] = _VALUES[m.what].index(m.value) + 1
        if m.at and not (m.what == "glyph" and second):  # the first character of a patch says where it is
            maps["line"][where], maps["slot"][where] = m.at[0] + 1, m.at[1] + 1
    return {name: grid.reshape(-1) for name, grid in maps.items()}
