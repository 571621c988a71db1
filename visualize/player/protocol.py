"""The messages a player understands: small, numbered JSON objects about one run.

A live run sends `waiting` any number of times, then `header` (seq 0; of a branch with the steps that it shares), its
steps (seq 1, 2, ...: of the first step in the message; with the vocabulary entries that are new, the first with the
prefill time) and `done`. A player that finds a gap asks for `missing`. A recorded run is one message with the whole
trace. Pictures stay out of live messages: the page has them already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dvl_core.trace import DenoisingTrace, TraceStep, encode_vocabulary

Message = dict[str, Any]


def waiting_message(run: str, before: int | None) -> Message:
    """The run waits for its turn, `before` other runs go first; or, with None, for the model to be loaded."""
    return {"run": run, "seq": 0, "waiting": before}


def header_message(run: str, trace: DenoisingTrace) -> Message:
    """What is known before the first step; a branch brings the steps that it shares."""
    if trace.steps:
        return missing_message(run, trace, 0)
    return {"run": run, "seq": 0, "header": _header(trace), "vocabulary": encode_vocabulary(_given_entries(trace))}


def steps_message(
    run: str, trace: DenoisingTrace, number: int, steps: Sequence[TraceStep], vocabulary: dict[int, bytes]
) -> Message:
    """Steps that were recorded one after the other, the first of them the `number`th of the trace.

    `vocabulary` holds the entries that no earlier message carried. The steps go as text: gradio sends what differs from
    the message before, and gets lists inside lists wrong when they shrink.
    """
    told = json.dumps([step.to_json() for step in steps], separators=(",", ":"))
    message = {"run": run, "seq": number, "steps": told, "vocabulary": encode_vocabulary(vocabulary)}
    first = 1 + (trace.parent["step"] if trace.parent else 0)
    return message | ({"prefill_milliseconds": trace.prefill_milliseconds} if number == first else {})


def done_message(run: str, trace: DenoisingTrace) -> Message:
    """The run is over: why, and after how many steps."""
    return {"run": run, "seq": len(trace.steps), "done": _done(trace)}


def missing_message(run: str, trace: DenoisingTrace, have: int) -> Message:
    """Everything after the first `have` steps, for a player that has lost messages."""
    message = {
        "run": run,
        "seq": have + 1 if have < len(trace.steps) else len(trace.steps),
        "header": _header(trace),
        "steps": [step.to_json() for step in trace.steps[have:]],
        "vocabulary": encode_vocabulary(dict(trace.vocabulary)),  # a copy: the run may go on meanwhile
    }
    return message | ({"done": _done(trace)} if trace.finish_reason else {})


def trace_message(run: str, trace: DenoisingTrace, note: str = "") -> Message:
    """A recorded run, whole; `note` is the sentence that stands above it, or a key of the player's."""
    data = trace.to_json()
    data["images"] = _without_pixels(data["images"])
    return {"run": run, "seq": 0, "trace": data, "note": note}


def _header(trace: DenoisingTrace) -> Message:
    header = trace.header()
    header["images"] = _without_pixels(header["images"])
    return header


def _done(trace: DenoisingTrace) -> Message:
    return {"reason": trace.finish_reason, "steps": len(trace.steps)}


def _without_pixels(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**image, "data": None} for image in images]


def _given_entries(trace: DenoisingTrace) -> dict[int, bytes]:
    ids = {token for _, token in trace.given}
    return {token: text for token, text in dict(trace.vocabulary).items() if token in ids}
