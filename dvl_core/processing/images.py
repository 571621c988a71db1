"""Pictures as people have them, turned into the RGB pictures that a vision tower takes.

Everything a file can be (rotated by EXIF, transparent, indexed, 16-bit, CMYK, animated) comes out as one upright
RGB picture, and everything that can't be used comes out as one `ImageError` whose message says what to do.
"""

from __future__ import annotations

import io
import os
import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

# Formats are named so that a file can't reach the plugins that start other programs (EPS runs Ghostscript).
# Nor are there icons (ICO): they are decoded while their header is read, before their size can be refused.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
READABLE = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_STRIP = 1 << 20  # pixels whose numbers are rescaled at a time
_DECODING = threading.BoundedSemaphore(2)  # pictures decoded at a time, however many people send one


class ImageError(ValueError):
    """A picture that can't be used; the message is one sentence that says what to do about it."""


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before it costs memory or time.

    Attributes:
        max_pixels: width x height that is still decoded (64 million: 256 MB as Pillow keeps RGB).
        max_aspect_ratio: longest side over shortest; Qwen's picture processor takes at most 200.
    """

    max_pixels: int = 64_000_000
    max_aspect_ratio: float = 200.0

    def __post_init__(self):
        for name in ("max_pixels", "max_aspect_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 1")

    def check(self, width: int, height: int) -> None:
        """Raise an ImageError when a picture of this size must not be decoded."""
        if width < 1 or height < 1:
            raise ImageError(f"The picture is {width} x {height} pixels, so there is nothing to look at: send another.")
        if width * height > self.max_pixels:
            raise ImageError(
                f"The picture is {width:,} x {height:,} pixels ({_millions(width * height)} million), more than the "
                f"{_millions(self.max_pixels)} million allowed: make it smaller and send it again."
            )
        if max(width, height) > self.max_aspect_ratio * min(width, height):
            raise ImageError(
                f"The picture is {width:,} x {height:,} pixels, and one side may be at most "
                f"{self.max_aspect_ratio:g} times the other: crop it and send it again."
            )


def open_image(source: Any, limits: ImageLimits = ImageLimits()) -> Image.Image:
    """One upright RGB picture from whatever a person gave.

    EXIF rotation is applied; transparency lies on white; 16-bit, 32-bit and floating-point pictures are scaled to
    8 bits; CMYK goes through its embedded profile when there is one; of an animation the first frame is taken.

    Args:
        source: a path, the bytes of a file, a binary file object, a PIL picture, or an array [H, W],
            [H, W, 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)].
        limits: sizes that are refused from the header, before any pixel is decoded.

    Returns:
        A new picture of mode RGB; the source is not changed.

    Raises:
        ImageError: the source is not a picture, is empty or damaged, or goes beyond `limits`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    if isinstance(source, Image.Image):
        limits.check(*source.size)
        return _upright_rgb(source)
    with _open_file(source) as image:
        limits.check(*image.size)
        with _DECODING:
            return _upright_rgb(image)


def pad_to_square(
    image: Image.Image, color: int | tuple[int, ...] = (255, 255, 255), max_side: int = 4096
) -> Image.Image:
    """The picture in the middle of a square of its longer side; an odd pixel goes to the right or the bottom.

    A picture longer than `max_side` pixels is shrunk to that first: the square around a long narrow picture that
    is itself allowed could be larger than the memory.
    """
    longest = max(image.size)
    if longest > max_side:
        size = tuple(max(1, round(side * max_side / longest)) for side in image.size)
        image = image.resize(size, Image.Resampling.BICUBIC)
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


@dataclass(frozen=True)
class PictureGrid:
    """Where a picture's tokens lie: `rows` x `columns` of them, in reading order, over `box`.

    `box` is (left, top, right, bottom) in the pixels of the upright original; it reaches outside the picture
    where the picture was padded. `picture` counts the pictures of the conversation from 0.
    """

    rows: int
    columns: int
    box: tuple[float, float, float, float]
    picture: int = 0


