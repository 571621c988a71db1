"""The pictures a trace holds, which anybody may have written: only small bitmaps inside the trace itself are shown."""

from __future__ import annotations

import base64
import binascii
import io
import re

from PIL import Image

from dvl_core.trace import DenoisingTrace

LARGEST = 4096 * 4096  # pixels; a trace holds small copies
_URI = re.compile(r"data:image/(png|jpeg|webp|gif);base64,([A-Za-z0-9+/]+={0,2})")


def safe_uri(data: object) -> str | None:
    """`data` if it is a `data:` URI of a bitmap: no address to fetch, no SVG, which can hold scripts."""
    return data if isinstance(data, str) and _URI.fullmatch(data) else None


def bitmap_of(data: object) -> tuple[str, bytes] | None:
    """Media type and bytes of such a URI; None of anything else."""
    if safe_uri(data) is None:
        return None
    kind, encoded = _URI.fullmatch(data).groups()
    try:
        return f"image/{kind}", base64.b64decode(encoded)
    except binascii.Error:
        return None


def picture_uris(trace: DenoisingTrace) -> list[str]:
    """The conversation's pictures, each once: one that the model saw in tiles is listed there tile by tile."""
    return list(dict.fromkeys(uri for image in trace.images if (uri := safe_uri(image.data))))


def open_pictures(trace: DenoisingTrace) -> list[Image.Image]:
    """The same as RGB pictures; what can't be opened, or is far too large, is left out."""
    return [picture for uri in picture_uris(trace) if (picture := _open(uri)) is not None]


def _open(uri: str) -> Image.Image | None:
    bitmap = bitmap_of(uri)
    if bitmap is None:
        return None
    try:
        picture = Image.open(io.BytesIO(bitmap[1]))
        if picture.width * picture.height > LARGEST:
            return None
        flat = Image.new("RGB", picture.size, "white")
        flat.paste(picture.convert("RGB"), mask=picture.convert("RGBA").getchannel("A"))
        return flat
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
