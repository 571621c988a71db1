"""Tokens as running text: where each piece of each cell goes on lines of a given width.

Lines break at spaces, between Chinese, Japanese and Korean characters and around masks, and inside a word only where
it is longer than a line. Knows nothing of drawing: widths come from the caller.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from visualize.export.states import Cell

_PIECES = re.compile(r"\r\n|[\n\r\u2028\u2029]|[^\S\n\r\u2028\u2029]+|\S+")


@dataclass(frozen=True)
class Placed:
    """A piece of a cell: text, or a sign that is drawn ("mask", "end", "part", "break", "bar").

    `left` and `width` are pixels, `line` counts from 0; `cell` is None for the note behind the last cell.
    """

    kind: str
    text: str
    cell: int | None
    left: float
    line: int
    width: float


@dataclass
class _Piece:
    kind: str
    text: str
    cell: int | None
    width: float


def flow(
    cells: Sequence[Cell], width: float, measure: Callable[[str], float], signs: dict[str, float], note: str = ""
) -> list[Placed]:
    """Place `cells` on lines of `width` pixels.

    Args:
        cells: in reading order.
        width: of a line.
        measure: width of a text on one line.
        signs: width of each sign.
        note: small print behind the last cell, `signs["note"]` wide.
    """
    placed: list[Placed] = []
    left, line = 0.0, 0
    for word in _words(cells, width, measure, signs, note):
        kind, wide = word[0].kind, sum(piece.width for piece in word)
        if kind != "space" and left > 0 and left + wide > width:
            left, line = 0.0, line + 1
        for piece in word:
            if piece.kind != "space":
                placed.append(Placed(piece.kind, piece.text, piece.cell, left, line, piece.width))
            left += piece.width
        if word[-1].kind == "break":
            left, line = 0.0, line + 1
    return placed


def _words(cells, width, measure, signs, note) -> Iterator[list[_Piece]]:
    """Pieces that stay together on a line; a boundary stays with what it opens, spaces between them included."""
    word: list[_Piece] = []
    for piece in _pieces(cells, measure, signs, note):
        opening = bool(word) and word[0].kind == "bar" and all(before.kind in ("bar", "space") for before in word)
        glued = piece.kind == "text" and not _is_wide(piece.text[0])
        if word and not opening and not glued:
            yield from _fit(word, width, measure)
            word = []
        word.append(piece)
        if not glued and piece.kind != "bar" and not (opening and piece.kind == "space"):
            yield word
            word = []
    if word:
        yield from _fit(word, width, measure)


def _pieces(cells, measure, signs, note) -> Iterator[_Piece]:
    for index, cell in enumerate(cells):
        if cell.opens:
            yield _Piece("bar", "", index, signs["bar"])
        if cell.kind != "text" and cell.kind != "part":
            yield _Piece(cell.kind, "", index, signs[cell.kind])
            continue
        for text in _PIECES.findall(cell.text):
            if text[0] in "\n\r\u2028\u2029":
                yield _Piece("break", "", index, signs["break"])
            elif text.isspace():
                yield _Piece("space", text, index, measure(text))
            else:
                yield from (_Piece("text", part, index, measure(part)) for part in _between_wide(text))
        if cell.kind == "part":
            yield _Piece("part", "", index, signs["part"])
    if note:
        yield _Piece("note", note, None, signs["note"])


def _between_wide(text: str) -> list[str]:
    """`text` cut so that every wide character stands alone, with the marks that belong to it."""
    parts: list[str] = []
    for character in text:
        joins = unicodedata.combining(character) or character in "\u200d\ufe0e\ufe0f"
        if parts and (joins or not (_is_wide(character) or _is_wide(parts[-1][0]))):
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _fit(word: list[_Piece], width: float, measure: Callable[[str], float]) -> Iterator[list[_Piece]]:
    """`word` as it is, or character by character where it is longer than a line."""
    if sum(piece.width for piece in word) <= width:
        yield word
        return
    for piece in word:
        if piece.kind == "text":
            yield from ([_Piece("text", c, piece.cell, measure(c))] for c in piece.text)
        else:
            yield [piece]
