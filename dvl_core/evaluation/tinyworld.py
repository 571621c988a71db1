"""Exact match on unseen TinyWorld pictures, through the same processor and decoder that a visitor uses."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..decoding import DecodingConfig
from ..tinyworld import TASKS, draw, task_sample
from .asking import ask_model

SEEDS_PER_RUN = 1_000_000  # seeds of different runs never overlap


@dataclass(frozen=True)
class TaskScore:
    """What one task gave.

    Attributes:
        task: name in `tinyworld.TASKS`.
        samples: questions asked.
        exact: share of answers that are right to the last character.
        steps: denoising steps per answer (tokens per answer, for an autoregressive model).
        tokens_per_step: answer tokens, its end included, per denoising step.
        seconds: wall-clock time of the task.
        mistakes: the first few wrong ones as (seed, question, right answer, given answer).
    """

    task: str
    samples: int
    exact: float
    steps: float
    tokens_per_step: float
    seconds: float
    mistakes: tuple[tuple[int, str, str, str], ...]


def evaluate_task(
    model: Any, processor: Any, task: str, samples: int, seed: int = 0, config: DecodingConfig | None = None,
    batch: int = 16, easy: bool = False,
) -> TaskScore:
    """Exact match of one task on test pictures.

    Args:
        model, processor: from `load_model`; a parent (enable_bd3lm False) answers autoregressively.
        task: name in `tinyworld.TASKS`.
        samples: how many questions.
        seed: which test pictures.
        config: decoding settings; `max_new_tokens` 96 and the model's block by default.
        batch: questions answered at once.
        easy: about pictures with little in them.
    """
    if samples < 1:
        raise ValueError(f"samples={samples} must be at least 1")
    config = config or model.default_config(max_new_tokens=96)
    began, right, tokens, steps, mistakes = time.perf_counter(), 0, 0, 0, []
    for start in range(0, samples, batch):
        seeds = [seed * SEEDS_PER_RUN + i for i in range(start, min(start + batch, samples))]
        asked = [task_sample(task, "test", s, easy) for s in seeds]
        answers = ask_model(model, processor, [(draw(picture), question) for picture, question, _ in asked], config)
        for number, (_, question, wanted), (given, count, taken) in zip(seeds, asked, answers, strict=True):
            right += given == wanted
            tokens, steps = tokens + count, steps + taken
            if given != wanted and len(mistakes) < 5:
                mistakes.append((number, question, wanted, given))
    return TaskScore(
        task=task,
        samples=samples,
        exact=right / samples,
        steps=steps / samples,
        tokens_per_step=tokens / steps,
        seconds=time.perf_counter() - began,
        mistakes=tuple(mistakes),
    )


def evaluate(
    model: Any, processor: Any, tasks: Iterable[str] | None = None, samples: int = 200, seed: int = 0,
    config: DecodingConfig | None = None, batch: int = 16, easy: bool = False,
) -> Iterator[TaskScore]:
    """`evaluate_task` for several tasks (all of them by default), one score at a time.

    Raises:
        ValueError: naming an unknown task.
    """
    names = list(TASKS) if tasks is None else list(tasks)
    for name in names:
        if name not in TASKS:
            raise ValueError(f"task {name!r} must be one of {', '.join(TASKS)}")
    for name in names:
        yield evaluate_task(model, processor, name, samples, seed, config, batch, easy)


def mean_exact(scores: Iterable[TaskScore]) -> float:
    """Exact match averaged over tasks."""
    values = [score.exact for score in scores]
    return sum(values) / len(values)
