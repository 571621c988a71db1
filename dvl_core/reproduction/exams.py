"""What the models are asked: unseen pictures with their questions and exact answers, by task."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image

from ..evaluation.tinyworld import SEEDS_PER_RUN
from ..tinyworld import draw, task_sample
from ..tinyworld.pictures import CANVAS, Picture, Sudoku
from ..tinyworld.questions import ask
from ..tinyworld.sampling import rng_for, sample_sudoku, split_of
from .world import TASKS, plain, unseen

Item = tuple[Image, str, str]  # picture, question, exact answer
Exam = dict[str, list[Item]]


def small_exam(questions: int, seed: int) -> Exam:
    """So many questions of every task of the small world."""
    return {task: [_drawn(*unseen(task, number)) for number in _numbers(questions, seed)] for task in TASKS}


def tinyworld_exam(tasks: Sequence[str], questions: int, seed: int) -> Exam:
    """So many questions of these tasks of TinyWorld, the same that `dvl_core.evaluate` asks."""
    exam: Exam = {}
    for task in tasks:
        items = [task_sample(task, "test", number) for number in _numbers(questions, seed)]
        exam[task] = [(draw(picture), question, answer) for picture, question, answer in items]
    return exam


def sudoku_exam(blanks: Sequence[int], questions: int, seed: int, small: bool) -> Exam:
    """So many sudokus with each number of blanks; the task's name is that number.

    Args:
        small: drawn plainly, as in the small world.
    """
    exam: Exam = {}
    for count in blanks:
        exam[str(count)] = []
        for number in _numbers(questions, seed):
            rng = rng_for("test", number * 100 + count)
            picture = _sudoku(rng, count)
            picture = plain(picture) if small else picture
            item = (picture, *ask(rng, picture, "sudoku"))
            exam[str(count)].append(_drawn(*item) if small else (draw(picture), *item[1:]))
    return exam


def _sudoku(rng, blanks: int) -> Sudoku:
    while True:
        picture = sample_sudoku(rng, blanks)
        if picture.blanks == blanks and split_of(picture) == "test":
            return picture


def _numbers(questions: int, seed: int) -> range:
    return range(seed * SEEDS_PER_RUN, seed * SEEDS_PER_RUN + questions)


def _drawn(picture: Picture, question: str, answer: str) -> Item:
    return draw(picture, CANVAS), question, answer
