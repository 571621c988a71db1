"""Fonts for pictures drawn on this machine: which are installed, and which of them has the glyph of a character.

The browser does this by itself; PIL and matplotlib have to be told. Found through matplotlib, which brings DejaVu Sans
along, so there always is one. A character that no font knows becomes a box, never an error.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from visualize.theme import MONO, SANS

# In the order they are asked: the page's own, then what covers Chinese, Japanese and Korean, then signs and emoji.
CJK = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Noto Sans CJK JP", "Hiragino Sans", "Yu Gothic", "Malgun Gothic",
    "Apple SD Gothic Neo", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip
LATIN = (*(name for name in SANS if name not in CJK), "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans")
SIGNS = ("DejaVu Sans", "Noto Sans Symbols", "Noto Sans Symbols 2", "Segoe UI Symbol", "Noto Emoji", "Segoe UI Emoji",
         "Symbola")  # fmt: skip
_REGULAR, _BOLD = range(350, 451), range(550, 751)
_MISSING = "□"


@dataclass(frozen=True)
class Face:
    """One font file: its path, the face inside it, and the characters it has glyphs for."""

    path: str
    index: int
    characters: frozenset[int]


def installed_families() -> list[str]:
    """Names of the installed families for running text, best first; matplotlib takes such a list as `fontfamily`."""
    return [name for name in dict.fromkeys((*LATIN, *CJK, *SIGNS)) if name in _installed()]


def drawable(text: str) -> str:
    """`text` without what no font and no XML file has: control characters but line breaks, halves of pairs."""
    return "".join(" " if c == "\t" else _MISSING if _is_no_sign(c) else c for c in text)


def _is_no_sign(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Cn") and character != "\n"


class Typeface:
    """A font size in pixels, regular or bold or monospaced, with other fonts standing in for glyphs it lacks."""

    def __init__(self, size: float, bold: bool = False, mono: bool = False):
        self.size = size
        self._faces = faces(bold, mono)
        self._fonts: dict[Face, ImageFont.FreeTypeFont | None] = {}
        base = self._font(self._faces[0])
        self.ascent, self.descent = base.getmetrics()

    def runs(self, text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        """`text` in pieces that one font draws each."""
        pieces: list[tuple[str, ImageFont.FreeTypeFont]] = []
        for character in drawable(text):
            joins = unicodedata.combining(character) or character in "\u200d\ufe0e\ufe0f"
            font = pieces[-1][1] if joins and pieces else self._font_of(character)
            if pieces and pieces[-1][1] is font:
                pieces[-1] = (pieces[-1][0] + character, font)
            else:
                pieces.append((character, font))
        return pieces

    def width(self, text: str) -> float:
        """Width of one line of text in pixels."""
        return sum(font.getlength(piece) for piece, font in self.runs(text))

    def _font_of(self, character: str) -> ImageFont.FreeTypeFont:
        for face in self._faces:
            if ord(character) in face.characters and (font := self._font(face)) is not None:
                return font
        return self._font(self._faces[0])

    def _font(self, face: Face) -> ImageFont.FreeTypeFont | None:
        if face not in self._fonts:
            try:
                self._fonts[face] = ImageFont.truetype(face.path, round(self.size), index=face.index)
            except OSError:  # a font of bitmaps in one size, as some emoji come
                self._fonts[face] = None
        return self._fonts[face]


@cache
def faces(bold: bool, mono: bool) -> tuple[Face, ...]:
    """The installed faces in the order they are asked; the first can always be drawn with."""
    latin = [name for name in (MONO if mono else LATIN) if name in _installed()] or ["DejaVu Sans"]
    names = dict.fromkeys((*latin[:1], *CJK, *SIGNS))
    found = [_entry(name, _BOLD if bold else _REGULAR) or _entry(name, _REGULAR) for name in names]
    return tuple(_face(entry) for entry in found if entry is not None)


def _face(entry: FontEntry) -> Face:
    index = getattr(entry, "index", 0)  # older matplotlib knows the first face of a collection only
    return Face(entry.fname, index, frozenset(FT2Font(entry.fname).get_charmap()))


@cache
def _installed() -> dict[str, list[FontEntry]]:
    upright: dict[str, list[FontEntry]] = {}
    for entry in fontManager.ttflist:
        if entry.style == "normal" and entry.stretch in ("normal", 400):
            upright.setdefault(entry.name, []).append(entry)
    return upright


def _entry(name: str, weights: range) -> FontEntry | None:
    return next((entry for entry in _installed().get(name, []) if _weight(entry) in weights), None)


def _weight(entry: FontEntry) -> int:
    return {"normal": 400, "regular": 400, "bold": 700}.get(entry.weight, entry.weight)
