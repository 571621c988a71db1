"""One model decoded in many ways: block sizes, denoising steps, confidence thresholds; and sudoku by its blanks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from ..decoding import DecodingConfig
from .exams import Exam
from .score import score

BLOCKS = (1, 4, 8, 16)
STEPS = (1, 2, 4, 8)
THRESHOLDS = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
BLANKS = tuple(range(2, 12))


def settings(longest: int) -> dict[str, DecodingConfig]:
    """Decoding settings by row name. `steps 8` reveals one token per step of a block of 8, as `block 8` does.

    Args:
        longest: tokens of an answer.
    """
    made = {f"block {size}": DecodingConfig(block_size=size, steps=size, max_new_tokens=longest) for size in BLOCKS}
    made |= {f"steps {steps}": DecodingConfig(steps=steps, max_new_tokens=longest) for steps in STEPS}
    return made | {
        f"threshold {value}": DecodingConfig(strategy="low_confidence_dynamic", threshold=value, max_new_tokens=longest)
        for value in THRESHOLDS
    }


def sudoku_settings(longest: int) -> dict[str, DecodingConfig]:
    """Decoding settings for sudoku by blanks: more and fewer cells open at a time, and all of a block at once."""
    return {
        f"sudoku, block {size}, steps {steps}": DecodingConfig(block_size=size, steps=steps, max_new_tokens=longest)
        for size, steps in ((4, 4), (8, 8), (16, 16), (8, 1))
    }


class Sweep:
    """Rows of one pair of models, each made when called.

    Args:
        child: gives model and processor, loaded at first use.
        parent: the same of the autoregressive parent; None where there is none.
        exam, sudokus: make what is asked.
        longest: tokens of an answer.
    """

    def __init__(self, child: Callable[[], tuple[Any, Any]], parent: Callable[[], tuple[Any, Any]] | None,
                 exam: Callable[[], Exam], sudokus: Callable[[], Exam], longest: int) -> None:
        self.child, self.parent, self.longest = child, parent, longest
        self._exam, self._sudokus = exam, sudokus

    @cached_property
    def exam(self) -> Exam:
        """Questions of all tasks."""
        return self._exam()

    @cached_property
    def sudokus(self) -> Exam:
        """Sudokus by their number of blanks."""
        return self._sudokus()

    def rows(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Name -> what makes the row."""
        rows: dict[str, Callable[[], dict[str, Any]]] = {}
        if self.parent:
            left_to_right = DecodingConfig(max_new_tokens=self.longest)
            rows["autoregressive"] = partial(self._row, self.parent, False, left_to_right, "exam")
            rows["sudoku, autoregressive"] = partial(self._row, self.parent, False, left_to_right, "sudokus")
        for name, config in settings(self.longest).items():
            rows[name] = partial(self._row, self.child, True, config, "exam")
        for name, config in sudoku_settings(self.longest).items():
            rows[name] = partial(self._row, self.child, True, config, "sudokus")
        return rows

    def _row(self, load: Callable[[], tuple[Any, Any]], diffusion: bool, config: DecodingConfig,
             exam: str) -> dict[str, Any]:
        decoding = {name: getattr(config, name) for name in ("block_size", "steps", "strategy", "threshold")}
        return score(*load(), getattr(self, exam), diffusion, config) | ({"decoding": decoding} if diffusion else {})
