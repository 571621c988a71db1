"""Training pictures as others would make them: what the world outside TinyWorld's test split looks like.

A wild picture asks the same questions as any other, but its words are any words, its fonts more fonts, its charts have
the axes of plotting libraries, its tables and texts the fields of web pages, and its shapes edges, other proportions
or an unsteady hand. Only training draws such pictures, so that the test split stays what it was.
"""

from __future__ import annotations

import random
from dataclasses import replace

from .pen import FONTS, MORE_FONTS
from .pictures import COLOURS, INKS, MAX_READING, Chart, Picture, Scene, Style, Sudoku, Sum, Table, Text
from .sampling import some_word

_PAPERS = ((255, 255, 255), (240, 240, 240), (250, 230, 120), (20, 20, 20), (30, 90, 60), (25, 50, 110), (150, 30, 30))


def wild(rng: random.Random, picture: Picture) -> Picture:
    """The picture with other words and another look. Its content changes with its words."""
    style = replace(picture.style, font=rng.randrange(len(FONTS) + len(MORE_FONTS)))
    if isinstance(picture, Scene):
        return _scene(rng, picture, style)
    if isinstance(picture, Text):
        return _text(rng, picture, style)
    if isinstance(picture, Chart):
        return _chart(rng, picture, style)
    if isinstance(picture, Table):
        return _table(rng, picture, style)
    if isinstance(picture, Sum):
        picture = replace(picture, ending=rng.choice((" =", " =", " = ?", "=?", "")))
        if rng.random() < 0.3:
            return replace(picture, style=_by_hand(rng, style))
    if isinstance(picture, (Sudoku, Sum)):
        return replace(picture, style=_on_panel(rng, style, INKS[picture.colour]))
    return picture


def _scene(rng: random.Random, scene: Scene, style: Style) -> Scene:
    way = rng.random()
    outlined = [False] * len(scene.shapes)
    if way < 0.4:
        style = replace(style, wobble=rng.uniform(0.01, 0.045), line=rng.uniform(1.0, 3.0))
        outlined = [rng.random() < 0.8] * len(scene.shapes)
    elif way < 0.7:
        style = replace(style, edge=True)
    else:
        outlined = [rng.random() < 0.5 for _ in scene.shapes]
    style = replace(style, stretch=1.0 if rng.random() < 0.4 else rng.uniform(0.75, 1.35))
    shapes = []
    for shape, outline in zip(scene.shapes, outlined, strict=True):
        turn = rng.uniform(-14, 14) if rng.random() < 0.4 else shape.turn
        shapes.append(replace(shape, outline=outline and shape.size == "large", turn=turn))
    return replace(scene, shapes=tuple(shapes), style=style)


def _text(rng: random.Random, text: Text, style: Style) -> Text:
    if len(text.text) <= 8 and rng.random() < 0.3:
        return replace(text, style=_by_hand(rng, style))
    style = replace(style, letters=rng.uniform(0.6, 1.0)) if rng.random() < 0.3 else style
    if len(text.lines) <= 3 and rng.random() < 0.5:
        return replace(text, style=_on_panel(rng, style, INKS[text.colour]))
    if rng.random() < 0.5:
        return replace(text, style=style)
    colour = rng.choice(("white", *COLOURS))
    paper = _apart_from(rng, INKS[colour])
    return replace(text, colour=colour, style=replace(style, paper=paper, fade=None))


