"""The pen that TinyWorld's pictures are drawn with, in canvas units, and that remembers what it drew where.

The same picture can so be drawn small for training and large for showing. The fonts are those that come with Pillow and
matplotlib, so that drawing is the same on every machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .pictures import INKS, Style

FONTS = (  # "" = the one inside Pillow
    "", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "STIXGeneralBol", "cmss10",
)
MORE_FONTS = (  # of wild pictures, see `wild`
    "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono-Bold", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmtt10",
)  # fmt: skip
_FILES = FONTS + MORE_FONTS


@dataclass(frozen=True)
class Mark:
    """Something at a point of the canvas: attribute `what` has the value `value` at (x, y).

    `at` is its line and slot in the picture's own order (the row and column of a cell or a place, the line and number
    of a character, the number of a bar), or None where it has none.
    """

    what: str  # "glyph", "shape", "colour", "size" or "height"
    value: str | int
    x: float
    y: float
    at: tuple[int, int] | None = None


@lru_cache(maxsize=1)
def _font_folder() -> Path:
    spec = find_spec("matplotlib")  # located, not imported: only its font files are needed
    if spec is None:
        raise ModuleNotFoundError("TinyWorld draws with the fonts that come with matplotlib: pip install matplotlib")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


@lru_cache(maxsize=2048)
def font_of(index: int, pixels: int) -> ImageFont.FreeTypeFont:
    if not _FILES[index]:
        return ImageFont.load_default(size=pixels)
    return ImageFont.truetype(_font_folder() / f"{_FILES[index]}.ttf", pixels)


class Pen:
    """Draws in canvas units on a picture of `scale` pixels a unit and remembers what it drew where."""

    def __init__(self, image: Image.Image, scale: float, style: Style) -> None:
        self.image, self.pen, self.scale, self.style = image, ImageDraw.Draw(image), scale, style
        self.width, self.height = style.size
        self.dark = sum(style.paper) < 300  # light ink on dark paper
        self.marks: list[Mark] = []

    def ink(self, colour: str) -> tuple[int, int, int]:
        """RGB of a named colour in this picture."""
        return tuple(max(0, min(255, a + b)) for a, b in zip(INKS[colour], self.style.shade, strict=True))

    def gray(self, level: int) -> tuple[int, int, int]:
        """Ink of frames and labels: dark on light paper, light on dark paper."""
        level = 255 - level if self.dark else level
        return (level, level, level)

    def mark(self, x: float, y: float, at: tuple[int, int] | None, **values: str | int) -> None:
        """Remember what is at (x, y)."""
        self.marks += [Mark(what, value, x, y, at) for what, value in values.items()]

    def line(self, *points: float, fill, width: float = 1.0) -> None:
        """A line through x, y, x, y, …"""
        pixels = max(1, round(width * self.style.line * self.scale))
        self.pen.line([p * self.scale for p in points], fill=fill, width=pixels)

    def shape(self, points: list[tuple[float, float]], fill=None, edge=None) -> None:
        """A polygon, filled or outlined; wobbly where the style is."""
        if self.style.wobble:
            points = self._by_hand(points)
        points = [(x * self.scale, y * self.scale) for x, y in points]
        width = max(2, round(2.2 * self.style.line * self.scale))
        if fill is not None:
            self.pen.polygon(points, fill=fill)
            edge, width = (self.gray(40), max(1, width // 3)) if self.style.edge else (None, 0)
        if edge is not None:
            self.pen.line([*points, points[0], points[1]], fill=edge, joint="curve", width=width)

    def _by_hand(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """The outline as an unsteady hand draws it: `wobble` is the deviation, as a share of the shape's width."""
        unsteady = random.Random(repr(points))
        reach = self.style.wobble * (max(x for x, _ in points) - min(x for x, _ in points))
        drawn, pieces = [], 1 if len(points) > 20 else 3
        for (x, y), (to_x, to_y) in zip(points, [*points[1:], points[0]], strict=True):
            along = [(x + k / pieces * (to_x - x), y + k / pieces * (to_y - y)) for k in range(pieces)]
            drawn += [(u + unsteady.gauss(0, reach), v + unsteady.gauss(0, reach)) for u, v in along]
        return drawn

    def on_ink(self, colour: str) -> tuple[int, int, int]:
        """Ink of numbers that stand on a named colour."""
        return (255, 255, 255) if sum(self.ink(colour)) < 360 else (20, 20, 20)

    def on_panel(self) -> tuple[int, int, int]:
        """Ink of labels that stand on the panel."""
        return self.gray(30) if self.style.panel is None else (245,) * 3 if sum(self.style.panel) < 380 else (25,) * 3

    def bar(self, left: float, top: float, right: float, bottom: float, fill) -> None:
        """A rectangle, with an edge where the style has edges."""
        box = [value * self.scale for value in (left, top, right, bottom)]
        self.pen.rectangle(box, fill=fill, outline=self.gray(40) if self.style.edge else None)

    def panel(self, left: float, top: float, right: float, bottom: float, round_by: float = 0.0) -> None:
        """A rectangle in the style's second colour, if it has one."""
        if self.style.panel is not None:
            box = [round(value * self.scale) for value in (left, top, right, bottom)]
            self.pen.rounded_rectangle(box, round_by * self.scale, fill=self.style.panel)

    def length(self, text: str, size: float) -> float:
        """How wide `text` stands at that size, in canvas units."""
        return font_of(self.style.font, self._pixels(size)).getlength(text) / self.scale

    def _pixels(self, size: float) -> int:
        return max(6, round(size * self.style.letters * self.scale))

    def text(self, x: float, y: float, text: str, size: float, fill, room: float | None = None,
             line: int | None = None, slot: int | None = None) -> None:
        """Text centred at (x, y), shrunk until it is at most `room` wide; every character is remembered.

        `line` and `slot` are its place in the picture's own order (`Mark.at`); a line without a slot counts characters.
        """
        pixels = self._pixels(size)
        font = font_of(self.style.font, pixels)
        if room is not None and font.getlength(text) > room * self.scale:
            pixels = max(6, int(pixels * room * self.scale / font.getlength(text)))
            font = font_of(self.style.font, pixels)
        total = font.getlength(text)
        left = x * self.scale - total / 2
        if self.style.wobble:
            unsteady = random.Random(f"{text}/{x:.2f}/{y:.2f}")
        else:
            self.pen.text((left, y * self.scale), text, font=font, fill=fill, anchor="lm")
        for i, character in enumerate(text):
            if character != " ":
                middle = left + (font.getlength(text[:i]) + font.getlength(text[: i + 1])) / 2
                at = None if line is None else (line, i if slot is None else slot)
                self.mark(middle / self.scale, y, at, glyph=character)
                if self.style.wobble:
                    self._letter_by_hand(character, middle, y * self.scale, pixels, font, fill, unsteady)

    def _letter_by_hand(
        self, letter: str, x: float, y: float, pixels: int, font, fill, unsteady: random.Random
    ) -> None:
        """One character in thick strokes, slanted and shifted a little; `x` and `y` in pixels."""
        reach = self.style.wobble * pixels
        tile = Image.new("L", (2 * pixels, 2 * pixels))
        thick = round(pixels * 0.025 * self.style.line)
        ImageDraw.Draw(tile).text((pixels, pixels), letter, font=font, fill=255, anchor="mm", stroke_width=thick)
        tile = tile.rotate(unsteady.gauss(0, 150 * self.style.wobble), Image.Resampling.BILINEAR)
        corner = round(x + unsteady.gauss(0, reach)) - pixels, round(y + unsteady.gauss(0, 2 * reach)) - pixels
        self.image.paste(fill, (*corner, corner[0] + 2 * pixels, corner[1] + 2 * pixels), tile)
