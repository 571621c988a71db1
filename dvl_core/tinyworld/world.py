"""TinyWorld's samples: one seed gives one picture and the conversations about it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .pictures import Other, Picture
from .questions import ABSENT, ask, tasks_of
from .sampling import KIND_SHARES, rng_for, sample_picture, split_of
from .wild import wild as made_wild

Turns = tuple[tuple[str, str], ...]  # (question, answer) pairs of one conversation

TASKS: dict[str, tuple[str, str]] = {  # benchmark task -> (kind of picture, question)
    "caption": ("scene", "caption"),
    "place": ("scene", "place"),
    "count": ("scene", "count"),
    "exists": ("scene", "exists"),
    "where": ("scene", "where"),
    "colour": ("scene", "colour"),
    "beside": ("scene", "beside"),
    "read": ("text", "read"),
    "reversed": ("text", "reversed"),
    "chart": ("chart", "table"),
    "largest": ("chart", "largest"),
    "smallest": ("chart", "smallest"),
    "value": ("chart", "value"),
    "title": ("chart", "title"),
    "table": ("table", "table"),
    "cell": ("table", "value"),
    "sudoku": ("sudoku", "sudoku"),
    "copy": ("sudoku", "copy"),
    "sum": ("sum", "sum"),
    "other": ("other", "caption"),
}

_SECOND_TURN, _ABSENT = 0.2, 0.05


@dataclass(frozen=True)
class Sample:
    """One picture and independent conversations about it (each one or two turns)."""

    picture: Picture
    conversations: tuple[Turns, ...]
    tasks: tuple[str, ...]  # what the last turn of each conversation asks for


def _some_task(rng: random.Random, picture: Picture) -> str:
    if rng.random() < _ABSENT or isinstance(picture, Other):
        return rng.choice(tuple(ABSENT))
    return rng.choice(tasks_of(picture))


def _asked(rng: random.Random, picture: Picture, task: str, freely: bool) -> tuple[str, str, str]:
    """Task, question and answer; another task where this picture leaves nothing to ask."""
    while True:
        turn = ask(rng, picture, task, freely)
        if turn is not None:
            return task, *turn
        task = _some_task(rng, picture)


def sample(split: str, seed: int, conversations: int = 5, shares: tuple[float, ...] = KIND_SHARES,
           easy: float = 0.0, wild: float = 0.0) -> Sample:
    """The training sample of a seed: a picture and several conversations, a fifth of them with two turns.

    Args:
        split: "train" or "test".
        seed: any integer; the same seed gives the same sample everywhere.
        conversations: how many independent conversations to hold about the picture.
        shares: how often each of `sampling.KINDS` is drawn.
        easy: probability of an easy picture (`sampling.simplified`).
        wild: probability of a picture as others would make it (`wild.wild`), asked about in other words too; of the
            training split alone.

    Raises:
        ValueError: for wild pictures of the test split.
    """
    if wild and split != "train":
        raise ValueError(f"wild={wild}: only the training split has wild pictures")
    rng = rng_for(split, seed)
    picture = sample_picture(rng, split, shares=shares, easy=easy > 0 and rng.random() < easy)
    freely = bool(wild) and rng.random() < wild
    if freely:
        other = made_wild(rng, picture)
        picture = other if split_of(other) == split else picture
    tasks = list(tasks_of(picture))
    rng.shuffle(tasks)
    tasks += [_some_task(rng, picture) for _ in range(max(0, conversations - len(tasks)))]
    talks, asked = [], []
    for wanted in tasks[:conversations]:
        task, *turn = _asked(rng, picture, wanted, freely)
        turns = [tuple(turn)]
        if rng.random() < _SECOND_TURN:
            turns.insert(0, tuple(_asked(rng, picture, _some_task(rng, picture), freely)[1:]))
        talks.append(tuple(turns))
        asked.append(task)
    return Sample(picture, tuple(talks), tuple(asked))


def task_sample(task: str, split: str, seed: int, easy: bool = False) -> tuple[Picture, str, str]:
    """One benchmark item: picture, question and the exact answer; `easy` for a picture with little in it
    (`sampling.simplified`).

    Raises:
        ValueError: if the task is unknown.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} must be one of {', '.join(TASKS)}")
    kind, question = TASKS[task]
    rng = rng_for(split, seed)
    while True:
        picture = sample_picture(rng, split, kind, easy=easy)
        turn = ask(rng, picture, question)
        if turn is not None:
            return picture, *turn
