"""What can be asked about a TinyWorld picture, in which wordings, and the exact right answer.

A task maps a picture to (question, answer). The wording is drawn at random, then sometimes loses its capital or
its question mark, because visitors type like that. The answer never depends on the wording.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .pictures import PLACES, Chart, Picture, Scene, Shape, Sudoku, Word

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")

QUESTIONS: dict[str, tuple[str, ...]] = {
    "caption": (
        "Describe the picture.",
        "Describe this image.",
        "What do you see?",
        "What is in the picture?",
        "What does the picture show?",
        "Caption this.",
    ),
    "word": (
        "Read the word.",
        "What does it say?",
        "Which word is written here?",
        "What is written in the picture?",
        "Read the text.",
        "What is the word?",
    ),
    "reversed": (
        "Read the word backwards.",
        "What is the word in reverse?",
        "Spell the word backwards.",
        "Reverse the word.",
        "Read it backwards.",
    ),
    "table": (
        "Turn the chart into a table.",
        "Make a table of the chart.",
        "List the values of the bars.",
        "What are the values in the chart?",
        "Convert this chart to a table.",
    ),
    "tallest": (
        "Which bar is the tallest?",
        "Which bar is the highest?",
        "What is the tallest bar?",
        "Which bar has the largest value?",
    ),
    "shortest": (
        "Which bar is the shortest?",
        "Which bar is the lowest?",
        "What is the shortest bar?",
        "Which bar has the smallest value?",
    ),
    "place": (
        "What is at the {place}?",
        "Which shape is at the {place}?",
        "What do you see at the {place}?",
        "What shape is in the {place}?",
    ),
    "sudoku": (
        "Solve the sudoku.",
        "Solve this puzzle.",
        "Fill in the missing digits.",
        "What is the solution?",
        "Complete the grid.",
    ),
    "copy": (
        "Copy the grid.",
        "Read the grid.",
        "Write down the digits you see.",
        "Which digits are given?",
    ),
}

ABSENT = {  # asked about a picture of another kind
    "word": "There is no word in this picture.",
    "reversed": "There is no word in this picture.",
    "table": "There is no chart in this picture.",
    "tallest": "There is no chart in this picture.",
    "shortest": "There is no chart in this picture.",
    "place": "There are no shapes in this picture.",
    "sudoku": "There is no sudoku in this picture.",
    "copy": "There is no sudoku in this picture.",
}


def name_of(shape: Shape, article: str = "A") -> str:
    """ "A large red circle" """
    return f"{article} {shape.size} {shape.colour} {shape.kind}"


def grid_text(cells: tuple[int, ...]) -> str:
    """Sixteen digits as four lines; a blank is a full stop."""
    return "\n".join("".join(str(d) if d else "." for d in cells[r : r + 4]) for r in range(0, 16, 4))


def table_text(chart: Chart) -> str:
    """The chart as a Markdown table."""
    rows = "\n".join(f"| {'ABCDE'[i]} | {v} |" for i, v in enumerate(chart.values))
    return f"| Bar | Value |\n|---|---|\n{rows}"


def caption(picture: Picture) -> str:
    """The full description of a picture of any kind."""
    if isinstance(picture, Scene):
        parts = [f"{name_of(s)} is at the {PLACES[s.place]}." for s in picture.shapes]
        count = len(picture.shapes)
        return " ".join(parts) + f" That makes {NUMBERS[count]} shape{'' if count == 1 else 's'}."
    if isinstance(picture, Word):
        return f"The word {picture.text} is written in {picture.colour}."
    if isinstance(picture, Chart):
        tall, short = (f(picture.values) for f in (max, min))
        return (
            f"A bar chart with {NUMBERS[len(picture.values)]} bars. "
            f"Bar {'ABCDE'[picture.values.index(tall)]} is the tallest, with the value {tall}. "
            f"Bar {'ABCDE'[picture.values.index(short)]} is the shortest, with the value {short}."
        )
    return f"A sudoku with these digits:\n{grid_text(picture.givens)}"


def _extreme(chart: Chart, pick: Callable, word: str) -> str:
    value = pick(chart.values)
    return f"Bar {'ABCDE'[chart.values.index(value)]} is the {word}, with the value {value}."


def _answer(task: str, picture: Picture, place: int) -> str:
    if task == "caption":
        return caption(picture)
    if task == "word":
        return picture.text
    if task == "reversed":
        return picture.text[::-1]
    if task == "table":
        return table_text(picture)
    if task == "tallest":
        return _extreme(picture, max, "tallest")
    if task == "shortest":
        return _extreme(picture, min, "shortest")
    if task == "place":
        at = [s for s in picture.shapes if s.place == place]
        return f"{name_of(at[0])}." if at else "Nothing is there."
    return grid_text(picture.solution if task == "sudoku" else picture.givens)


_TASKS_OF = {
    Scene: ("caption", "place"),
    Word: ("caption", "word", "reversed"),
    Chart: ("caption", "table", "tallest", "shortest"),
    Sudoku: ("caption", "sudoku", "copy"),
}


def tasks_of(picture: Picture) -> tuple[str, ...]:
    """The tasks that a picture of this kind can be asked."""
    return _TASKS_OF[type(picture)]


def _phrase(rng: random.Random, task: str, place: int) -> str:
    text = rng.choice(QUESTIONS[task]).format(place=PLACES[place])
    if rng.random() < 0.2:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.2:
        text = text.rstrip(".?")
    return text


def ask(rng: random.Random, picture: Picture, task: str) -> tuple[str, str]:
    """A question of one task about a picture, and its answer.

    Asking for something that this kind of picture does not have (a word in a chart, say) gets the sentence that
    says so.

    Raises:
        KeyError: if the task is unknown.
    """
    place = rng.randrange(9)
    if task == "place" and isinstance(picture, Scene) and rng.random() < 0.75:
        place = rng.choice(picture.shapes).place  # most questions should have something to find
    question = _phrase(rng, task, place)
    if task not in tasks_of(picture):
        return question, ABSENT[task]
    return question, _answer(task, picture, place)
