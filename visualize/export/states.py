"""The canvas after every step, ready to be drawn: which token stands where, how sure it was, what is still masked.

The rules are those of the player: a token keeps the confidence of the step that revealed it; what was given or what a
person changed has none; nothing after the first end token is answer; blocks far ahead are counted, not shown.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dvl_core.trace import DenoisingTrace, TraceStep
from visualize.text import cell_texts

AHEAD = 2  # unopened blocks that are shown
MOST_AHEAD = 1024  # masks behind the last token that are shown, however large a file says that blocks are
SURE, LIKELY = 0.9, 0.5  # from here on an underline is solid, dashed


@dataclass(frozen=True)
class Cell:
    """One answer position as it is drawn.

    Attributes:
        kind: "text", "mask", "end" (an end token while the run goes on) or "part" (of a character).
        text: what it says, line breaks kept.
        confidence: of the step that revealed it, or None.
        fresh: revealed by the step shown.
        ahead: how many blocks ahead of the block being denoised it lies; 0 = in it, or before.
        active: whether it lies in the block being denoised.
        opens: whether a block boundary is drawn before it.
    """

    kind: str
    text: str = ""
    confidence: float | None = None
    fresh: bool = False
    ahead: int = 0
    active: bool = False
    opens: bool = False


@dataclass(frozen=True)
class Canvas:
    """The canvas after `count` steps.

    Attributes:
        count: steps applied.
        step: the last of them, None before the first.
        cells: the positions that are shown.
        hidden: blocks ahead that are not.
        block, blocks: ordinal of the block being denoised, from 1, and how many the run used; 0 and 0 without blocks.
        steps: steps that the block takes by its settings, or has taken already; at most one for each of its tokens.
        denoised: answer tokens settled by the model so far, those that a template or a person put not counted.
        passes: denoising forwards so far, the prefill not counted.
        milliseconds: compute time so far, prefill included.
    """

    count: int
    step: TraceStep | None
    cells: list[Cell]
    hidden: int
    block: int
    blocks: int
    steps: int
    denoised: int
    passes: int
    milliseconds: float


def canvases(trace: DenoisingTrace, counts: Sequence[int] | None = None) -> Iterator[Canvas]:
    """The canvas after each of `counts` steps, ascending; by default after 0, 1, ... all steps."""
    wanted = set(range(len(trace.steps) + 1) if counts is None else counts)
    milliseconds, passes = trace.prefill_milliseconds, trace.running_passes()
    for count, (ids, confidences) in enumerate(trace.replay()):
        if count:
            milliseconds += trace.steps[count - 1].milliseconds
        if count in wanted:
            yield _canvas(trace, count, list(ids), list(confidences), passes[count], milliseconds)


def finished(trace: DenoisingTrace) -> Canvas:
    """The canvas after the last step."""
    return next(canvases(trace, [len(trace.steps)]))


def _canvas(trace: DenoisingTrace, count: int, ids: list[int | None], confidences: list[float | None], passes: int,
            milliseconds: float) -> Canvas:
    step = trace.steps[count - 1] if count else None
    complete = count == len(trace.steps)
    stops = set(trace.model.get("eos_token_ids", []))
    end = next((position for position, token in enumerate(ids) if token in stops), len(ids))
    starts = all_block_starts(trace, count)
    near = trace.steps[max(0, count - 1)].span[0] if trace.steps else 0
    active = bisect_right(starts, near) - 1
    settled = max((position + 1 for position, token in enumerate(ids) if token is not None), default=0)
    ahead = (starts + [len(ids)] * (AHEAD + 1))[active + AHEAD + 1]
    shown = max(settled, min(ahead, settled + MOST_AHEAD))
    if complete and end < len(ids):
        shown = end
    texts = cell_texts(ids[:shown], trace.vocabulary, stops.__contains__)
    blocks = trace.model.get("kind") != "autoregressive"  # whose every token is a block of its own
    cells = []
    for position in range(shown):
        token, block = ids[position], bisect_right(starts, position) - 1
        kind = "mask" if token is None else "end" if token in stops else "part" if texts[position].partial else "text"
        cells.append(
            Cell(
                kind=kind,
                text=texts[position].text,
                confidence=confidences[position],
                fresh=step is not None and not complete and position in step.revealed,
                ahead=0 if token is not None else max(complete, block - active),
                active=not complete and block == active,
                opens=blocks and block > 0 and starts[block] == position,
            )
        )
    hidden = 0 if complete and end < len(ids) else sum(start >= shown for start in starts)
    denoised = sum(confidence is not None for confidence in confidences[:end])
    last = trace.steps[-1].span[0] if trace.steps else 0
    place = (active + 1, max(active + 1, bisect_right(starts, last))) if blocks else (0, 0)
    steps = max(block_shape(trace, count)[1], step.step + 1 if step else 0)
    return Canvas(count, step, cells, hidden, *place, steps, denoised, passes, milliseconds)


def all_block_starts(trace: DenoisingTrace, count: int) -> list[int]:
    """First position of every block, opened or not, as after `count` steps (before the first: as after it).

    Blocks are aligned to the prompt, whose tail shares the first one: the span of the last step says where they lie.
    """
    if not trace.steps:
        return [0]
    size = block_shape(trace, count)[0]
    start, end = trace.steps[max(0, count - 1)].span
    return [0, *range((start or end) % size or size, trace.length, size)]


def block_shape(trace: DenoisingTrace, count: int) -> tuple[int, int]:
    """Block size, and steps per block, in force after `count` steps: a branch may have changed them.

    An autoregressive model reveals token by token, whatever its settings say.
    """
    if trace.model.get("kind") == "autoregressive":
        return 1, 1
    settings = trace.settings_at(count - 1)
    size, steps = settings.get("block_size"), settings.get("steps")
    size = size if _is_positive(size) else 1
    return size, min(size, steps) if _is_positive(steps) else 1


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and value > 0
