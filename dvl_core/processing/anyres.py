"""How the second family cuts a picture into tiles, and which picture tokens come out of them. Pure functions.

The scheme is LLaVA-OneVision's "anyres" with "spatial_unpad": an overview of the whole picture squeezed into one
tile, then the picture fitted into the best canvas of tiles, whose features are cropped back to the picture's own
shape, thinned out when they are too many, and given a newline after every row. LLaVA's plain way, "pad", is here
too: one view of the picture, padded to a square.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]
PAD = "pad"
TILE_PIXELS = 384  # per side, of the published checkpoint's tower


@dataclass(frozen=True)
class AnyresPlan:
    """Where a picture's tokens come from. Sizes are (width, height), grids are (rows, columns).

    Attributes:
        canvas: pixels of the canvas of tiles.
        tiles: grid of tiles on the canvas; with the overview that is rows x columns + 1 tiles.
        side: features per side of one tile, so that the overview is side x side tokens.
        crop: (top, left) feature rows and columns of the canvas that hold only padding, cut on both sides.
        cropped: grid of features that is left.
        detail: grid of features after thinning; every row is followed by a newline token.
    """

    canvas: Size
    tiles: tuple[int, int]
    side: int
    crop: tuple[int, int]
    cropped: tuple[int, int]
    detail: tuple[int, int]

    @property
    def tile_count(self) -> int:
        """Tiles of the picture, the overview included."""
        return 1 + self.tiles[0] * self.tiles[1]

    @property
    def tokens(self) -> int:
        """Picture tokens: the overview, then the detail with its newlines."""
        return self.side**2 + self.detail[0] * (self.detail[1] + 1)


def canvases(tile: int, most: int = 6) -> list[list[int]]:
    """The published choice of canvases, [width, height] in pixels: 1 x 1 to 6 x 6 tiles."""
    sides = range(tile, most * tile + 1, tile)
    return [[width, height] for width in sides for height in sides]


def max_detail_tiles(image_aspect_ratio: str) -> int | None:
    """How many tiles' worth of detail features are kept: 4 for "anyres_max_4", None (all) for "anyres".

    Raises:
        ValueError: for any other way of treating pictures.
    """
    match = re.fullmatch(r"anyres(?:_max_([1-9]\d*))?", image_aspect_ratio)
    if not match:
        raise ValueError(f'image_aspect_ratio is {image_aspect_ratio!r}, it must be "anyres" or "anyres_max_N"')
    return int(match[1]) if match[1] else None


def plan_picture(
    size: Size,
    image_aspect_ratio: str,
    pinpoints: Sequence[Sequence[int]],
    tile: int,
    side: int,
    decimals: int | None = None,
) -> AnyresPlan:
    """The plan of one picture as a configuration asks for it: "pad", "anyres" or "anyres_max_N".

    With "pad" there is one view and no detail. Arguments as in `plan_anyres`.

    Raises:
        ValueError: for any other way of treating pictures.
    """
    if image_aspect_ratio == PAD:
        return AnyresPlan((tile, tile), (0, 0), side, (0, 0), (0, 0), (0, 0))
    return plan_anyres(size, pinpoints, tile, side, max_detail_tiles(image_aspect_ratio), decimals)


def best_canvas(size: Size, pinpoints: Sequence[Sequence[int]]) -> Size:
    """The canvas (width, height) of `pinpoints` that keeps most of the picture's pixels, and wastes least."""
    width, height = size

    def merit(canvas: Sequence[int]) -> tuple[int, int]:
        scale = min(canvas[0] / width, canvas[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas[0] * canvas[1]

    return tuple(max(pinpoints, key=merit))


def plan_anyres(
    size: Size,
    pinpoints: Sequence[Sequence[int]],
    tile: int,
    side: int,
    max_tiles: int | None,
    decimals: int | None = None,
) -> AnyresPlan:
    """The plan of one picture.

    Args:
        size: (width, height) of the upright picture.
        pinpoints: canvases to choose from, (width, height) in pixels, multiples of `tile`.
        tile: pixels per side of a tile.
        side: features per side of a tile.
        max_tiles: thin the detail out to about this many tiles' worth of features; None keeps all.
        decimals: round the picture's length on the canvas to so many decimals before its fraction is cut off, as
            LLaVA-OneVision in transformers does; None does not round, as in the published DiffusionVL.
    """
    width, height = size
    canvas = best_canvas(size, pinpoints)
    tiles = (canvas[1] // tile, canvas[0] // tile)
    rows, columns = tiles[0] * side, tiles[1] * side
    top = left = 0
    # the order of these floating-point operations decides the last feature row, so it follows the published one
    if width / height > columns / rows:
        top = (rows - _whole(height * (columns / width), decimals)) // 2
    else:
        left = (columns - _whole(width * (rows / height), decimals)) // 2
    cropped = detail = (rows - 2 * top, columns - 2 * left)
    if max_tiles is not None:
        times = math.sqrt(detail[0] * detail[1] / (max_tiles * side**2))
        if times > 1.1:
            detail = (int(detail[0] // times), int(detail[1] // times))
    return AnyresPlan(canvas, tiles, side, (top, left), cropped, detail)


def _whole(length: float, decimals: int | None) -> int:
    return int(length if decimals is None else round(length, decimals))


def cut_tiles(picture: Image.Image, plan: AnyresPlan, tile: int) -> list[Image.Image]:
    """The overview and then the tiles of the canvas in reading order, each tile x tile pixels."""
    width, height = fitted_size(picture.size, plan.canvas)
    canvas = Image.new("RGB", plan.canvas)
    offset = ((plan.canvas[0] - width) // 2, (plan.canvas[1] - height) // 2)
    canvas.paste(picture.resize((width, height), Image.Resampling.BICUBIC), offset)
    corners = [(column * tile, row * tile) for row in range(plan.tiles[0]) for column in range(plan.tiles[1])]
    overview = picture.resize((tile, tile), Image.Resampling.BICUBIC)
    return [overview] + [canvas.crop((x, y, x + tile, y + tile)) for x, y in corners]


def fitted_size(size: Size, canvas: Size) -> Size:
    """(width, height) of the picture when it just fits into the canvas."""
    scales = canvas[0] / size[0], canvas[1] / size[1]
    if scales[0] < scales[1]:
        return canvas[0], min(math.ceil(size[1] * scales[0]), canvas[1])
    return min(math.ceil(size[0] * scales[1]), canvas[0]), canvas[1]


def detail_box(size: Size, plan: AnyresPlan, tile: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the detail features in the pixels of the original picture."""
    pixels = tile / plan.side  # canvas pixels per feature
    edges = []
    for original, fitted, canvas, cut, count in zip(
        size, fitted_size(size, plan.canvas), plan.canvas, plan.crop[::-1], plan.cropped[::-1], strict=True
    ):
        offset, scale = (canvas - fitted) // 2, original / fitted
        edges.append(((cut * pixels - offset) * scale, ((cut + count) * pixels - offset) * scale))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom
