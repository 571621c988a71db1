"""What TinyWorld pictures contain and how they are drawn: scenes, words, bar charts and sudokus.

A picture is plain data (a frozen dataclass) until `draw` turns it into pixels. All geometry is in units of a
96 x 96 canvas, so the same picture can be drawn small for training and large for showing. The only font is the
one that ships inside Pillow, so drawing is the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

CANVAS = 96  # side of the picture in drawing units; one merged patch of the bundled model covers 16 of them

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 90, 200),
    "yellow": (240, 200, 20),
    "purple": (140, 70, 180),
    "orange": (255, 127, 14),
    "black": (25, 25, 25),
}
PAPERS = ((255, 255, 255), (247, 243, 232), (232, 238, 245), (236, 236, 236))  # quiet backgrounds
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789"  # 0 and 1 look like O and I, so words leave them out
MAX_WORD = 6
MAX_BARS = 5
MAX_VALUE = 9


@dataclass(frozen=True)
class Shape:
    """One coloured shape: `place` indexes `PLACES`; `x`, `y` (centre) and `radius` are in canvas units."""

    kind: str
    colour: str
    size: str
    place: int
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """Shapes in reading order, at most one in each of the nine places."""

    shapes: tuple[Shape, ...]
    paper: int

    @property
    def content(self) -> tuple:
        """What the picture says, without jitter: decides which split it belongs to."""
        return ("scene", *((s.place, s.kind, s.colour, s.size) for s in self.shapes))


@dataclass(frozen=True)
class Word:
    """One to six characters on a line; `pitch` is the advance per character, `x`, `y` the left middle."""

    text: str
    colour: str
    paper: int
    pitch: float
    x: float
    y: float
    bold: bool

    @property
    def content(self) -> tuple:
        """The characters decide the split."""
        return ("word", self.text)


@dataclass(frozen=True)
class Chart:
    """Bars A, B, C, … with whole values from 1 to 9; the tallest and the shortest are unique."""

    values: tuple[int, ...]
    colours: tuple[str, ...]
    paper: int

    @property
    def content(self) -> tuple:
        """The values decide the split."""
        return ("chart", *self.values)


@dataclass(frozen=True)
class Sudoku:
    """A 4 x 4 sudoku: `givens` and `solution` are 16 digits in reading order, 0 = blank; one solution only."""

    givens: tuple[int, ...]
    solution: tuple[int, ...]
    colour: str
    paper: int

    @property
    def content(self) -> tuple:
        """The givens decide the split."""
        return ("sudoku", *self.givens)


Picture = Scene | Word | Chart | Sudoku


def draw(picture: Picture, size: int = 2 * CANVAS) -> Image.Image:
    """Draw a picture as RGB.

    Args:
        picture: what to draw.
        size: side in pixels, at least 96.

    Raises:
        ValueError: if `size` is below 96.
    """
    if size < CANVAS:
        raise ValueError(f"size={size} must be at least {CANVAS}")
    image = Image.new("RGB", (size, size), PAPERS[picture.paper])
    pen = ImageDraw.Draw(image)
    _DRAW[type(picture)](pen, picture, size / CANVAS)
    return image


@lru_cache(maxsize=256)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=pixels)


def _polygon(kind: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of a shape of radius `r` round (x, y)."""
    if kind == "square":
        a = 0.86 * r
        return [(x - a, y - a), (x + a, y - a), (x + a, y + a), (x - a, y + a)]
    if kind == "diamond":
        return [(x, y - 1.08 * r), (x + 0.85 * r, y), (x, y + 1.08 * r), (x - 0.85 * r, y)]
    if kind == "triangle":
        return [(x, y - r), (x + r, y + 0.85 * r), (x - r, y + 0.85 * r)]
    if kind == "cross":
        a = 0.34 * r
        return [(x - a, y - r), (x + a, y - r), (x + a, y - a), (x + r, y - a), (x + r, y + a), (x + a, y + a),
                (x + a, y + r), (x - a, y + r), (x - a, y + a), (x - r, y + a), (x - r, y - a), (x - a, y - a)]
    corners = []  # a five-pointed star
    for i in range(10):
        reach = 1.1 * r if i % 2 == 0 else 0.46 * r
        angle = math.pi * (i / 5 - 0.5)
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners


def _draw_scene(pen: ImageDraw.ImageDraw, scene: Scene, k: float) -> None:
    for s in scene.shapes:
        ink = COLOURS[s.colour]
        x, y, r = s.x * k, s.y * k, s.radius * k
        if s.kind == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        else:
            pen.polygon(_polygon(s.kind, x, y, r), fill=ink)


def _draw_word(pen: ImageDraw.ImageDraw, word: Word, k: float) -> None:
    font = _font(max(8, round(word.pitch * 1.18 * k)))
    for i, character in enumerate(word.text):
        centre = ((word.x + (i + 0.5) * word.pitch) * k, word.y * k)
        stroke = round(0.35 * k) if word.bold else 0
        pen.text(centre, character, font=font, fill=COLOURS[word.colour], anchor="mm", stroke_width=stroke)


CHART_LEFT, CHART_BASE, UNIT = 6.0, 80.0, 8.0  # one value step is 8 units high: one patch of the bundled model


def bar_span(count: int, index: int) -> tuple[float, float]:
    """Left and right edge of bar `index` of `count`, in canvas units."""
    step = (CANVAS - CHART_LEFT - 2.0) / count
    left = CHART_LEFT + step * index
    return left + 0.14 * step, left + 0.86 * step


def _draw_chart(pen: ImageDraw.ImageDraw, chart: Chart, k: float) -> None:
    line = max(1, round(0.5 * k))
    for value in range(1, MAX_VALUE + 1):
        y = (CHART_BASE - value * UNIT) * k
        pen.line((CHART_LEFT * k, y, (CANVAS - 2) * k, y), fill=(205, 205, 205), width=line)
    for i, value in enumerate(chart.values):
        left, right = bar_span(len(chart.values), i)
        top = CHART_BASE - value * UNIT
        pen.rectangle((left * k, top * k, right * k - 1, CHART_BASE * k), fill=COLOURS[chart.colours[i]])
        pen.text(((left + right) / 2 * k, 87.5 * k), "ABCDE"[i], font=_font(round(12 * k)), fill=(40, 40, 40),
                 anchor="mm")
    pen.line((CHART_LEFT * k, CHART_BASE * k, (CANVAS - 2) * k, CHART_BASE * k), fill=(60, 60, 60), width=2 * line)
    pen.line((CHART_LEFT * k, 6 * k, CHART_LEFT * k, CHART_BASE * k), fill=(60, 60, 60), width=2 * line)


def _draw_sudoku(pen: ImageDraw.ImageDraw, sudoku: Sudoku, k: float) -> None:
    cell, edge = 23.0, 2.0
    for i in range(5):
        width = max(1, round((1.2 if i % 2 == 0 else 0.4) * k))
        at = edge + i * cell
        pen.line((at * k, edge * k, at * k, (edge + 4 * cell) * k), fill=(90, 90, 90), width=width)
        pen.line((edge * k, at * k, (edge + 4 * cell) * k, at * k), fill=(90, 90, 90), width=width)
    font = _font(round(17 * k))
    for i, digit in enumerate(sudoku.givens):
        if digit:
            centre = ((edge + (i % 4 + 0.5) * cell) * k, (edge + (i // 4 + 0.5) * cell) * k)
            pen.text(centre, str(digit), font=font, fill=COLOURS[sudoku.colour], anchor="mm")


_DRAW = {Scene: _draw_scene, Word: _draw_word, Chart: _draw_chart, Sudoku: _draw_sudoku}
