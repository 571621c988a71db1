"""The occlusion check: hide part of a picture, ask again, and see which tokens of the answer change.

Where an answer comes from is then told by the answer itself, not by attention weights, which need not say what a
token depends on (occlusion: Zeiler and Fergus, arXiv 1311.2901).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageStat

from .trace import DenoisingTrace

FILLS = ("mean", "gray")
_GRAY = (128, 128, 128)


@dataclass(frozen=True)
class Change:
    """A position at which two answers differ; None where an answer has no token, or no confidence was recorded."""

    position: int
    before: int | None
    after: int | None
    confidence_before: float | None
    confidence_after: float | None


def occlude(picture: Image.Image, region: tuple[float, float, float, float], fill: str = "mean") -> Image.Image:
    """A copy of `picture` with a rectangle painted over.

    Args:
        picture: upright RGB, as `open_image` gives it.
        region: left, top, right and bottom as shares of width and height, 0 to 1; the pixels it touches are hidden.
        fill: "mean", the picture's mean colour, which keeps its brightness; or "gray", mid grey.

    Raises:
        ValueError: naming what is wrong.
    """
    if picture.mode != "RGB":
        raise ValueError(f"picture must be of mode RGB, as open_image gives it; got {picture.mode}.")
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {', '.join(FILLS)}; got {fill!r}.")
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"region must be left < right and top < bottom, all from 0 to 1; got {tuple(region)!r}.")
    colour = _GRAY if fill == "gray" else tuple(round(mean) for mean in ImageStat.Stat(picture).mean)
    width, height = picture.size
    hidden = picture.copy()
    box = (math.floor(left * width), math.floor(top * height), math.ceil(right * width), math.ceil(bottom * height))
    hidden.paste(colour, box)
    return hidden


def compare(before: DenoisingTrace, after: DenoisingTrace) -> list[Change]:
    """Where two answers to the same question differ, position by position; what only one of them reaches has changed.

    Raises:
        ValueError: when they were decoded with different settings or seeds, so that the picture isn't all that differs.
    """
    if before.settings != after.settings:
        names = sorted({*before.settings, *after.settings})
        name = next(name for name in names if before.settings.get(name) != after.settings.get(name))
        raise ValueError(f"Both answers must have the same settings and seed; {name} differs.")
    one, two = _tokens(before), _tokens(after)
    changes = []
    for position in range(max(len(one), len(two))):
        (old, sure), (new, newly_sure) = (side.get(position, (None, None)) for side in (one, two))
        if old != new:
            changes.append(Change(position, old, new, sure, newly_sure))
    return changes


def _tokens(trace: DenoisingTrace) -> dict[int, tuple[int | None, float | None]]:
    """position -> (id, confidence it was revealed with) of the answer, up to, not including, its end."""
    *_, (canvas, sure) = trace.replay()
    stop = set(trace.model.get("eos_token_ids", []))
    length = next((position for position, token in enumerate(canvas) if token in stop), len(canvas))
    while length and canvas[length - 1] is None:  # a run that was stopped
        length -= 1
    return {position: (canvas[position], sure[position]) for position in range(length)}
