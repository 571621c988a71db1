"""TinyWorld's samples: one seed gives one picture and the conversations about it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .pictures import Picture
from .questions import ABSENT, ask, tasks_of
from .sampling import KIND_SHARES, rng_for, sample_picture

Turns = tuple[tuple[str, str], ...]  # (question, answer) pairs of one conversation

TASKS: dict[str, tuple[str, str]] = {  # benchmark task -> (kind of picture, question)
    "caption": ("scene", "caption"),
    "word": ("word", "word"),
    "reversed": ("word", "reversed"),
    "table": ("chart", "table"),
    "tallest": ("chart", "tallest"),
    "shortest": ("chart", "shortest"),
    "place": ("scene", "place"),
    "sudoku": ("sudoku", "sudoku"),
    "copy": ("sudoku", "copy"),
}

_SECOND_TURN, _ABSENT = 0.25, 0.05


@dataclass(frozen=True)
class Sample:
    """One picture and independent conversations about it (each one or two turns)."""

    picture: Picture
    conversations: tuple[Turns, ...]
    tasks: tuple[str, ...]  # what the last turn of each conversation asks for


def _some_task(rng: random.Random, picture: Picture) -> str:
    if rng.random() < _ABSENT:
        return rng.choice(tuple(ABSENT))
    return rng.choice(tasks_of(picture))


def sample(split: str, seed: int, conversations: int = 5, shares: tuple[float, ...] = KIND_SHARES) -> Sample:
    """The training sample of a seed: a picture and several conversations, a quarter of them with two turns.

    Args:
        split: "train" or "test".
        seed: any integer; the same seed gives the same sample everywhere.
        conversations: how many independent conversations to hold about the picture.
        shares: how often each of `sampling.KINDS` is drawn.
    """
    rng = rng_for(split, seed)
    picture = sample_picture(rng, split, shares=shares)
    tasks = list(tasks_of(picture))
    rng.shuffle(tasks)
    tasks += [_some_task(rng, picture) for _ in range(max(0, conversations - len(tasks)))]
    talks = []
    for task in tasks[:conversations]:
        turns = [ask(rng, picture, task)]
        if rng.random() < _SECOND_TURN:
            turns.insert(0, ask(rng, picture, _some_task(rng, picture)))
        talks.append(tuple(turns))
    return Sample(picture, tuple(talks), tuple(tasks[:conversations]))


def task_sample(task: str, split: str, seed: int) -> tuple[Picture, str, str]:
    """One benchmark item: picture, question and the exact answer.

    Raises:
        ValueError: if the task is unknown.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} must be one of {', '.join(TASKS)}")
    kind, question = TASKS[task]
    rng = rng_for(split, seed)
    picture = sample_picture(rng, split, kind)
    return picture, *ask(rng, picture, question)
