"""The canvas as a picture: the question beside the answer being denoised, as the page shows it.

A `Card` is laid out once for a run and then drawn for any of its canvases; lengths are CSS pixels times `scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageColor, ImageDraw

from dvl_core.trace import DenoisingTrace
from visualize.export.flow import Placed, flow
from visualize.export.pictures import open_pictures
from visualize.export.states import LIKELY, SURE, Canvas, Cell
from visualize.fonts import Typeface, drawable
from visualize.theme import PALETTES

WIDTH = 880
_PAD, _GAP, _ASIDE, _INSET = 24, 24, 216, 20
_LINE, _TEXT = 34, 17
_SHORTEST = 5  # lines that the canvas has at least
_QUESTION_LINES = 14
Colour = tuple[int, int, int]


class Card:
    """How one run is drawn.

    Args:
        trace: the run.
        mode: "light" or "dark".
        scale: device pixels per CSS pixel.
        canvases: those that will be drawn, for which there has to be room.
        most_lines: lines of text shown at most; a longer canvas is scrolled to the block being denoised.
    """

    def __init__(self, trace: DenoisingTrace, mode: str, scale: float, canvases: Sequence[Canvas], most_lines: int):
        self.trace, self.scale, self.palette = trace, scale, PALETTES[mode]
        self.body, self.small = Typeface(_TEXT * scale), Typeface(12 * scale)
        self.number = Typeface(15 * scale, bold=True, mono=True)
        self.asked = Typeface(15 * scale)
        self.pictures = [self._fitted(picture) for picture in open_pictures(trace)[:4]]
        self.left = self.px(_PAD + (_ASIDE + _GAP if self.pictures else 0))
        self.right = self.px(WIDTH - _PAD)
        self.flows = {canvas.count: self._flow(canvas) for canvas in canvases}
        longest = max((placed[-1].line + 1 for placed in self.flows.values() if placed), default=1)
        self.lines = min(max(_SHORTEST, longest), most_lines)
        self.base = self._draw_base()

    def px(self, length: float) -> int:
        """CSS pixels as device pixels."""
        return round(length * self.scale)

    def draw(self, canvas: Canvas) -> Image.Image:
        """The card as an RGB picture."""
        sheet = self.base.copy()
        pen = ImageDraw.Draw(sheet)
        self._draw_counters(pen, canvas)
        self._draw_progress(sheet, canvas)
        self._draw_cells(sheet, canvas)
        return sheet

    # -- layout --

    def _flow(self, canvas: Canvas) -> list[Placed]:
        note = f"+ {canvas.hidden} block{'s' * (canvas.hidden != 1)}" if canvas.hidden else ""
        em = _TEXT * self.scale
        signs = {"mask": 2.5 * em + self.px(6), "end": self.px(9), "part": 0.9 * em + self.px(4), "bar": self.px(16)}
        signs |= {"break": self.body.width("↵"), "note": self.small.width(note) + self.px(8)}
        return flow(canvas.cells, self.right - self.left - self.px(2 * _INSET), self.body.width, signs, note)

    def _fitted(self, picture: Image.Image) -> Image.Image:
        side = self.px(_ASIDE)
        factor = min(side / picture.width, side / picture.height)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        return picture.resize(size, Image.Resampling.LANCZOS)

    def _question(self, width: float) -> list[str]:
        """What was asked, as lines; of a conversation, the last question."""
        asked = drawable(self.trace.question[:4000].strip())
        cells = [Cell("text", asked)] if asked else []
        signs = {"break": 0.0}
        lines: list[str] = []
        for piece in flow(cells, width, self.asked.width, signs):
            lines += [""] * (piece.line + 1 - len(lines))
            gap = round((piece.left - self.asked.width(lines[-1])) / self.asked.width(" ")) if piece.text else 0
            lines[-1] += " " * gap + piece.text
        if len(lines) > _QUESTION_LINES:
            lines = [*lines[: _QUESTION_LINES - 1], "…"]
        return lines

    # -- what stays the same --

    def _draw_base(self) -> Image.Image:
        colours, px = self.palette, self.px
        aside = bool(self.pictures)
        asked = self._question(px(_ASIDE) if aside else self.right - self.left)
        top = px(_PAD) + (0 if aside else len(asked) * px(22) + px(12) * bool(asked))
        self.counters_top, self.canvas_top = top, top + px(52)
        self.canvas_bottom = self.canvas_top + self.lines * px(_LINE) + px(2 * 12)
        self.progress_top = self.canvas_bottom + px(14)
        beside = px(_PAD) + sum(p.height + px(8) for p in self.pictures) + len(asked) * px(22) + px(12)
        height = max(self.progress_top + px(40), beside if aside else 0) + px(_PAD + 20)
        sheet = Image.new("RGB", (px(WIDTH), height), colours.page)
        pen = ImageDraw.Draw(sheet)
        y = px(_PAD)
        for picture in self.pictures:
            sheet.paste(picture, (px(_PAD), y))
            edge = (px(_PAD) - 1, y - 1, px(_PAD) + picture.width, y + picture.height)
            pen.rectangle(edge, outline=colours.line, width=max(1, px(1)))
            y += picture.height + px(8)
        for line in asked:
            self.write(pen, px(_PAD), y + px(16), line, self.asked, colours.ink)
            y += px(22)
        self.panel(sheet, (self.left, self.canvas_top, self.right, self.canvas_bottom))
        self._draw_legend(sheet, self.progress_top + px(34))
        self.write(pen, px(_PAD), height - px(18), self._about(), self.small, colours.muted)
        return sheet

    def _about(self) -> str:
        settings = self.trace.settings
        parts = [str(self.trace.model.get("name", ""))]
        parts += [f"block size {settings['block_size']}"] if "block_size" in settings else []
        parts += [f"{settings['steps']} steps per block"] if "steps" in settings else []
        parts += [str(settings["strategy"]).replace("_", " ")] if "strategy" in settings else []
        return "  ·  ".join(drawable(part)[:80] for part in parts if part)

    def _draw_legend(self, sheet: Image.Image, baseline: int) -> None:
        pen, x, colours = ImageDraw.Draw(sheet), self.left, self.palette
        x += self.write(pen, x, baseline, "confidence", self.small, colours.muted) + self.px(16)
        for confidence, words in ((0.3, "under 50 %"), (0.7, "50–90 %"), (1.0, "from 90 %")):
            width = self.write(pen, x, baseline, words, self.small, colours.ink)
            self._underline(pen, x, x + width, baseline + self.px(5), confidence)
            x += width + self.px(16)

    # -- what changes --

    def _draw_counters(self, pen: ImageDraw.ImageDraw, canvas: Canvas) -> None:
        step, seconds = canvas.step, canvas.milliseconds / 1000
        values = {
            "block": f"{canvas.block} of {canvas.blocks}" if canvas.blocks else "",
            "step": f"{step.step + 1 if step else 0} of {canvas.steps}" if canvas.blocks else "",
            "forwards": str(step.forwards) if step else "–",
            "tokens per forward": f"{canvas.denoised / canvas.passes:.2f}" if canvas.passes else "–",
            "tokens/s": f"{canvas.denoised / seconds:.0f}" if canvas.count and seconds > 0 else "–",
        }
        shown = {name: value for name, value in values.items() if value}
        for index, (name, value) in enumerate(shown.items()):
            x = self.left + index * (self.right - self.left) // len(shown)
            self.write(pen, x, self.counters_top + self.px(11), name, self.small, self.palette.muted)
            self.write(pen, x, self.counters_top + self.px(33), value, self.number, self.palette.ink)

    def _draw_progress(self, sheet: Image.Image, canvas: Canvas) -> None:
        steps, colours, top = self.trace.steps, self.palette, self.progress_top
        total, span = max(1, len(steps)), self.right - self.left
        self.fill(sheet, (self.left, top, self.right, top + self.px(4)), self.px(2), rgb(colours.line))
        reached = self.left + span * canvas.count // total
        if canvas.count:
            self.fill(sheet, (self.left, top, reached, top + self.px(4)), self.px(2), rgb(colours.muted))
        pen = ImageDraw.Draw(sheet)
        for index in range(1, len(steps) if canvas.blocks else 0):
            if steps[index].span != steps[index - 1].span:
                x = self.left + span * index // total
                pen.rectangle((x, top + self.px(6), x + self.px(1) - 1, top + self.px(9)), fill=colours.muted)

    def _draw_cells(self, sheet: Image.Image, canvas: Canvas) -> None:
        pen, placed = ImageDraw.Draw(sheet), self.flows[canvas.count]
        first = self._scrolled(canvas, placed)
        marked: dict[tuple[int, int], list[float]] = {}
        shown = [piece for piece in placed if first <= piece.line < first + self.lines]
        for piece in shown:
            if piece.cell is not None and piece.kind in ("text", "break"):
                ends = marked.setdefault((piece.cell, piece.line), [piece.left, piece.left])
                ends[1] = piece.left + piece.width
        x0, y0 = self.left + self.px(_INSET), self.canvas_top + self.px(12) - first * self.px(_LINE)
        for (index, line), (start, stop) in marked.items():
            cell, top = canvas.cells[index], y0 + line * self.px(_LINE)
            if cell.fresh:
                self._ring(sheet, (x0 + start, top + self.px(4), x0 + stop, top + self.px(_LINE - 3)))
            if cell.confidence is not None:
                self._underline(pen, x0 + start, x0 + stop, top + self.px(_LINE - 7), cell.confidence)
        for piece in shown:
            cell = canvas.cells[piece.cell] if piece.cell is not None else None
            self._draw_piece(sheet, pen, piece, cell, x0 + piece.left, y0 + piece.line * self.px(_LINE), canvas)

    def _scrolled(self, canvas: Canvas, placed: list[Placed]) -> int:
        """First line shown: the block being denoised stays in view."""
        last = placed[-1].line if placed else 0
        active = [p.line for p in placed if p.cell is not None and canvas.cells[p.cell].active]
        wanted = (active[-1] if active else last) + 2 - self.lines
        return max(0, min(wanted, last + 1 - self.lines))

    def _draw_piece(self, sheet, pen, piece: Placed, cell: Cell | None, x: float, top: int, canvas: Canvas) -> None:
        colours, px, baseline = self.palette, self.px, top + self.px(_LINE - 13)
        if piece.kind == "text":
            behind = canvas.count < len(self.trace.steps) and not cell.active
            self.write(pen, x, baseline, piece.text, self.body, blend(colours.ink, colours.surface, 1 - 0.24 * behind))
        elif piece.kind == "break":
            self.write(pen, x, baseline, "↵", self.body, blend(colours.muted, colours.surface, 0.6))
        elif piece.kind == "note":
            self.write(pen, x + px(8), baseline, piece.text, self.small, rgb(colours.muted))
        elif piece.kind == "mask":
            ahead = blend(colours.ahead, colours.surface, 1.5 - cell.ahead / 2)
            colour = ahead if cell.ahead else rgb(colours.mask)
            box = (x + px(3), top + px(7), x + piece.width - px(3), top + px(27))
            self.fill(sheet, box, px(4), colour)
        elif piece.kind == "end":
            box = (x + px(3), top + px(10), x + px(6), top + px(24))
            self.fill(sheet, box, px(1), blend(colours.muted, colours.surface, 0.45))
        elif piece.kind == "part":
            pen.rectangle((x + px(2), top + px(7), x + piece.width - px(2), top + px(27)), outline=colours.muted)
        elif piece.kind == "bar":
            colour = rgb(colours.accent) if cell.active else blend(colours.muted, colours.surface, 0.55)
            for y in range(top + px(6), top + px(28), px(4)):
                pen.rectangle((x + px(7), y, x + px(9) - 1, y + px(2) - 1), fill=colour)

    def _ring(self, sheet: Image.Image, box: tuple[float, ...]) -> None:
        colours, one = self.palette, self.px(1)
        outer = (box[0] - 2 * one, box[1], box[2] + 2 * one, box[3])
        self.fill(sheet, outer, self.px(4), blend(colours.ink, colours.surface, 0.55))
        inner = (outer[0] + one, outer[1] + one, outer[2] - one, outer[3] - one)
        self.fill(sheet, inner, self.px(3), blend(colours.ink, colours.surface, 0.06))

    def _underline(self, pen: ImageDraw.ImageDraw, start: float, stop: float, y: int, confidence: float) -> None:
        """Two pixels whose colour and pattern say how sure the token was: solid, dashed, dotted."""
        scale = self.palette.scale
        colour = scale[min(len(scale) - 1, max(0, round(confidence * (len(scale) - 1))))]
        on, off = (None, 0) if confidence >= SURE else (6, 3) if confidence >= LIKELY else (2, 2)
        x, stop = round(start), round(stop)
        while x < stop:
            end = stop if on is None else min(stop, x + self.px(on))
            pen.rectangle((x, y, end - 1, y + self.px(2) - 1), fill=colour)
            x = end + self.px(off)

    # -- ink --

    def write(self, pen: ImageDraw.ImageDraw, x: float, baseline: float, text: str, face: Typeface, colour) -> float:
        """One line of text; its width."""
        start = x
        for piece, font in face.runs(text):
            pen.text((x, baseline), piece, font=font, fill=colour, anchor="ls")
            x += font.getlength(piece)
        return x - start

    def panel(self, sheet: Image.Image, box: tuple[int, int, int, int]) -> None:
        """A surface with a hairline around it."""
        one = self.px(1)
        self.fill(sheet, box, self.px(8), rgb(self.palette.line))
        inner = (box[0] + one, box[1] + one, box[2] - one, box[3] - one)
        self.fill(sheet, inner, self.px(7), rgb(self.palette.surface))

    def fill(self, sheet: Image.Image, box: tuple[float, ...], radius: int, colour: Colour) -> None:
        """A rectangle with round corners, its edge smoothed."""
        left, top, right, bottom = (round(value) for value in box)
        if right > left and bottom > top:
            sheet.paste(colour, (left, top), _rounded(right - left, bottom - top, radius))


def rgb(colour: str) -> Colour:
    """`#rrggbb` as numbers."""
    return ImageColor.getrgb(colour)[:3]


def blend(colour: str, ground: str, share: float) -> Colour:
    """`share` of `colour` over `ground`."""
    return tuple(round(a * share + b * (1 - share)) for a, b in zip(rgb(colour), rgb(ground), strict=True))


@lru_cache(maxsize=256)
def _rounded(width: int, height: int, radius: int) -> Image.Image:
    fine = 4
    mask = Image.new("L", (width * fine, height * fine), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, width * fine - 1, height * fine - 1), radius * fine, fill=255)
    return mask.resize((width, height), Image.Resampling.BOX)
