"""The forward passes of a recorded run: what each computed, read from the key-value cache and wrote to it.

Counted from the trace's steps, the way `dvl_core.decoding.block` goes about it: the prompt's full blocks fill the
cache; a pass over the open block leaves nothing there; a finished block is computed once more, and written, with the
first pass of the block after it (in the reference's way of decoding, in a pass of its own). Numbers are token
positions, from the beginning of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dvl_core.trace import DenoisingTrace


def forward_passes(trace: DenoisingTrace) -> list[dict[str, Any]]:
    """Every forward pass in order.

    Returns:
        per pass `kind` ("prefill", "step" or "commit"), `step` (index of the last step that is done after it, None
        before the first), `size` (tokens per block), `cached` (positions read from the cache), `computed`, `written`,
        and `without`: positions that the same decoder would compute here if it kept no cache.
    """
    if trace.model.get("kind") == "autoregressive":
        return list(_causal_passes(trace))
    passes: list[dict[str, Any]] = []
    starts = [*_branch_starts(trace), len(trace.steps)]
    for begin, end in zip(starts, starts[1:], strict=False):
        passes += _block_passes(trace, begin, end)
    return passes


def _branch_starts(trace: DenoisingTrace) -> list[int]:
    """Steps at which a run began: 0, and wherever a branch left the run before it."""
    starts, parent = {0}, trace.parent
    while parent:
        starts.add(min(parent["step"], len(trace.steps)))
        parent = parent.get("parent")
    return sorted(starts - {len(trace.steps)}) if trace.steps else []


def _block_passes(trace: DenoisingTrace, begin: int, end: int) -> Iterator[dict[str, Any]]:
    """Passes of the steps `begin` to `end`, computed in one go: with a prefill of their own."""
    settings, prompt = trace.settings_at(begin), trace.prompt_tokens
    reference = bool(settings.get("reference_compatible"))
    size = max(1, int(settings.get("block_size") or 1))
    if reference and size >= prompt + trace.length:
        size = prompt + trace.length  # the published code then takes everything as one block
    cached, known = prompt // size * size, trace.steps[begin].known or 0
    before = trace.steps[begin - 1].forwards if begin else 0
    if known < cached:
        before += 1
        yield _pass("prefill", begin - 1, size, known, cached - known, cached - known, 0)
    for index in range(begin, end):
        step = trace.steps[index]
        if step.forwards == before:
            continue  # it was guessed, and computed in the pass before it
        start = (prompt + step.span[0]) // size * size  # of the open block
        entering = 0 if reference else start - cached
        first = index == begin or trace.steps[index - 1].block != step.block
        depth = 0 if first or reference else int(settings.get("lookahead") or 0)
        guesses = max(0, min(depth, len(step.masked) - 1))
        yield _pass("step", index, size, cached, entering + (1 + guesses) * size, entering, start + size)
        cached += entering
        if reference and step.forwards - before > 1:
            yield _pass("commit", index, size, cached, size, size, 0)
            cached += size
        before = step.forwards


def _causal_passes(trace: DenoisingTrace) -> Iterator[dict[str, Any]]:
    """An autoregressive run: the prefill gives the first token, every other token costs one pass."""
    prompt = trace.prompt_tokens
    for index in range(len(trace.steps)):
        if index:
            yield _pass("step", index, 1, prompt + index - 1, 1, 1, prompt + index)
        else:
            known = trace.steps[0].known or 0
            yield _pass("prefill", 0, 1, known, prompt - known, prompt - known, prompt)


def _pass(kind: str, step: int, size: int, cached: int, computed: int, written: int, without: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "step": step if step >= 0 else None,
        "size": size,
        "cached": cached,
        "computed": computed,
        "written": written,
        "without": without,
    }
