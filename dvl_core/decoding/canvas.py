"""An answer that does not begin empty: templates with holes, and runs resumed from a trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..trace import DenoisingTrace


@dataclass(frozen=True)
class Fill:
    """What some holes may be filled with: at these answer positions no other ids are proposed."""

    positions: frozenset[int]
    ids: frozenset[int]


@dataclass(frozen=True)
class Canvas:
    """Tokens that are there before the first step.

    Attributes:
        tokens: one id, or None for a hole, per answer position; the answer has exactly this length.
        resume: `(block, step)` at which the schedule goes on; `step` applies to that block alone.
        template: the given tokens are text to keep to the letter: no answer ends before the last of them.
        fills: what may be proposed where; positions that none of them names are free.
    """

    tokens: tuple[int | None, ...]
    resume: tuple[int, int] = (0, 0)
    template: bool = False
    fills: tuple[Fill, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if not self.tokens:
            raise ValueError("canvas: give at least one token or hole.")
        for position, token in enumerate(self.tokens):
            if token is not None and (isinstance(token, bool) or not isinstance(token, int) or token < 0):
                raise ValueError(f"canvas: expected an id or None at position {position}; got {token!r}.")
        self._check_fills()

    def _check_fills(self) -> None:
        named: set[int] = set()
        for fill in self.fills:
            outside = sorted(position for position in fill.positions if not 0 <= position < len(self.tokens))
            if outside:
                raise ValueError(f"canvas: a fill names position {outside[0]}; there are {len(self.tokens)}.")
            if not fill.ids:
                raise ValueError("canvas: a fill must allow at least one id.")
            if named & fill.positions:
                raise ValueError(f"canvas: two fills name position {min(named & fill.positions)}.")
            named |= fill.positions

    @property
    def protected(self) -> int:
        """Answer positions before which no end-of-sequence token may be proposed."""
        if not self.template:
            return 0
        return max((i + 1 for i, token in enumerate(self.tokens) if token is not None), default=0)

    @classmethod
    def from_trace(
        cls,
        trace: DenoisingTrace,
        step: int,
        edits: Mapping[int, int] | None = None,
        remask: Iterable[int] = (),
    ) -> Canvas:
        """The canvas of `trace` after its first `step` steps, with changes, ready to go on from there.

        Without changes, going on gives the same tokens and confidences as not stopping.

        Args:
            step: number of steps to keep, 0 to `len(trace.steps)`.
            edits: position -> id of tokens to set or replace.
            remask: positions to mask again.

        Raises:
            ValueError: when a step or a position lies outside the trace.
        """
        if not 0 <= step <= len(trace.steps):
            raise ValueError(f"step must be from 0 to {len(trace.steps)}, the steps of the trace; got {step}.")
        tokens, again = trace.canvas(step), set(remask)
        for position, token in {**dict.fromkeys(again), **(edits or {})}.items():
            if not 0 <= position < len(tokens):
                raise ValueError(f"position {position} lies outside the answer's {len(tokens)} positions.")
            tokens[position] = token
        return cls(tuple(tokens), cls._resumed(trace, step, again))

    @staticmethod
    def _resumed(trace: DenoisingTrace, step: int, again: set[int]) -> tuple[int, int]:
        """Where the schedule goes on. A block that has masks again begins its schedule anew: the steps that are left of
        it were meant for the masks that were left."""
        if not trace.steps:
            return 0, 0
        follows = step < len(trace.steps)
        at = trace.steps[step if follows else -1]
        over = not follows and trace.finish_reason in ("eos", "length")
        anew = over or any(at.span[0] <= position < at.span[1] for position in again)
        return at.block, 0 if anew else at.step + (not follows)
