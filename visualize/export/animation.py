"""The run as an animated GIF, and its finished canvas as a PNG for print."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dvl_core.trace import DenoisingTrace
from visualize.export.card import WIDTH, Card, rgb
from visualize.export.states import canvases, finished
from visualize.heatmap import figure_bytes

MOST_FRAMES = 120
MOST_LINES = 20  # of the canvas in the GIF; a longer answer scrolls
HOLD = 2000  # milliseconds that the last frame stays
PRINT_LINES = 400  # in the PNG; of a longer answer the end is shown
PRINT_SCALE, PRINT_DPI = 2.25, 300  # 880 CSS pixels are 6.6 inches


def gif(trace: DenoisingTrace, mode: str = "light") -> bytes:
    """One frame per step after the empty canvas, steps merged where there are more than `MOST_FRAMES`; loops."""
    shown = list(canvases(trace, frame_counts(len(trace.steps))))
    card = Card(trace, mode, 1.0, shown, MOST_LINES)
    palette = _palette(card, [card.draw(shown[0]), card.draw(shown[-1])])
    frames = [card.draw(canvas).quantize(palette=palette, dither=Image.Dither.NONE) for canvas in shown]
    beat = frame_milliseconds(len(frames))
    durations = [beat] * (len(frames) - 1) + [HOLD]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False, disposal=1
    )
    return buffer.getvalue()


def frame_counts(steps: int) -> list[int]:
    """Steps applied in each frame: 0, then evenly up to all of them."""
    moving = min(steps, MOST_FRAMES)
    return sorted({round(index * steps / moving) for index in range(moving + 1)}) if steps else [0]


def frame_milliseconds(frames: int) -> int:
    """How long a frame stays, about nine seconds in all; a multiple of 10, which is what a GIF can say."""
    return max(60, min(420, round(9000 / max(1, frames), -1)))


def png(trace: DenoisingTrace, mode: str = "light") -> bytes:
    """The finished canvas, all of it up to `PRINT_LINES`, with the confidence heatmap under it."""
    canvas = finished(trace)
    card = Card(trace, mode, PRINT_SCALE, [canvas], PRINT_LINES)
    top = card.draw(canvas)
    heat = Image.open(io.BytesIO(figure_bytes(trace, "confidence", mode))).convert("RGB")
    edge, width = card.px(24), card.px(WIDTH - 2 * 24 - 2 * 12)
    heat = heat.resize((width, round(heat.height * width / heat.width)), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (top.width, top.height + heat.height + 2 * edge), card.palette.page)
    sheet.paste(top, (0, 0))
    card.panel(sheet, (edge, top.height, top.width - edge, sheet.height - edge))
    sheet.paste(heat, (edge + card.px(12), top.height + edge // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", dpi=(PRINT_DPI, PRINT_DPI))
    return buffer.getvalue()


def _palette(card: Card, frames: list[Image.Image]) -> Image.Image:
    """256 colours for all frames: those of the theme exactly, the rest as the first and the last frame need them."""
    colours = card.palette
    exact = [colours.page, colours.surface, colours.ink, colours.muted, colours.line, colours.mask, colours.ahead]
    theme = np.array([rgb(colour) for colour in (*exact, colours.accent, *colours.scale)])
    both = Image.new("RGB", (frames[0].width, 2 * frames[0].height))
    both.paste(frames[0], (0, 0))
    both.paste(frames[-1], (0, frames[0].height))
    rest = np.array(both.quantize(256 - len(theme), Image.Quantize.MEDIANCUT).getpalette()).reshape(-1, 3)
    near = np.abs(rest[:, None] - theme[None]).max(-1).min(-1) < 8  # a twin would be taken for the theme's own
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([theme, rest[~near]])[:256].flatten().tolist())
    return palette