def picture_grid(
    size: tuple[int, int], patches: tuple[int, int], merge_size: int = 2, square: bool = False, picture: int = 0
) -> PictureGrid:
    """The grid of picture tokens over the original picture, for drawing attention on it.

    Args:
        size: (width, height) of the upright original, in pixels.
        patches: (rows, columns) of vision patches, the last two numbers of an `image_grid_thw` row.
        merge_size: patches per picture token and axis.
        square: the picture was padded to a square (`pad_to_square`).
        picture: which picture of the conversation it is.
    """
    width, height = size
    left = top = 0
    if square:
        side = max(width, height)
        left, top = -((side - width) // 2), -((side - height) // 2)
        width = height = side
    box = (float(left), float(top), float(left + width), float(top + height))
    return PictureGrid(patches[0] // merge_size, patches[1] // merge_size, box, picture)


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:,.0f}" if pixels >= 1e7 else f"{pixels / 1e6:,.2g}"


def _open_file(source: Any) -> Image.Image:
    """The picture with its header read and its pixels not yet decoded."""
    if isinstance(source, str | os.PathLike):
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            raise ImageError("Pictures are read from files, not from addresses: download it and give the file.")
        file, size = _existing_file(Path(source))
    elif isinstance(source, bytes | bytearray | memoryview):
        file, size = io.BytesIO(source), len(source)
    elif hasattr(source, "read"):
        file, size = source, None
    else:
        raise ImageError(
            f"A picture must be a file, its bytes, a PIL picture or an array, not {type(source).__name__}."
        )
    if size == 0:
        raise ImageError("The picture file is empty: send it again.")
    try:
        return Image.open(file, formats=_known_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        count = f"{_millions(int(pixels[0]))} million" if pixels else "far too many"
        raise ImageError(f"The picture has {count} pixels: make it smaller and send it again.") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"This file is not a picture that can be read, or its beginning is damaged: send a {READABLE} file."
        ) from error
    except Exception as error:  # a damaged header may surface as anything a format's reader stumbles over
        raise ImageError(f"The picture file is damaged: send it again, as a {READABLE} file.") from error


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _existing_file(path: Path) -> tuple[Path, int]:
    if not path.exists():
        raise ImageError(f"There is no picture at {path}: check the path.")
    if not path.is_file():
        raise ImageError(f"{path} is not a file: give the path of one picture.")
    return path, path.stat().st_size


def _upright_rgb(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # what a format's reader raises on missing bytes differs from format to format
        raise ImageError("The picture file is cut off or damaged: send it again.") from error
    try:
        upright = ImageOps.exif_transpose(image) if image.getexif().get(ExifTags.Base.Orientation, 1) != 1 else image
    except (OSError, ValueError, TypeError, KeyError, IndexError, SyntaxError, struct.error):
        # a broken EXIF block only costs its rotation
        upright = image
    try:
        return _to_rgb(upright)
    except (ValueError, OSError, ImageCms.PyCMSError) as error:
        raise ImageError(
            f"The picture's colour mode {image.mode} can't be read: save it as a plain PNG or JPEG file."
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(_full_range(np.asarray(image), 65535)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A transparent picture on white, some rows at a time: of all of them four copies would be there at once."""
    flat = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgba = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        flat.paste(Image.alpha_composite(white, rgba).convert("RGB"), (0, top))
    return flat


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """Through the embedded profile, as a viewer would; the plain formula where there is none or it is broken."""
    if profile := image.info.get("icc_profile"):
        try:
            return ImageCms.profileToProfile(
                image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image.convert("RGB")


def _from_array(array: np.ndarray, limits: ImageLimits) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (2, 3, 4)):
        raise ImageError(f"An array must be [height, width] or [height, width, 1 to 4], not {list(array.shape)}.")
    if array.dtype.kind not in "buif":
        raise ImageError(f"A picture's array must hold numbers, not {array.dtype}.")
    limits.check(array.shape[1], array.shape[0])
    if array.dtype == np.uint16:
        array = _full_range(array, 65535)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        array = _to_8_bit(array)
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _full_range(values: np.ndarray, top: int) -> np.ndarray:
    return _rescaled(values, 0.0, 255.0 / top)


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Wide integers and floats to 0..255: by the smallest usual range that holds them, else stretched.

    Floats up to 1 count as 0..1; otherwise values up to 255 as 8-bit and up to 65535 as 16-bit. With negative or
    larger values the lowest becomes black and the highest white. What is not a number becomes black.
    """
    is_float = values.dtype.kind == "f"
    ends = [(strip.min(), strip.max()) for _, strip in _strips(values)]
    low, high = min(least for least, _ in ends), max(most for _, most in ends)
    if low >= 0:
        for top in (1, 255, 65535) if is_float else (255, 65535):
            if high <= top:
                return _full_range(values, top)
    spread = high - low
    return _rescaled(values, low, 255.0 / spread if spread else 0.0)


def _rescaled(values: np.ndarray, low: float, factor: float) -> np.ndarray:
    """(values - low) * factor, rounded to uint8."""
    scaled = np.empty(values.size, np.uint8)
    for where, strip in _strips(values):
        scaled[where] = np.rint((strip - low) * factor)
    return scaled.reshape(values.shape)


def _strips(values: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The numbers as float64, a stretch at a time: all of them at once would take eight times a picture's memory.

    What is not a number is 0, as is minus infinity.
    """
    given = values.reshape(-1)
    for start in range(0, len(given), _STRIP):
        where = slice(start, start + _STRIP)
        most = np.finfo(np.float32).max
        yield where, np.nan_to_num(given[where].astype(np.float64), nan=0.0, posinf=most, neginf=0.0)
