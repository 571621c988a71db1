"""Draws TinyWorld pictures, and says where on them everything is.

All geometry is in canvas units, so the same picture can be drawn small for training and large for showing. The fonts
are those that come with Pillow and matplotlib, so that drawing is the same on every machine.
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .pictures import CANVAS, INKS, MAX_READING, Chart, Other, Picture, Scene, Style, Sudoku, Sum, Table, Text

FONTS = (  # "" = the one inside Pillow
    "", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "STIXGeneralBol", "cmss10",
)
_TITLE, _VALUE, _LABEL = range(3)  # lines of a chart
PATTERNS = ("clouds", "noise", "stripes", "checks", "blobs", "gradient", "landscape")


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
def _font(index: int, pixels: int) -> ImageFont.FreeTypeFont:
    if not FONTS[index]:
        return ImageFont.load_default(size=pixels)
    return ImageFont.truetype(_font_folder() / f"{FONTS[index]}.ttf", pixels)


class Pen:
    """Draws in canvas units on a picture of `scale` pixels a unit and remembers what it drew where."""

    def __init__(self, image: Image.Image, scale: float, style: Style) -> None:
        self.pen, self.scale, self.style = ImageDraw.Draw(image), scale, style
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
        """A polygon, filled or outlined."""
        points = [(x * self.scale, y * self.scale) for x, y in points]
        if fill is not None:
            self.pen.polygon(points, fill=fill)
        else:
            self.pen.line([*points, points[0], points[1]], fill=edge, joint="curve",
                          width=max(2, round(2.2 * self.style.line * self.scale)))

    def text(self, x: float, y: float, text: str, size: float, fill, room: float | None = None,
             line: int | None = None, slot: int | None = None) -> float:
        """Text centred at (x, y), shrunk until it is at most `room` wide; every character is remembered.

        `line` and `slot` are its place in the picture's own order (`Mark.at`); a line without a slot counts characters.

        Returns:
            the font size it was drawn at, in canvas units.
        """
        pixels = max(6, round(size * self.scale))
        font = _font(self.style.font, pixels)
        if room is not None and font.getlength(text) > room * self.scale:
            pixels = max(6, int(pixels * room * self.scale / font.getlength(text)))
            font = _font(self.style.font, pixels)
        total = font.getlength(text)
        left = x * self.scale - total / 2
        self.pen.text((left, y * self.scale), text, font=font, fill=fill, anchor="lm")
        for i, character in enumerate(text):
            if character != " ":
                before, after = font.getlength(text[:i]), font.getlength(text[: i + 1])
                at = None if line is None else (line, i if slot is None else slot)
                self.mark((left + (before + after) / 2) / self.scale, y, at, glyph=character)
        return pixels / self.scale


def _polygon(kind: str, x: float, y: float, r: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape of radius `r` round (x, y)."""
    a = 0.34
    if kind == "circle":
        corners = [(math.cos(math.tau * i / 40), math.sin(math.tau * i / 40)) for i in range(40)]
    elif kind == "square":
        corners = [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
    elif kind == "diamond":
        corners = [(0, -1.08), (0.85, 0), (0, 1.08), (-0.85, 0)]
    elif kind == "triangle":
        corners = [(0, -1), (1, 0.85), (-1, 0.85)]
    elif kind == "cross":
        corners = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a),
                   (-a, -a)]
    else:  # a five-pointed star
        reach = [1.1 if i % 2 == 0 else 0.46 for i in range(10)]
        corners = [(k * math.cos(math.pi * (i / 5 - 0.5)), k * math.sin(math.pi * (i / 5 - 0.5)))
                   for i, k in enumerate(reach)]
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return [(x + r * (c * u + s * v), y + r * (c * v - s * u)) for u, v in corners]


