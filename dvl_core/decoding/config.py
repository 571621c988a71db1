"""The one configuration of decoding: frozen, and refusing values that can't work by name and range."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from .strategies import STRATEGIES

MAX_BLOCK_SIZE = 4096
MAX_NEW_TOKENS = 65536
MAX_LOOKAHEAD = 8
MIN_TEMPERATURE = 1e-3  # logits are divided by it, and have to stay finite


def _said(value: object) -> str:
    """A wrong value in a sentence; an empty field of a page is None."""
    return "nothing" if value is None else repr(value)


@dataclass(frozen=True)
class DecodingConfig:
    """How an answer is denoised. Defaults are the paper's (arXiv 2512.15713, inference settings).

    Attributes:
        block_size: tokens denoised together; blocks are aligned to position 0 of the prompt. 1 to 4096.
        steps: denoising steps a block may take; each reveals at least `block_size / steps` tokens. 1 to 4096.
        max_new_tokens: longest answer, in tokens. 1 to 65536.
        strategy: which masked positions a step reveals; a name in `STRATEGIES`.
        threshold: for `low_confidence_dynamic`: reveal every token at least this confident. 0 to 1.
        entropy_bound: for `entropy_bound`: bound on the joint uncertainty of one step, in nats. 0 or more.
        factor: for `factor`: how much uncertainty one step may take on. Above 0.
        temperature: 0 proposes the most likely token, above 0 samples. 0, or 0.001 to 10.
        top_k: sample among the k most likely tokens only; 0 = all.
        top_p: sample among the likeliest tokens that hold this much probability. Above 0, up to 1.
        seed: of everything random. 0 to 2^63 - 1.
        lookahead: steps to guess in every pass: the same answer in fewer passes, for one conversation at a time; not
            while attention is observed. 0 to 8.
        reference_compatible: decode exactly as the published code does, its quirks and forward counts included.

    Raises:
        ValueError: naming the field, the value and the range.
    """

    block_size: int = 8
    steps: int = 8
    max_new_tokens: int = 128
    strategy: str = "low_confidence_static"
    threshold: float = 0.85
    entropy_bound: float = 0.5
    factor: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    lookahead: int = 0
    reference_compatible: bool = False

    def __post_init__(self) -> None:
        self._check_whole("block_size", 1, MAX_BLOCK_SIZE)
        self._check_whole("steps", 1, MAX_BLOCK_SIZE)
        self._check_whole("max_new_tokens", 1, MAX_NEW_TOKENS)
        self._check_whole("top_k", 0, 1_000_000)
        self._check_whole("seed", 0, 2**63 - 1)
        self._check_whole("lookahead", 0, MAX_LOOKAHEAD)
        self._check_real("threshold", 0.0, 1.0)
        self._check_real("entropy_bound", 0.0, 1000.0)
        self._check_real("factor", 0.0, 1000.0, open_below=True)
        self._check_real("temperature", 0.0, 10.0)
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise ValueError(f"temperature must be 0, or from {MIN_TEMPERATURE} on; got {self.temperature!r}.")
        self._check_real("top_p", 0.0, 1.0, open_below=True)
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}; got {self.strategy!r}.")
        if not isinstance(self.reference_compatible, bool):
            raise ValueError(f"reference_compatible must be True or False; got {self.reference_compatible!r}.")

    def _check_whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} must be a whole number from {low} to {high}; got {_said(value)}.")

    def _check_real(self, name: str, low: float, high: float, open_below: bool = False) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not low <= value <= high or (open_below and value == low):
            start = f"above {low:g} up to" if open_below else f"from {low:g} to"
            raise ValueError(f"{name} must be a number {start} {high:g}; got {_said(value)}.")

    def transfers(self, total: int | None = None) -> list[int]:
        """Least number of tokens each of the `steps` reveals: an even split, the remainder on the first steps.

        Args:
            total: tokens to share out; the block size by default.
        """
        share, extra = divmod(self.block_size if total is None else total, self.steps)
        return [share + (step < extra) for step in range(self.steps)]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-ready data."""
        return asdict(self)

    @classmethod
    def names(cls) -> set[str]:
        """Names of the fields, for telling settings from model inputs."""
        return {f.name for f in fields(cls)}
