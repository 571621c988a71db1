"""Infilling: a text with holes, made into a canvas whose holes alone are denoised.

How a template is written:

    ___         two or more underscores in a row: a hole of `hole_tokens` tokens
    __3__       a number between two such runs: a hole of exactly 3 tokens
    a_b, \\_     one underscore alone is text, and so is one behind a backslash: `\\_\\_` is two underscores of text
    \\\\___       right before an underscore, two backslashes are one of text; everywhere else a backslash is itself

Everything else is text and comes out to the letter; what spells a control token is plain text here too.

Word tokens carry their leading space (" star"). So a space before a hole is left to the hole: its first token must
begin with a space, and without a space before it must not. A hole stays on its line and ends in something to read:
no token in it holds a line break or ends the answer, and its last one is not blank. What fills it is free text
otherwise: whether a form is valid JSON afterwards is the model's affair.

A hole is filled to its last cell. There is no empty filler: in training an end-of-sequence token is never followed by
text, so one in the middle of an answer, dropped from the text afterwards, would be read by the model as something
it never saw. Ask for narrower holes instead.

Blocks are causal: a hole sees the text to its left, and to its right only what lies in its own block. A block that
covers the whole template (`covering_block_size`) lets every hole see all of it; as the quota of a step counts all
cells of a block, `steps` equal to that block size fills one cell per step.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..processing.conversation import SafeEncoder
from ..recorder import token_bytes
from ..trace import DenoisingTrace
from .canvas import Canvas, Fill
from .config import MAX_NEW_TOKENS

WIDEST = 32  # tokens of a hole
_CHARACTERS_PER_TOKEN = 16  # a longer text is refused before it is tokenised
_MARK = re.compile(r"(?P<slashes>(?<!\\)\\+)(?=_)|__+(?:(?P<width>[0-9]+)__+)?")


@dataclass(frozen=True)
class Hole:
    """Answer positions `start` to `end` (exclusive); `spaced`: the text before it ends in a space, left to the hole."""

    start: int
    end: int
    spaced: bool


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        canvas: what the decoder begins with; as many positions as the answer has.
        holes: in reading order.
        literals: the text before, between and behind the holes, one more than there are holes; without the spaces
            that are left to holes.
        tokenizer: that the ids belong to.
    """

    canvas: Canvas
    holes: tuple[Hole, ...]
    literals: tuple[str, ...]
    tokenizer: Any = field(repr=False, compare=False)

    def fillings(self, answer: DenoisingTrace | Sequence[int | None]) -> list[str]:
        """What fills each hole, the space before it included; a cell that is still masked is an underscore.

        Args:
            answer: a trace of this template's run, or the ids of its positions (None = masked).

        Raises:
            ValueError: when it is no answer to this template.
        """
        ids = answer.canvas() if isinstance(answer, DenoisingTrace) else list(answer)
        given = self.canvas.tokens
        if len(ids) != len(given) or any(t is not None and t != i for t, i in zip(given, ids, strict=True)):
            raise ValueError("This is not an answer to this template: its text differs.")
        return [self._filling(hole, ids[hole.start : hole.end]) for hole in self.holes]

    def text(self, answer: DenoisingTrace | Sequence[int | None]) -> str:
        """The whole text, with the holes filled; arguments and errors as of `fillings`."""
        first, *others = self.literals
        return first + "".join(map("".join, zip(self.fillings(answer), others, strict=True)))

    def _filling(self, hole: Hole, ids: list[int | None]) -> str:
        pieces = [b"_" if token is None else token_bytes(self.tokenizer, token) for token in ids]
        space = b" " if hole.spaced and ids[0] is None else b""
        return (space + b"".join(pieces)).decode("utf-8", errors="replace")


