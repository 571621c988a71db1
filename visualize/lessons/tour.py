"""The guided tour: moments of a recorded run, found in its trace by rule.

A stop is plain data: `kind` (which sentence), `step` (how many steps are done when it is shown), `position` (the
answer position it is about, or None), `span` (the positions of the block it is about, or None), and what the sentence
names: `counts` (whole numbers), `shares` (probabilities) and `tokens` (ids). People count places, blocks and steps
from 1, so that is how `counts` holds them. What lies behind the end of the answer makes no stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from dvl_core.trace import DenoisingTrace, TraceStep

from .passes import forward_passes

Stop = dict[str, Any]
SUREST_FIRST = ("low_confidence_static", "low_confidence_dynamic", "factor")  # strategies that go by confidence


def tour_stops(trace: DenoisingTrace) -> list[Stop]:
    """The stops in the order of the run; five to seven where it has a few blocks.

    Where two rules find the same token at the same step, the first of these counts: prefill, first reveal, the end,
    least confident reveal, out of order, change of mind, block.
    """
    if not trace.steps:
        return []
    found = [_prefill(trace), _first(trace), _end(trace), _doubt(trace), _order(trace), _changed(trace), _block(trace)]
    stops: list[Stop] = []
    for stop in filter(None, found):
        if not any((stop["step"], stop["position"]) == (other["step"], other["position"]) for other in stops):
            stops.append(stop)
    last = found[2]
    return sorted(stops, key=lambda stop: (stop is last, stop["step"]))


def _stop(
    kind: str, step: int, position: int | None = None, *, span: list[int] | None = None,
    counts: dict[str, int] | None = None, shares: dict[str, float] | None = None, tokens: dict[str, int] | None = None,
) -> Stop:
    place = {} if position is None else {"place": position + 1}
    return {
        "kind": kind, "step": step, "position": position, "span": span,
        "counts": place | (counts or {}), "shares": shares or {}, "tokens": tokens or {},
    }  # fmt: skip


def _prefill(trace: DenoisingTrace) -> Stop:
    first = forward_passes(trace)[0]
    cached = first["written"] if first["kind"] == "prefill" else 0
    kind = "prefill" if cached else "short"
    if trace.model.get("kind") == "autoregressive":
        kind = "causal"
    return _stop(kind, 0, counts={"tokens": trace.prompt_tokens, "cached": cached, "length": trace.length})


def _first(trace: DenoisingTrace) -> Stop | None:
    for index, position, token, confidence in _reveals(trace):
        step = trace.steps[index]
        counts = {"masked": len(step.masked), "revealed": len(step.revealed)}
        kind = "first-causal" if trace.model.get("kind") == "autoregressive" else "first"
        shares, tokens = {"confidence": confidence}, {"token": token}
        return _stop(kind, index + 1, position, counts=counts, shares=shares, tokens=tokens)
    return None


def _doubt(trace: DenoisingTrace) -> Stop | None:
    """The least confident reveal."""
    reveals = list(_reveals(trace))
    if not reveals:
        return None
    index, position, token, confidence = min(reveals, key=lambda reveal: reveal[3])
    shares = {"confidence": confidence, "average": sum(reveal[3] for reveal in reveals) / len(reveals)}
    return _stop("doubt", index + 1, position, shares=shares, tokens={"token": token})


def _order(trace: DenoisingTrace) -> Stop | None:
    """The reveal that leaves the most masks of its block open on its left."""
    best, most = None, 0
    for index, position, token, confidence in _reveals(trace):
        step = trace.steps[index]
        left = sum(1 for p in step.masked if p < position and p not in step.revealed)
        if left > most:
            kind = "order" if trace.settings_at(index).get("strategy") in SUREST_FIRST else "order-other"
            shares, tokens = {"confidence": confidence}, {"token": token}
            best = _stop(kind, index + 1, position, counts={"left": left}, shares=shares, tokens=tokens)
            most = left
    return best


def _changed(trace: DenoisingTrace) -> Stop | None:
    """The strongest lead that another token took over; else the proposal whose confidence moved most."""
    changed, moved = None, None
    for index, position, before, was, token, confidence in _second_thoughts(trace):
        if token != before and (changed is None or was > changed["shares"]["was"]):
            shares, tokens = {"was": was, "confidence": confidence}, {"before": before, "token": token}
            changed = _stop("changed", index, position, shares=shares, tokens=tokens)
        if token == before and (moved is None or abs(confidence - was) > _move(moved)):
            shares = {"was": was, "confidence": confidence}
            moved = _stop("moved", index, position, shares=shares, tokens={"token": token})
    return changed or moved


def _move(stop: Stop) -> float:
    return abs(stop["shares"]["confidence"] - stop["shares"]["was"])


def _block(trace: DenoisingTrace) -> Stop | None:
    """The block with the most tokens per step, where blocks differ in that; else the first boundary."""
    if trace.model.get("kind") == "autoregressive":
        return None
    blocks = []
    for block, group in groupby(enumerate(trace.steps), key=lambda pair: pair[1].block):
        steps = list(group)
        counts = {"block": block + 1, "steps": len(steps), "tokens": sum(len(step.revealed) for _, step in steps)}
        blocks.append((counts, steps[-1][0] + 1, steps[0][1].span))
    if len(blocks) < 2:
        return None
    rates = [counts["tokens"] / counts["steps"] for counts, _, _ in blocks]
    if max(rates) == min(rates):
        counts, done, span = blocks[0]
        return _stop("boundary", done, span=span, counts=counts | {"next": blocks[1][0]["block"]})
    counts, done, span = blocks[rates.index(max(rates))]
    slow = {f"slow_{name}": value for name, value in blocks[rates.index(min(rates))][0].items()}
    return _stop("fast", done, span=span, counts=counts | slow)


def _end(trace: DenoisingTrace) -> Stop:
    """Why the run is over: the end token that closes the answer, the full length, or a person."""
    steps, position = len(trace.steps), _end_position(trace)
    if trace.finish_reason == "stopped":
        return _stop("stopped", steps, counts={"steps": steps, "masked": trace.canvas().count(None)})
    if position == trace.length:
        return _stop("full", steps, counts={"length": trace.length, "steps": steps})
    counts = {"unopened": trace.length - trace.steps[-1].span[1], "steps": steps}
    for _, revealed, token, confidence in _reveals(trace):
        if revealed == position:
            shares = {"confidence": confidence}
            return _stop("end", steps, position, counts=counts, shares=shares, tokens={"token": token})
    return _stop("end-given", steps, position, counts=counts, tokens={"token": trace.canvas()[position]})


def _end_position(trace: DenoisingTrace) -> int:
    """Where the answer ends: the position of its end token, or its length where it has none."""
    ends = set(trace.model.get("eos_token_ids", []))
    return next((p for p, token in enumerate(trace.canvas()) if token in ends), trace.length)


def _reveals(trace: DenoisingTrace) -> Iterator[tuple[int, int, int, float]]:
    """`(index of the step, position, id, confidence)` of every reveal of the answer, the surest of a step first."""
    end = _end_position(trace)
    for index, step in enumerate(trace.steps):
        known = dict(zip(step.masked, zip(step.proposals, step.confidences, strict=True), strict=True))
        for position in sorted(step.revealed, key=lambda p: -known[p][1]):
            if position <= end:
                yield index, position, *known[position]


def _second_thoughts(trace: DenoisingTrace) -> Iterator[tuple[int, int, int, float, int, float]]:
    """`(index, position, id before, its confidence, id now, its confidence)` wherever a step proposes anew."""
    before: TraceStep | None = None
    end = _end_position(trace)
    for index, step in enumerate(trace.steps):
        if before is not None and before.span == step.span:
            was = dict(zip(before.masked, zip(before.proposals, before.confidences, strict=True), strict=True))
            for position, token, confidence in zip(step.masked, step.proposals, step.confidences, strict=True):
                if position in was and position <= end:
                    yield index, position, *was[position], token, confidence
        before = step
