"""What a trace has to look like to be read: files come from anywhere, and nothing that is drawn from them may fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trace import TraceImage, TraceStep

FINISH_REASONS = ("eos", "length", "stopped")


class TraceError(ValueError):
    """A trace that can't be read; the message says which field is wrong and what was expected."""


def check_header(data: dict[str, Any]) -> None:
    """What a trace says beside steps and pictures. Raises TraceError."""
    for name, kind in (("model", dict), ("settings", dict), ("prompt", dict), ("length", int)):
        if not isinstance(data.get(name), kind) or isinstance(data.get(name), bool):
            raise TraceError(f"{name}: expected {kind.__name__}, got {type(data.get(name)).__name__}.")
    if not 0 < data["length"] <= 1_000_000:
        raise TraceError(f"length: expected 1 to 1,000,000 answer positions, got {data['length']}.")
    for name in ("images", "steps", "given", "changes"):
        if not isinstance(data.get(name, []), list):
            raise TraceError(f"{name}: expected a list, got {type(data[name]).__name__}.")
    _check_number(data.get("prefill_milliseconds", 0.0), "prefill_milliseconds")
    if not _is_count(data["prompt"].get("num_tokens") or 0):
        raise TraceError(f"prompt.num_tokens: expected a number of tokens, got {data['prompt']['num_tokens']!r}.")
    stops = data["model"].get("eos_token_ids", [])
    if not isinstance(stops, list) or not all(_is_count(token) for token in stops):
        raise TraceError(f"model.eos_token_ids: expected a list of ids, got {stops!r}.")
    messages = data["prompt"].get("messages", [])
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("text"), str) for m in messages
    ):
        raise TraceError("prompt.messages: expected a list of {role, text}.")
    if data.get("finish_reason") not in (None, *FINISH_REASONS):
        raise TraceError(f"finish_reason: expected one of {', '.join(FINISH_REASONS)}, got {data['finish_reason']!r}.")
    for i, pair in enumerate(data.get("given", [])):
        if not (isinstance(pair, list) and len(pair) == 2 and all(_is_count(v) for v in pair)):
            raise TraceError(f"given[{i}]: expected [position, id], got {pair!r}.")
        if pair[0] >= data["length"]:
            raise TraceError(f"given[{i}]: position {pair[0]} lies outside the {data['length']} answer positions.")
    for i, change in enumerate(data.get("changes", [])):
        whole = isinstance(change, list) and len(change) == 3 and all(_is_count(v) for v in change[:2])
        if not whole or not (change[2] is None or _is_count(change[2])) or change[1] >= data["length"]:
            raise TraceError(f"changes[{i}]: expected [step, position, id or null] inside the answer, got {change!r}.")
    _check_parent(data.get("parent"))


def _check_parent(parent: Any, where: str = "parent") -> None:
    if parent is None:
        return
    if not isinstance(parent, dict) or not isinstance(parent.get("run"), str) or not _is_count(parent.get("step")):
        raise TraceError(f"{where}: expected {{run, step, settings, parent}}.")
    if not isinstance(parent.get("settings"), dict):
        raise TraceError(f"{where}.settings: expected an object of settings.")
    _check_parent(parent.get("parent"), where + ".parent")


def check_step(step: TraceStep, where: str, length: int) -> None:
    """Ids and positions are counts, lists run parallel, probabilities are in [0, 1]. Raises TraceError."""
    for name in ("span", "masked", "proposals", "revealed"):
        values = getattr(step, name)
        if not isinstance(values, list) or not all(_is_count(v) for v in values):
            raise TraceError(f"{where}.{name}: expected a list of whole numbers of 0 or more.")
    if any(position >= length for position in step.masked):
        raise TraceError(f"{where}.masked: a position lies outside the {length} answer positions.")
    if not set(step.revealed) <= set(step.masked):
        raise TraceError(f"{where}.revealed: a position was not masked before the step.")
    for name in ("proposals", "confidences", "candidates", "entropies"):
        values = getattr(step, name)
        observed = name in ("candidates", "entropies")
        if not (observed and values is None) and (not isinstance(values, list) or len(values) != len(step.masked)):
            raise TraceError(f"{where}.{name}: expected one entry for each of the {len(step.masked)} masked positions.")
    for value in step.confidences:
        _check_number(value, f"{where}.confidences", 1.0)
    for value in step.entropies or ():
        _check_number(value, f"{where}.entropies")
    for ranking in step.candidates or ():
        if not isinstance(ranking, list) or not all(_is_pair(pair) and _is_count(pair[0]) for pair in ranking):
            raise TraceError(f"{where}.candidates: expected a list of [id, probability] for each masked position.")
        for _, value in ranking:
            _check_number(value, f"{where}.candidates", 1.0)
    _check_attention(step, where)
    _check_number(step.milliseconds, f"{where}.milliseconds")
    for name in ("block", "step", "forwards"):
        if not _is_count(getattr(step, name)):
            raise TraceError(f"{where}.{name}: expected a whole number of 0 or more, got {getattr(step, name)!r}.")
    if step.known is not None and not _is_count(step.known):
        raise TraceError(f"{where}.known: expected a whole number of 0 or more, got {step.known!r}.")
    if len(step.span) != 2 or step.span[0] > step.span[1]:
        raise TraceError(f"{where}.span: expected [start, end].")


def _check_attention(step: TraceStep, where: str) -> None:
    if step.attention is None:
        return
    if not isinstance(step.attention, dict):
        raise TraceError(f"{where}.attention: expected layer -> weights.")
    for layer, rows in step.attention.items():
        whole = isinstance(rows, list) and len(rows) == len(step.masked) and all(isinstance(row, list) for row in rows)
        if not whole:
            raise TraceError(f"{where}.attention[{layer}]: expected a list of weights for each masked position.")
        for row in rows:
            for value in row:
                _check_number(value, f"{where}.attention[{layer}]")


def check_image(image: TraceImage, where: str) -> None:
    """Sizes are numbers, the grid and the box are what they should be. Raises TraceError."""
    for name in ("width", "height"):
        _check_number(getattr(image, name), f"{where}.{name}")
    if not _is_pair(image.grid) or not all(_is_count(count) for count in image.grid):
        raise TraceError(f"{where}.grid: expected [rows, columns].")
    if not isinstance(image.box, list) or len(image.box) != 4:
        raise TraceError(f"{where}.box: expected [left, top, right, bottom].")
    for edge in image.box:
        _check_number(edge, f"{where}.box", least=-1e15)
    if not isinstance(image.sha256, str) or not (image.data is None or isinstance(image.data, str)):
        raise TraceError(f"{where}: sha256 and data must be texts.")


def _check_number(value: Any, where: str, most: float = 1e15, least: float = 0.0) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:  # no NaN does
        raise TraceError(f"{where}: expected a number from {least:g} to {most:g}, got {repr(value)[:40]}.")


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
