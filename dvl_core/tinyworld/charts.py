"""Draws TinyWorld's charts."""

from __future__ import annotations

import math

from .pen import Pen
from .pictures import MAX_READING, Chart

TITLE, VALUE, LABEL = range(3)  # lines of a chart, see `pen.Mark`


def _title(pen: Pen, chart: Chart) -> bool:
    """Write the title, if there is one."""
    if chart.title:
        pen.text(pen.width / 2, 8, chart.title, 11.5, pen.gray(30), room=pen.width - 20, line=TITLE)
    return bool(chart.title)


def _frame(pen: Pen, chart: Chart) -> tuple[float, float, float, float, float]:
    """Draw title and axes. Returns left, right, top, base and the height of one unit."""
    named_axis = chart.scaled or (chart.ticks and not chart.numbers)
    letters = pen.style.letters
    left = 6.0 + 9 * letters * named_axis
    top = 18.0 if _title(pen, chart) else 8.0
    if chart.numbers:
        top += 9
    base, right = pen.height - 15.0, pen.width - 4.0
    scale = chart.top or (max(chart.values) if chart.numbers else MAX_READING)
    unit = (base - top) / scale
    if not chart.numbers or chart.scaled:
        for value in range(0 if chart.top else 1, int(scale) + 1):
            y, named = base - value * unit, value % chart.step == 0
            if chart.grid and (named or not chart.top):
                pen.line(left, y, right, y, fill=pen.gray(205), width=0.5)
            if named_axis and named:
                pen.text(left - 1.2 - 4.8 * letters, y, str(value), 9.5, pen.gray(60), room=9.2 * letters)
    pen.line(left, base, right, base, fill=pen.gray(60), width=1.0)
    pen.line(left, top, left, base, fill=pen.gray(60), width=1.0)
    if chart.framed:
        pen.line(left, top, right, top, right, base, fill=pen.gray(60), width=1.0)
    return left, right, top, base, unit


def draw_chart(pen: Pen, chart: Chart) -> None:
    if chart.kind == "pie":
        return _pie(pen, chart)
    if chart.sideways:
        return _sideways(pen, chart)
    left, right, _, base, unit = _frame(pen, chart)
    step = (right - left) / len(chart.values)
    label = min(11.5, 1.55 * step / max(len(name) for name in chart.labels))
    points = []
    for i, (name, value) in enumerate(zip(chart.labels, chart.values, strict=True)):
        x, y = left + (i + 0.5) * step, base - value * unit
        points.append((x, y))
        if chart.kind == "bar":
            pen.bar(x - 0.36 * step, y, x + 0.36 * step, base, pen.ink(chart.colours[i]))
        if chart.numbers:
            above = 6.0 if chart.kind == "line" else 1.2 + 4.8 * pen.style.letters
            at, ink = (y - above, pen.gray(40)) if not chart.inside else ((y + base) / 2, pen.on_ink(chart.colours[i]))
            pen.text(x, at, str(value), 10.5, ink, room=step, line=VALUE, slot=i)
        else:
            foot = base if chart.kind == "bar" else y
            for row in range(int((foot - y) // 8) + 1):
                pen.mark(x, y + 8 * row, (VALUE, i), height=value)
        pen.text(x, base + 2.5 + 5 * pen.style.letters, name, label, pen.gray(40), room=step * 0.98, line=LABEL, slot=i)
    if chart.kind == "line":
        pen.line(*(c for p in points for c in p), fill=pen.ink(chart.colours[0]), width=1.6)
        for x, y in points if chart.dots else ():
            box = [(x - 2) * pen.scale, (y - 2) * pen.scale, (x + 2) * pen.scale, (y + 2) * pen.scale]
            pen.pen.ellipse(box, fill=pen.ink(chart.colours[0]))
    return None


def _pie(pen: Pen, chart: Chart) -> None:
    top = 16.0 if _title(pen, chart) else 2.0
    y, x = (top + pen.height) / 2, pen.width / 2
    r = min((pen.height - top) / 2 - 13, pen.width / 2 - 24)
    begin, total = chart.begin - 90.0, sum(chart.values)
    for i, (name, value, colour) in enumerate(zip(chart.labels, chart.values, chart.colours, strict=True)):
        end = begin + 360 * value / total
        box = [(x - r) * pen.scale, (y - r) * pen.scale, (x + r) * pen.scale, (y + r) * pen.scale]
        pen.pen.pieslice(box, begin, end, fill=pen.ink(colour), outline=pen.gray(250))
        middle = math.radians((begin + end) / 2)
        reach_x, reach_y = (r + 13) * math.cos(middle), (r + 7) * math.sin(middle)
        pen.text(x + reach_x, y + reach_y, name, 9.5, pen.gray(40), room=24, line=LABEL, slot=i)
        pen.text(x + 0.62 * r * math.cos(middle), y + 0.62 * r * math.sin(middle), f"{value}{'%' * chart.percent}", 10,
                 pen.on_ink(colour), line=VALUE, slot=i)
        begin = end


def _sideways(pen: Pen, chart: Chart) -> None:
    """Bars that lie, the first one at the top, with their values beside them."""
    top = 18.0 if _title(pen, chart) else 5.0
    high = (pen.height - 5 - top) / len(chart.values)
    left, size, foot = 34.0, min(11.0, 0.7 * high), pen.height - 5
    unit = (pen.width - left - 22) / (chart.top or max(chart.values))
    if chart.scaled:
        foot, high = pen.height - 14, (pen.height - 14 - top) / len(chart.values)
        for value in range(0, int((pen.width - 8 - left) / unit) + 1, chart.step):
            pen.text(left + value * unit, pen.height - 7, str(value), 9.5, pen.gray(60), room=chart.step * unit)
    for i, (name, value) in enumerate(zip(chart.labels, chart.values, strict=True)):
        y, end = top + (i + 0.5) * high, left + value * unit
        pen.bar(left, y - 0.36 * high, end, y + 0.36 * high, pen.ink(chart.colours[i]))
        pen.text(left / 2, y, name, size, pen.gray(40), room=left - 4, line=LABEL, slot=i)
        pen.text(end + 1 + 8 * pen.style.letters, y, str(value), size, pen.gray(40), line=VALUE, slot=i)
    pen.line(left, top, left, foot, fill=pen.gray(60), width=1.0)
    if chart.framed or chart.scaled:
        pen.line(left, top, pen.width - 3, top, pen.width - 3, foot, left, foot,
                 fill=pen.gray(60), width=1.0)
