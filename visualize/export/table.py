"""A run as a table: one row per step and masked position, as CSV for spreadsheets and data frames.

UTF-8 with a byte order mark, which spreadsheets need to read it as such, and lines that end in CR LF (RFC 4180).
"""

from __future__ import annotations

import csv
import io

from dvl_core.trace import DenoisingTrace

COLUMNS = (
    "step", "block", "step_in_block", "position", "text", "id", "confidence", "entropy", "revealed", "milliseconds",
    "forwards",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # and their full-width forms


def csv_bytes(trace: DenoisingTrace) -> bytes:
    """The run as CSV.

    Columns: `step` (of the run, from 0), `block`, `step_in_block` and `position` (all from 0); `text` and `id` of the
    proposed token; `confidence` (0 to 1) and `entropy` (nats; empty where it was not observed) of the proposal;
    `revealed` (1 where the step settled the position); `milliseconds` of the step, and `forwards` so far.

    A text that a spreadsheet might take for a formula gets an apostrophe before it, see `harmless`; `plain` takes it
    away again. A token that is only part of a character shows as "\ufffd"; its id tells which it is.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for index, step in enumerate(trace.steps):
        entropies = step.entropies or [""] * len(step.masked)
        revealed = set(step.revealed)
        rows = zip(step.masked, step.proposals, step.confidences, entropies, strict=True)
        for position, token, confidence, entropy in rows:
            text = harmless(trace.decode([token]))
            told = [position, text, token, confidence, entropy, int(position in revealed)]
            writer.writerow([index, step.block, step.step, *told, step.milliseconds, step.forwards])
    return buffer.getvalue().encode("utf-8-sig")


def harmless(text: str) -> str:
    """`text` as a cell that no spreadsheet computes: one that begins like a formula, spaces aside, gets an apostrophe.

    So does one that begins with an apostrophe, which makes it reversible: `plain(harmless(text)) == text`.
    """
    start = text.lstrip()
    return f"'{text}" if start.startswith(_FORMULA) or text.startswith(("'", "\t", "\r", "\n", "\0")) else text


def plain(cell: str) -> str:
    """The text that `harmless` made into `cell`."""
    return cell.removeprefix("'")
