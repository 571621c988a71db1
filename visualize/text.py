"""Tokens as text, as the player shows them (`player/text.js`): a character may be spread over several tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass
class CellText:
    """Text of one answer position; `partial` where it is part of a character whose other half is masked."""

    text: str = ""
    partial: bool = False


def cell_texts(
    ids: Sequence[int | None], vocabulary: Mapping[int, bytes], is_end: Callable[[int], bool]
) -> list[CellText]:
    """Text of every position.

    Neighbouring tokens are joined until their bytes are whole characters; the first of them carries the text.

    Args:
        ids: token per position; None = masked.
        vocabulary: id -> bytes.
        is_end: tells the end tokens, which have no text.
    """
    out = [CellText() for _ in ids]
    group: list[int] = []
    held = b""

    def close(waiting: bool) -> None:
        nonlocal group, held
        if group:
            tail = incomplete_tail(held) if waiting else 0
            out[group[0]].text = held[: len(held) - tail].decode("utf-8", errors="replace")
            out[group[-1]].partial = out[group[-1]].partial or tail > 0
        group, held = [], b""

    for position, token in enumerate(ids):
        if token is None or is_end(token):
            close(token is None)
            continue
        piece = vocabulary.get(token, b"")
        if not group and position > 0 and ids[position - 1] is None:
            whole = next((i for i, byte in enumerate(piece) if byte & 0xC0 != 0x80), len(piece))
            out[position].partial = whole > 0
            piece = piece[whole:]
        if group and piece and piece[0] & 0xC0 != 0x80:
            close(False)  # the other half never came
        group.append(position)
        held += piece
        if not incomplete_tail(held):
            close(False)
    close(False)
    return out


def incomplete_tail(held: bytes) -> int:
    """How many bytes at the end begin a UTF-8 character that is not complete."""
    for back in range(1, min(3, len(held)) + 1):
        byte = held[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if needed > back else 0
    return 0