def _scene(pen: Pen, scene: Scene) -> None:
    wide, high = pen.width / 3, pen.height / 3
    side = min(wide, high)
    for s in scene.shapes:
        x = wide * (s.place % 3 + 0.5) + s.dx * side
        y = high * (s.place // 3 + 0.5) + s.dy * side
        ink = pen.ink(s.colour)
        corners = _polygon(s.kind, x, y, s.radius * side, s.turn)
        pen.shape(corners, edge=ink) if s.outline else pen.shape(corners, fill=ink)
        pen.mark(x, y, (s.place // 3, s.place % 3), shape=s.kind, colour=s.colour, size=s.size)


def _text(pen: Pen, text: Text) -> None:
    room = (pen.width - 6) * text.fill
    longest = max(len(line) for line in text.lines)
    size = min(30.0, (pen.height - 8) / len(text.lines) / 1.25, 1.75 * room / longest)
    pitch = size * 1.25
    total = pitch * len(text.lines)
    widest = max(_font(pen.style.font, 40).getlength(line) for line in text.lines) / 40 * size
    shrink = min(1.0, room / widest)
    x = pen.width / 2 + (text.x - 0.5) * (pen.width - 6 - widest * shrink)
    y = pen.height / 2 + (text.y - 0.5) * max(0.0, pen.height - 8 - total)
    for i, line in enumerate(text.lines):
        at = y + (i - (len(text.lines) - 1) / 2) * pitch
        before = len(pen.marks)
        pen.text(x, at, line, size * shrink, pen.ink(text.colour), line=i)
        for m in pen.marks[before:]:
            pen.mark(m.x, m.y, None, colour=text.colour)


def _frame(pen: Pen, chart: Chart) -> tuple[float, float, float, float, float]:
    """Draw title and axes. Returns left, right, top, base and the height of one unit."""
    left = 15.0 if chart.ticks and not chart.numbers else 6.0
    top = 8.0
    if chart.title:
        pen.text(pen.width / 2, 8, chart.title, 11.5, pen.gray(30), room=pen.width - 20, line=_TITLE)
        top = 18.0
    if chart.numbers:
        top += 9
    base, right = pen.height - 15.0, pen.width - 4.0
    scale = max(chart.values) if chart.numbers else MAX_READING
    unit = (base - top) / scale
    if not chart.numbers:
        for value in range(1, MAX_READING + 1):
            y = base - value * unit
            if chart.grid:
                pen.line(left, y, right, y, fill=pen.gray(205), width=0.5)
            if chart.ticks and value % 3 == 0:
                pen.text(left - 6, y, str(value), 9.5, pen.gray(60))
    pen.line(left, base, right, base, fill=pen.gray(60), width=1.0)
    pen.line(left, top, left, base, fill=pen.gray(60), width=1.0)
    return left, right, top, base, unit


def _chart(pen: Pen, chart: Chart) -> None:
    if chart.kind == "pie":
        return _pie(pen, chart)
    left, right, _, base, unit = _frame(pen, chart)
    step = (right - left) / len(chart.values)
    label = min(11.5, 1.55 * step / max(len(name) for name in chart.labels))
    points = []
    for i, (name, value) in enumerate(zip(chart.labels, chart.values, strict=True)):
        x, y = left + (i + 0.5) * step, base - value * unit
        points.append((x, y))
        if chart.kind == "bar":
            box = [(x - 0.36 * step) * pen.scale, y * pen.scale, (x + 0.36 * step) * pen.scale, base * pen.scale]
            pen.pen.rectangle(box, fill=pen.ink(chart.colours[i]))
        if chart.numbers:
            pen.text(x, y - 6, str(value), 10.5, pen.gray(40), room=step, line=_VALUE, slot=i)
        else:
            foot = base if chart.kind == "bar" else y
            for row in range(int((foot - y) // 8) + 1):
                pen.mark(x, y + 8 * row, (_VALUE, i), height=value)
        pen.text(x, base + 7.5, name, label, pen.gray(40), room=step * 0.98, line=_LABEL, slot=i)
    if chart.kind == "line":
        pen.line(*(c for p in points for c in p), fill=pen.ink(chart.colours[0]), width=1.6)
        for x, y in points:
            box = [(x - 2) * pen.scale, (y - 2) * pen.scale, (x + 2) * pen.scale, (y + 2) * pen.scale]
            pen.pen.ellipse(box, fill=pen.ink(chart.colours[0]))
    return None


def _pie(pen: Pen, chart: Chart) -> None:
    top = 16.0 if chart.title else 2.0
    if chart.title:
        pen.text(pen.width / 2, 8, chart.title, 11.5, pen.gray(30), room=pen.width - 20, line=_TITLE)
    y, x = (top + pen.height) / 2, pen.width / 2
    r = min((pen.height - top) / 2 - 13, pen.width / 2 - 24)
    begin, total = -90.0, sum(chart.values)
    for i, (name, value, colour) in enumerate(zip(chart.labels, chart.values, chart.colours, strict=True)):
        end = begin + 360 * value / total
        box = [(x - r) * pen.scale, (y - r) * pen.scale, (x + r) * pen.scale, (y + r) * pen.scale]
        pen.pen.pieslice(box, begin, end, fill=pen.ink(colour), outline=pen.gray(250))
        middle = math.radians((begin + end) / 2)
        reach_x, reach_y = (r + 13) * math.cos(middle), (r + 7) * math.sin(middle)
        pen.text(x + reach_x, y + reach_y, name, 9.5, pen.gray(40), room=24, line=_LABEL, slot=i)
        paper = sum(pen.ink(colour))
        pen.text(x + 0.62 * r * math.cos(middle), y + 0.62 * r * math.sin(middle), str(value), 10,
                 (255, 255, 255) if paper < 360 else (20, 20, 20), line=_VALUE, slot=i)
        begin = end


def _table(pen: Pen, table: Table) -> None:
    cells = (table.header, *((name, str(value)) for name, value in table.rows))
    high = min(20.0, (pen.height - 6) / len(cells))
    top = (pen.height - high * len(cells)) / 2
    left, right = 5.0, pen.width - 5.0
    middle = left + (right - left) * 0.55
    for i, row in enumerate(cells):
        y = top + (i + 0.5) * high
        for slot, (text, a, b) in enumerate(((row[0], left, middle), (row[1], middle, right))):
            pen.text((a + b) / 2, y, text, min(13.0, 0.72 * high), pen.gray(30), room=b - a - 4, line=i, slot=slot)
        if table.lines or i == 0:
            pen.line(left, y + high / 2, right, y + high / 2, fill=pen.gray(110), width=1.2 if i == 0 else 0.6)
    if table.lines:
        bottom = top + high * len(cells)
        pen.line(left, top, right, top, fill=pen.gray(110), width=0.6)
        for x in (left, middle, right):
            pen.line(x, top, x, bottom, fill=pen.gray(110), width=0.6)


def _sudoku(pen: Pen, sudoku: Sudoku) -> None:
    side = min(pen.width, pen.height) - 8
    cell, left, top = side / 4, (pen.width - side) / 2, (pen.height - side) / 2
    for i in range(5):
        width = 1.6 if i % 2 == 0 else 0.5
        at = i * cell
        pen.line(left + at, top, left + at, top + side, fill=pen.gray(80), width=width)
        pen.line(left, top + at, left + side, top + at, fill=pen.gray(80), width=width)
    for i, digit in enumerate(sudoku.givens):
        if digit:
            pen.text(left + (i % 4 + 0.5) * cell, top + (i // 4 + 0.5) * cell, str(digit), 0.62 * cell,
                     pen.ink(sudoku.colour), line=i // 4, slot=i % 4)


def _sum(pen: Pen, item: Sum) -> None:
    text = f"{item.first} {item.sign} {item.second} ="
    pen.text(pen.width / 2, pen.height / 2, text, 24.0, pen.ink(item.colour), room=pen.width - 8, line=0)


def _other(pen: Pen, item: Other, image: Image.Image) -> None:
    image.paste(_texture(item.pattern, np.random.default_rng(item.seed), image.size))


def _texture(pattern: str, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """An RGB picture of a natural or woven pattern."""
    def smooth(cells: int, channels: int) -> np.ndarray:
        small = rng.integers(0, 256, (cells, cells, channels), np.uint8)
        small = Image.fromarray(small if channels == 3 else small[..., 0])
        return np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float32).reshape(size[1], size[0], -1)

    a, b = rng.integers(0, 256, (2, 3)).astype(np.float32)
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32) / max(size)
    if pattern == "clouds":
        field = sum(smooth(int(c), 3) * w for c, w in ((3, 0.5), (7, 0.3), (20, 0.2)))
    elif pattern == "noise":
        field = 0.5 * smooth(int(rng.integers(2, 5)), 3) + 0.5 * smooth(int(rng.integers(24, 80)), 3)
    elif pattern == "gradient":
        field = smooth(2, 3)
    elif pattern == "blobs":
        field = np.where(smooth(int(rng.integers(4, 9)), 1) > 128, a, b) + 0.2 * smooth(30, 1)
    elif pattern == "landscape":
        horizon = 0.3 + 0.5 * smooth(int(rng.integers(3, 8)), 1)[0, :, 0] / 255
        field = np.where((y > horizon)[..., None], a * (1.3 - y)[..., None], b * (0.6 + 0.6 * y)[..., None])
        field = field + 0.3 * (smooth(40, 1) - 128)
    else:  # stripes and checks
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(8, 60)
        u = np.sin(pitch * (x * np.cos(angle) + y * np.sin(angle)))
        v = np.sin(pitch * (y * np.cos(angle) - x * np.sin(angle)))
        field = np.where(((u > 0) if pattern == "stripes" else (u * v > 0))[..., None], a, b) + 0.15 * smooth(25, 3)
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))


_DRAW = {Scene: _scene, Text: _text, Chart: _chart, Table: _table, Sudoku: _sudoku, Sum: _sum}


def _paper(style: Style, size: tuple[int, int]) -> Image.Image:
    paper = Image.new("RGB", size, style.paper)
    if style.fade is None:
        return paper
    return Image.composite(Image.new("RGB", size, style.fade), paper, Image.linear_gradient("L").resize(size))


def _worn(image: Image.Image, style: Style, seed: int) -> Image.Image:
    """Grain and compression."""
    if style.grain:
        pixels = np.asarray(image, np.int16)
        noise = np.random.default_rng(seed).integers(-256, 256, pixels.shape, np.int16)
        pixels = pixels + (noise * (style.grain / 148)).astype(np.int16)  # 148: the deviation of that noise
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if style.jpeg:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=style.jpeg)
        image = Image.open(stream).convert("RGB")
    return image


def render(picture: Picture, size: int = 2 * CANVAS) -> tuple[Image.Image, list[Mark]]:
    """Draw a picture as RGB, `size` pixels on its longer side, and say what is where.

    Returns:
        the picture, and its marks in units of a canvas of `CANVAS` x `CANVAS` in the middle of which it lies.

    Raises:
        ValueError: if `size` is below `CANVAS`.
    """
    if size < CANVAS:
        raise ValueError(f"size={size} must be at least {CANVAS}")
    style = picture.style
    over = 2 if style.smooth and size <= 1.5 * CANVAS else 1  # larger pictures are shrunk by the processor anyway
    pixels = tuple(round(side * size / CANVAS) for side in style.size)
    image = _paper(style, tuple(side * over for side in pixels))
    pen = Pen(image, size * over / CANVAS, style)
    if isinstance(picture, Other):
        _other(pen, picture, image)
    else:
        _DRAW[type(picture)](pen, picture)
    if style.turn:
        image = image.rotate(style.turn, Image.Resampling.BILINEAR, fillcolor=style.paper)
    if over > 1:
        image = image.resize(pixels, Image.Resampling.BOX)
    elif style.smooth and size > 3 * CANVAS:
        image = image.filter(ImageFilter.SMOOTH)
    return _worn(image, style, zlib.crc32(repr(picture.content).encode())), _placed(pen.marks, style)


def _placed(marks: list[Mark], style: Style) -> list[Mark]:
    """Marks after the turn of the picture, on the square canvas."""
    wide, high = style.size
    c, s = math.cos(math.radians(style.turn)), math.sin(math.radians(style.turn))
    placed = []
    for m in marks:
        u, v = m.x - wide / 2, m.y - high / 2
        placed.append(replace(m, x=CANVAS / 2 + c * u + s * v, y=CANVAS / 2 - s * u + c * v))
    return placed


def draw(picture: Picture, size: int = 2 * CANVAS) -> Image.Image:
    """The picture alone; see `render`."""
    return render(picture, size)[0]
