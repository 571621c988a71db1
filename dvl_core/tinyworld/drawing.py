"""Draws TinyWorld pictures, and says where on them everything is."""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from .charts import draw_chart
from .pen import Mark, Pen, font_of
from .pictures import CANVAS, Chart, Other, Picture, Scene, Style, Sudoku, Sum, Table, Text

PATTERNS = ("clouds", "noise", "stripes", "checks", "blobs", "gradient", "landscape")


def _polygon(kind: str, x: float, y: float, r: float, turn: float, stretch: float = 1.0) -> list[tuple[float, float]]:
    """Corners of a shape of radius `r` round (x, y), `stretch` times as wide as high."""
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
    corners = [(u * min(1.0, stretch), v / max(1.0, stretch)) for u, v in corners]
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return [(x + r * (c * u + s * v), y + r * (c * v - s * u)) for u, v in corners]


def _scene(pen: Pen, scene: Scene) -> None:
    wide, high = pen.width / 3, pen.height / 3
    side = min(wide, high)
    for s in scene.shapes:
        x = wide * (s.place % 3 + 0.5) + s.dx * side
        y = high * (s.place // 3 + 0.5) + s.dy * side
        ink = pen.ink(s.colour)
        corners = _polygon(s.kind, x, y, s.radius * side, s.turn, scene.style.stretch)
        pen.shape(corners, edge=ink) if s.outline else pen.shape(corners, fill=ink)
        pen.mark(x, y, (s.place // 3, s.place % 3), shape=s.kind, colour=s.colour, size=s.size)


def _text(pen: Pen, text: Text) -> None:
    room = (pen.width - 6) * text.fill
    longest = max(len(line) for line in text.lines)
    size = min(30.0, (pen.height - 8) / len(text.lines) / 1.25, 1.75 * room / longest)
    pitch = size * 1.25
    total = pitch * len(text.lines)
    widest = max(font_of(pen.style.font, 40).getlength(line) for line in text.lines) / 40 * size
    shrink = min(1.0, room / widest)
    x = pen.width / 2 + (text.x - 0.5) * (pen.width - 6 - widest * shrink)
    y = pen.height / 2 + (text.y - 0.5) * max(0.0, pen.height - 8 - total)
    pen.panel(x - widest * shrink / 2 - 4, y - total / 2 - 2, x + widest * shrink / 2 + 4, y + total / 2 + 2, 4.0)
    for i, line in enumerate(text.lines):
        at = y + (i - (len(text.lines) - 1) / 2) * pitch
        before = len(pen.marks)
        pen.text(x, at, line, size * shrink, pen.ink(text.colour), line=i)
        for m in pen.marks[before:]:
            pen.mark(m.x, m.y, None, colour=text.colour)


def _table(pen: Pen, table: Table) -> None:
    cells = (table.header, *((name, str(value)) for name, value in table.rows))
    high = min(20.0, (pen.height - 6) / len(cells))
    top = (pen.height - high * len(cells)) / 2
    left, right = 5.0, pen.width - 5.0
    middle = left + (right - left) * 0.55
    for i, row in enumerate(cells):
        y = top + (i + 0.5) * high
        ink = pen.gray(30)
        if i == 0 or (table.striped and i % 2 == 0):
            pen.panel(left, y - high / 2, right, y + high / 2)
            ink = pen.on_panel()
        for slot, (text, a, b) in enumerate(((row[0], left, middle), (row[1], middle, right))):
            size, room = min(13.0, 0.72 * high), b - a - 4
            x = a + 3 + min(room, pen.length(text, size)) / 2 if table.flush else (a + b) / 2
            pen.text(x, y, text, size, ink, room=room, line=i, slot=slot)
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
    pen.panel(left, top, left + side, top + side)
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
    text = f"{item.first} {item.sign} {item.second}{item.ending}"
    pen.panel(3, pen.height / 2 - 20, pen.width - 3, pen.height / 2 + 20, 5.0)
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


_DRAW = {Scene: _scene, Text: _text, Chart: draw_chart, Table: _table, Sudoku: _sudoku, Sum: _sum}


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
