"""How a page stays small: what was observed of a run, by far its largest part, is made coarser until it fits.

Many candidates become fewer. Attention is rounded, which still draws the same picture; where that is not enough, the
grid of patches is pooled two by two, weights summed, as often as it takes, and in the end left out. What was done is
said in a `Trimmed`, for the page to tell.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

DIGITS = 2  # significant ones of a rounded weight
FAINTEST = 0.02  # of a position's largest weight; what is fainter becomes 0
FEWEST_CANDIDATES = 5
_CANDIDATES_SHARE = 0.75  # of the limit that the rest may take where there is attention to be kept
_SMALLEST_SIDE = 4  # patches; a coarser grid says nothing


@dataclass(frozen=True)
class Trimmed:
    """What happened: `rounded` attention, `pooled` patches a side became one (1 = none), or it was `left_out`; only
    the best `candidates` were kept (0 = all)."""

    rounded: bool = False
    pooled: int = 1
    left_out: bool = False
    candidates: int = 0


def compact(data: Any) -> str:
    """JSON without spaces."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def fit(trace: dict[str, Any], limit: int) -> tuple[dict[str, Any], Trimmed]:
    """A trace's JSON whose text has at most `limit` bytes, if trimming what was observed can do that.

    Args:
        trace: from `DenoisingTrace.to_json`; it stays as it is.
        limit: bytes of `compact(...)` in UTF-8.

    Returns `(trace, what was done)`.
    """
    if _bytes(trace) <= limit:
        return trace, Trimmed()
    watched = any("attention" in step for step in trace["steps"])
    trace, candidates = _fit_candidates(trace, round(limit * _CANDIDATES_SHARE) if watched else limit)
    if not watched or _bytes(trace) <= limit:
        return trace, Trimmed(candidates=candidates)
    fitted, factor = _map_attention(trace, [_rounded]), 1
    while _bytes(fitted) > limit and _can_pool(fitted):
        factor *= 2
        fitted = _map_attention(_pooled(trace, factor), [_rounded])
    if _bytes(fitted) <= limit:
        return fitted, Trimmed(rounded=True, pooled=factor, candidates=candidates)
    return _map_attention(trace, None), Trimmed(left_out=True, candidates=candidates)


def _fit_candidates(trace: dict[str, Any], limit: int) -> tuple[dict[str, Any], int]:
    """Fewer candidates, until the trace without attention has at most `limit` bytes; and how many (0 = all)."""
    kept = most = max((len(best) for step in trace["steps"] for best in step.get("candidates", [])), default=0)
    while kept > FEWEST_CANDIDATES and _bytes(_map_attention(trace, None)) > limit:
        kept = max(FEWEST_CANDIDATES, kept // 2)
        trace = {**trace, "steps": [_with_candidates(step, kept) for step in trace["steps"]]}
    return trace, kept if kept < most else 0


def _with_candidates(step: dict[str, Any], kept: int) -> dict[str, Any]:
    if "candidates" not in step:
        return step
    return {**step, "candidates": [best[:kept] for best in step["candidates"]]}


def _bytes(data: Any) -> int:
    return len(compact(data).encode("utf-8", "replace"))


def _map_attention(trace: dict[str, Any], changes: list | None) -> dict[str, Any]:
    """The trace with `changes` made to every position's weights in turn; None leaves the attention out."""
    steps = []
    for step in trace["steps"]:
        step = dict(step)
        attention = step.pop("attention", None)
        if attention is not None and changes is not None:
            step["attention"] = {layer: [_all(changes, row) for row in rows] for layer, rows in attention.items()}
        steps.append(step)
    return {**trace, "steps": steps}


def _all(changes: list, weights: list[float]) -> list[float]:
    for change in changes:
        weights = change(weights)
    return weights


def _rounded(weights: list[float]) -> list[float]:
    faintest = FAINTEST * max(weights, default=0.0)
    return [0 if weight <= faintest else _significant(weight) for weight in weights]


def _significant(weight: float) -> float:
    return round(weight, DIGITS - 1 - math.floor(math.log10(weight)))


def _can_pool(trace: dict[str, Any]) -> bool:
    return all(min(image["grid"]) >= 2 * _SMALLEST_SIDE for image in trace["images"]) and bool(trace["images"])


def _pooled(trace: dict[str, Any], factor: int) -> dict[str, Any]:
    """Every picture's grid `factor` times coarser; the box grows where the sides don't divide."""
    grids = [image["grid"] for image in trace["images"]]
    images = [_coarser(image, factor) for image in trace["images"]]
    return {**_map_attention(trace, [lambda weights: _pool(weights, grids, factor)]), "images": images}


def _coarser(image: dict[str, Any], factor: int) -> dict[str, Any]:
    (rows, columns), (left, top, right, bottom) = image["grid"], image["box"]
    grid = [-(-rows // factor), -(-columns // factor)]
    width, height = (right - left) / columns * factor, (bottom - top) / rows * factor
    return {**image, "grid": grid, "box": [left, top, left + grid[1] * width, top + grid[0] * height]}


def _pool(weights: list[float], grids: list[list[int]], factor: int) -> list[float]:
    """Weights of all pictures' patches in reading order, summed over `factor` x `factor` patches."""
    out: list[float] = []
    start = 0
    for rows, columns in grids:
        across = -(-columns // factor)
        sums = [0.0] * (-(-rows // factor) * across)
        for index, weight in enumerate(weights[start : start + rows * columns]):
            sums[index // columns // factor * across + index % columns // factor] += weight
        out += sums
        start += rows * columns
    return out
