"""What a sweep tells the page: every message is the whole state so far, so that the newest replaces all earlier ones.

A hidden tab loses messages; the next one that arrives brings everything. At most 65 rows make that affordable.

    {"sweep": id, "phase": "running" | "finished" | "stopped" | "failed", "sentence": of a failure,
     "recorded": {model, machine, question} of a sweep from a file, else absent,
     "plan": {settings, skipped, repeats, total}, "progress": {block_size, steps, strategy, done, total},
     "rows": [{index, block_size, steps, strategy, slow, runs, seconds, fastest, slowest, forwards, tokens,
               tokens_per_forward, text, agreement, same, confidence}, ...]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..recorded import recorded_with

Message = dict[str, Any]


def messages(sweep: str, events: Iterable[Message]) -> Iterator[Message]:
    """A message per event, and one at the end that says "finished".

    Args:
        sweep: id of the sweep; a new one begins a new chart.
        events: `{"plan" | "progress" | "row": {...}}` in the order they happen; a row replaces an earlier one with
            the same index.
    """
    message: Message = {"sweep": sweep, "phase": "running", "sentence": "", "plan": None, "progress": None, "rows": []}
    for event in events:
        message = dict(message)
        if "row" in event:
            rows = {row["index"]: row for row in message["rows"]} | {event["row"]["index"]: event["row"]}
            message["rows"] = [rows[index] for index in sorted(rows)]
        else:
            message |= event
        yield message
    yield ended(message, "finished")


def recorded_message(swept: Message) -> Message:
    """A sweep from a file of `python -m dvl_core.explore --out`, as it ended, and what it was recorded with."""
    *_, last = messages("recorded", swept["events"])
    return last | {"recorded": recorded_with(swept)}


def ended(message: Message, phase: str, sentence: str = "") -> Message:
    """The last message of a sweep that is over, its rows kept; `phase` is "finished", "stopped" or "failed"."""
    return message | {"phase": phase, "sentence": sentence, "progress": None}