def parse_template(
    text: str, tokenizer: Any, hole_tokens: int = 2, max_new_tokens: int = MAX_NEW_TOKENS
) -> Template:
    """Read a template; the module's description says how one is written.

    Args:
        text: as a person wrote it.
        tokenizer: the model's.
        hole_tokens: tokens of a hole that doesn't name its own, 1 to 32.
        max_new_tokens: longest answer, text and holes together, in tokens.

    Raises:
        ValueError: no hole, a hole too wide, or too long a text; one sentence that says what to do.
    """
    too_long = f"The template is longer than the {max_new_tokens:,} tokens an answer may have: shorten it."
    if len(text) > max_new_tokens * _CHARACTERS_PER_TOKEN:
        raise ValueError(too_long)
    literals, widths = _split(text, hole_tokens)
    if not widths:
        raise ValueError("The template has no hole: write ___ where the model is to fill something in.")
    for width in widths:
        if not 1 <= width <= WIDEST:
            raise ValueError(f"A hole takes 1 to {WIDEST} tokens, not {width}: write another width, or several holes.")
    spaced = [literal.endswith(" ") for literal in literals[:-1]] + [False]
    literals = [literal[:-1] if space else literal for literal, space in zip(literals, spaced, strict=True)]
    encoder = SafeEncoder(tokenizer)
    tokens: list[int | None] = []
    holes = []
    for literal, width, space in zip(literals, [*widths, 0], spaced, strict=True):
        tokens += _encode(encoder, literal)
        if width:
            holes.append(Hole(len(tokens), len(tokens) + width, space))
            tokens += [None] * width
    if len(tokens) > max_new_tokens:
        raise ValueError(too_long)
    canvas = Canvas(tuple(tokens), template=True, fills=_fills(holes, tokenizer))
    return Template(canvas, tuple(holes), tuple(literals), tokenizer)


def covering_block_size(template: Template, prompt_tokens: int) -> int:
    """The smallest block size with which one block holds the whole template, so that every hole sees all its text.

    Blocks are aligned to the prompt's first token, so this depends on where the answer begins. A model does best near
    the block size it was trained with: far beyond it, holes that see less may be filled better.

    Args:
        prompt_tokens: length of the prompt, pictures included (a trace's `prompt["num_tokens"]`).
    """
    first, last = prompt_tokens, prompt_tokens + len(template.canvas.tokens) - 1
    return next(size for size in range(last - first + 1, last + 2) if first // size == last // size)


def _split(text: str, hole_tokens: int) -> tuple[list[str], list[int]]:
    """The text between holes, backslashes resolved, and the holes' widths; one text more than there are holes."""
    literals, widths, at = [""], [], 0
    while mark := _MARK.search(text, at):
        literals[-1] += text[at : mark.start()]
        at = mark.end()
        if mark["slashes"]:
            pairs, odd = divmod(len(mark["slashes"]), 2)
            literals[-1] += "\\" * pairs + "_" * odd
            at += odd
        else:
            widths.append(_width(mark["width"]) if mark["width"] else hole_tokens)
            literals.append("")
    literals[-1] += text[at:]
    return literals, widths


def _width(digits: str) -> int:
    return int(digits) if len(digits) < 5 else 10**4  # past the limit is past it, however far


def _encode(encoder: SafeEncoder, text: str) -> list[int]:
    ids = encoder.encode_text(text)
    back = b"".join(token_bytes(encoder.tokenizer, token) for token in ids).decode("utf-8", errors="replace")
    if unicodedata.normalize("NFC", back) != unicodedata.normalize("NFC", text):
        raise ValueError("The model's tokenizer can't write the template's text: use other characters.")
    return ids


def _fills(holes: list[Hole], tokenizer: Any) -> tuple[Fill, ...]:
    """One `Fill` per kind of cell: how it begins (None: as it likes), and whether it is the last of its hole."""
    cells: dict[tuple[bool | None, bool], set[int]] = {}
    for hole in holes:
        for position in range(hole.start, hole.end):
            kind = (hole.spaced if position == hole.start else None, position == hole.end - 1)
            cells.setdefault(kind, set()).add(position)
    fillers = _fillers(tokenizer)
    if any(not fillers[kind] for kind in cells):
        raise ValueError("No single token of this model fits a hole after a space: make the hole 2 tokens wide.")
    return tuple(Fill(frozenset(positions), fillers[kind]) for kind, positions in cells.items())


@lru_cache(maxsize=4)
def _fillers(tokenizer: Any) -> dict[tuple[bool | None, bool], frozenset[int]]:
    """Ids that may fill a cell, by kind of cell; about a second for a vocabulary of 150,000, once."""
    controls = {*SafeEncoder(tokenizer).controls.values(), *tokenizer.all_special_ids}
    texts = {
        token: token_bytes(tokenizer, token).decode("utf-8", errors="replace")
        for token in set(tokenizer.get_vocab().values()) - controls
    }
    inside = {token: text for token, text in texts.items() if text and not _breaks_line(text)}
    beginnings = {
        None: set(inside),
        True: {token for token, text in inside.items() if text[0] == " "},
        False: {token for token, text in inside.items() if not text[0].isspace()},
    }
    readable = {token for token, text in inside.items() if not text.isspace()}
    return {
        (begins, last): frozenset(ids & readable if last else ids)
        for begins, ids in beginnings.items()
        for last in (False, True)
    }


def _breaks_line(text: str) -> bool:
    return len(f"x{text}x".splitlines()) > 1
