"""The messages a race's page understands: JSON objects about one race, each complete in itself.

A race sends `running` before every run and ends with `result`, `failed` or `stopped`. A page that has lost messages
needs only the last one. The result holds of both lanes what a replay is drawn from: per forward pass the cells that
changed and its milliseconds, the vocabulary of the settled tokens, and which words the other answer does not have. One
that was read from a file says in `recorded` what it was recorded with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from dvl_core.trace import DenoisingTrace, encode_vocabulary

from ..recorded import recorded_with

Message = dict[str, Any]

# A word is a run of letters between spaces; in scripts without spaces every character is compared on its own.
_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PIECE = re.compile(rf"\s+|[{_SPACELESS}]|[^\s{_SPACELESS}]+")


def about_lane(name: str, kind: str, settings: Mapping[str, Any]) -> Message:
    """What a lane is called: its name, or, where that is empty, what the page makes of the rest."""
    shown = ("block_size", "steps", "strategy", "lookahead")
    return {"name": name, "kind": kind, "settings": {key: settings.get(key) for key in shown}}


def progress_message(race: str, lanes: Sequence[Message], lane: int, run: int, runs: int, before: int) -> Message:
    """A run is about to begin, the `before` first ones are over.

    Args:
        lanes: `about_lane` of each.
        lane: whose run it is, from 0.
        run, runs: its number and how many count; number 0 is the lane's run that does not.
    """
    return {"race": race, "running": {"lanes": list(lanes), "lane": lane, "run": run, "runs": runs, "before": before}}


def failed_message(race: str, sentence: str) -> Message:
    """The race could not be had; `sentence` says why and what to do."""
    return {"race": race, "failed": sentence}


def stopped_message(race: str) -> Message:
    """Somebody stopped the race before its last run."""
    return {"race": race, "stopped": True}


def result_message(race: str, lanes: Sequence[tuple[str, DenoisingTrace, Sequence[float]]]) -> Message:
    """The race is over: of both lanes the name (see `about_lane`), the trace of the median run, and the seconds of all
    counted runs."""
    texts = [trace.decode(trace.answer_ids()) for _, trace, _ in lanes]
    answers = "same" if lanes[0][1].text == lanes[1][1].text else "different"
    words = compare_words(*texts)
    if answers == "different" and not any(differs for lane in words for _, differs in lane):
        answers = "spacing"
    shown = [_lane(*lane) | {"words": pieces} for lane, pieces in zip(lanes, words, strict=True)]
    return {"race": race, "result": {"lanes": shown, "answers": answers}}


def recorded_message(race: Message) -> Message:
    """A race from a file of `python -m dvl_core.race --out`: its result, and what it was recorded with.

    Raises:
        TraceError: for traces that are none.
    """
    lanes = [("", DenoisingTrace.from_json(lane["trace"]), lane["seconds"]) for lane in race["lanes"]]
    return result_message("recorded", lanes) | {"recorded": recorded_with(race)}


def compare_words(one: str, other: str) -> tuple[list[list[Any]], list[list[Any]]]:
    """Both texts cut into words and the spaces between: `[piece, differs]`, where only words can differ.

    The pieces of a text join to that text. A word differs when it is no part of the longest matching runs of words
    that both have in the same order (Ratcliff and Obershelp, as in `difflib`).
    """
    pieces = [_PIECE.findall(text) for text in (one, other)]
    words = [[piece for piece in cut if not piece.isspace()] for cut in pieces]
    same: tuple[set[int], set[int]] = (set(), set())
    for a, b, size in SequenceMatcher(None, *words, autojunk=False).get_matching_blocks():
        same[0].update(range(a, a + size))
        same[1].update(range(b, b + size))
    return _marked(pieces[0], same[0]), _marked(pieces[1], same[1])


def _marked(pieces: list[str], same: set[int]) -> list[list[Any]]:
    marked, word = [], 0
    for piece in pieces:
        is_word = not piece.isspace()
        marked.append([piece, is_word and word not in same])
        word += is_word
    return marked


def _lane(name: str, trace: DenoisingTrace, seconds: Sequence[float]) -> Message:
    steps = _steps(trace)
    used = {token for step in steps for _, token in step["cells"]} | {token for _, token in trace.given}
    return about_lane(name, trace.model.get("kind", ""), trace.settings) | {
        "eos_token_ids": trace.model.get("eos_token_ids", []),
        "prefill_milliseconds": trace.prefill_milliseconds,
        "given": trace.given,
        "vocabulary": encode_vocabulary({t: text for t, text in trace.vocabulary.items() if t in used}),
        "steps": steps,
        "median_seconds": trace.seconds,
        "seconds": list(seconds),
    }


def _steps(trace: DenoisingTrace) -> list[Message]:
    """Per forward pass its block's span, time, and `[position, id]` of the cells it changed (id None: masked again)."""
    states = trace.replay()
    before, steps = list(next(states)[0]), []
    for step, (ids, _) in zip(trace.steps, states, strict=True):
        cells = [[position, token] for position, token in enumerate(ids) if token != before[position]]
        before = list(ids)
        steps.append({"span": step.span, "milliseconds": step.milliseconds, "forwards": step.forwards, "cells": cells})
    return steps