def _chart(rng: random.Random, chart: Chart, style: Style) -> Chart:
    labels, title = chart.labels, chart.title
    if rng.random() < 0.7:
        labels = _names(rng, len(labels), 5 if chart.kind == "pie" or len(labels) > 4 else 6)
    if title and rng.random() < 0.7:
        title = some_word(rng, 10).title()
    top, step = 0.0, 3
    scaled = chart.numbers and chart.kind != "pie" and rng.random() < 0.5
    if chart.numbers:
        top = max(chart.values) * rng.choice((1.0, 1.05, rng.uniform(1.0, 1.4)))
        step = _round_step(top) if scaled else 3
    elif chart.kind != "pie":
        above = rng.uniform(max(chart.values), MAX_READING + 3)
        top = rng.choice((float(MAX_READING), max(chart.values) * 1.05, above))
        step = rng.choice((1, 2, 2, 3, 5)) if top > 4 else 1
    sideways = chart.kind == "bar" and chart.numbers and rng.random() < 0.35
    one = rng.choice(((31, 119, 180), None, None))  # the first colour of matplotlib's cycle
    shade = tuple(a - b for a, b in zip(one, COLOURS["blue"], strict=True)) if one else style.shade
    blue = {"colours": ("blue",) * len(labels)} if one and chart.kind != "pie" else {}
    inside = chart.kind == "bar" and chart.numbers and not sideways and rng.random() < 0.6
    inside = inside and min(chart.values) > 0.2 * top
    room = 100 / len(labels) / max(map(len, labels))  # canvas units for a character
    style = replace(style, edge=rng.random() < 0.25, shade=shade if blue else style.shade,
                    letters=min(1.0, max(_small(rng), 3.2 / room)))
    return replace(chart, labels=labels, title=title, top=top, step=step, framed=rng.random() < 0.6, sideways=sideways,
                   ticks=chart.ticks or not chart.numbers, style=style, scaled=scaled, inside=inside,
                   dots=rng.random() < 0.6, percent=rng.random() < 0.4, begin=rng.choice((0, 90, rng.uniform(0, 360))),
                   **blue)


def _round_step(top: float) -> int:
    """A round distance between the numbers of an axis that ends at `top`, three to six of them."""
    return next((step for step in (1, 2, 5, 10, 20, 25) if top / step <= 5.5), 50)


def _table(rng: random.Random, table: Table, style: Style) -> Table:
    names, values = zip(*table.rows, strict=True)
    if rng.random() < 0.7:
        names = _names(rng, len(names), 8)
    header = tuple(some_word(rng, 7).title() for _ in range(2)) if rng.random() < 0.6 else table.header
    dark = tuple(rng.randint(20, 110) for _ in range(3))
    light = tuple(rng.randint(205, 245) for _ in range(3))
    striped = rng.random() < 0.5 and sum(style.paper) > 600
    panel = light if striped or rng.random() < 0.3 else dark
    if sum(style.paper) < 300:
        panel = dark
    return replace(table, header=header, rows=tuple(zip(names, values, strict=True)), striped=striped,
                   flush=rng.random() < 0.5, lines=table.lines and rng.random() < 0.6,
                   style=replace(style, panel=panel if rng.random() < 0.7 else None, letters=_small(rng)))


def _names(rng: random.Random, count: int, longest: int) -> tuple[str, ...]:
    """Different words, all in one case."""
    case, found = rng.choice((str.title, str.title, str.lower, str.upper)), []
    while len(found) < count:
        word = case(some_word(rng, longest))
        if word not in found and not word.isdigit():
            found.append(word)
    return tuple(found)


def _small(rng: random.Random) -> float:
    """Size of lettering: that of a figure which was made for a larger page, or as always."""
    return rng.uniform(0.42, 0.95) if rng.random() < 0.7 else 1.0


def _by_hand(rng: random.Random, style: Style) -> Style:
    return replace(style, wobble=rng.uniform(0.01, 0.06), line=rng.uniform(0.7, 2.5), turn=0.0)


def _on_panel(rng: random.Random, style: Style, ink: tuple[int, int, int]) -> Style:
    return replace(style, panel=_apart_from(rng, ink)) if rng.random() < 0.6 else style


def _apart_from(rng: random.Random, ink: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour on which the ink can be read well."""
    while True:
        colour = tuple(rng.randint(0, 255) for _ in range(3)) if rng.random() < 0.5 else rng.choice(_PAPERS)
        light, dark = (0.3 * r + 0.59 * g + 0.11 * b for r, g, b in (colour, ink))
        if abs(light - dark) > 90:
            return colour
