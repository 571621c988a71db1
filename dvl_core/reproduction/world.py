"""TinyWorld made smaller: plain pictures with little in them, so that a model of a million weights learns them in
minutes. Contents, questions, answers and the train / test split are TinyWorld's own."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from ..tinyworld.pictures import MAX_READING, Chart, Picture, Scene, Style, Sudoku
from ..tinyworld.questions import ask, caption, grid_text, markdown
from ..tinyworld.sampling import rng_for, sample_picture, sample_sudoku, split_of

STYLE = Style(font=4)  # one font, white paper, no turn, no grain
TASKS: dict[str, str] = {  # task -> kind of picture
    "caption": "scene", "place": "scene", "table": "chart",
    "largest": "chart", "copy": "sudoku", "sudoku": "sudoku",
}
KINDS, SHARES = ("scene", "chart", "sudoku"), (0.45, 0.15, 0.4)  # of training pictures: charts are learnt first
RADII = {"small": 0.2, "large": 0.4}
MAX_SHAPES = 2
LABELS = ("A", "B", "C", "D")  # of the bars
BLANKS = (2, 11)  # of a sudoku: fewest, most
CONVERSATIONS = 3  # per picture in training


@dataclass(frozen=True)
class Talk:
    """A picture and single-turn conversations about it: (task, question, answer)."""

    picture: Picture
    turns: tuple[tuple[str, str, str], ...]


def plain(picture: Picture) -> Picture:
    """The same content on white paper, upright, in one font."""
    return replace(picture, style=STYLE)


def _simple(rng: random.Random, split: str, kind: str) -> Picture:
    """A plain picture of a kind; what it says may belong to either split."""
    if kind == "sudoku":
        return plain(sample_sudoku(rng, rng.randint(*BLANKS)))
    picture = sample_picture(rng, split, kind)
    if isinstance(picture, Scene):
        count = rng.randint(1, min(MAX_SHAPES, len(picture.shapes)))
        shapes = sorted(rng.sample(picture.shapes, count), key=lambda shape: shape.place)
        upright = {"dx": 0.0, "dy": 0.0, "outline": False, "turn": 0.0}
        return Scene(tuple(replace(s, radius=RADII[s.size], **upright) for s in shapes), STYLE)
    values = [rng.randint(1, MAX_READING) for _ in LABELS]
    while values.count(max(values)) > 1 or values.count(min(values)) > 1:
        values = [rng.randint(1, MAX_READING) for _ in LABELS]
    return Chart("bar", "", LABELS, tuple(values), picture.colours[:1] * len(LABELS), ticks=False, style=STYLE)


def small_picture(rng: random.Random, split: str, kind: str) -> Picture:
    """A plain picture of `kind` whose content belongs to `split`."""
    while True:
        picture = _simple(rng, split, kind)
        if split_of(picture) == split:
            return picture


def talk(seed: int) -> Talk:
    """The training sample of a seed: a plain picture and `CONVERSATIONS` questions about it."""
    rng = rng_for("train", seed)
    kind = rng.choices(KINDS, SHARES)[0]
    picture = small_picture(rng, "train", kind)
    tasks = [task for task, of in TASKS.items() if of == kind]
    rng.shuffle(tasks)
    tasks += [rng.choice(tasks) for _ in range(CONVERSATIONS - len(tasks))]
    return Talk(picture, tuple((task, *ask(rng, picture, task)) for task in tasks))


def unseen(task: str, seed: int) -> tuple[Picture, str, str]:
    """A question about a picture that training never draws, and its exact answer."""
    rng = rng_for("test", seed)
    picture = small_picture(rng, "test", TASKS[task])
    return picture, *ask(rng, picture, task)


def description(picture: Picture) -> str:
    """Everything a question may ask about, in words: what a language model without a vision tower reads."""
    if isinstance(picture, Chart):
        return markdown(("Label", "Value"), zip(picture.labels, picture.values, strict=True))
    if isinstance(picture, Sudoku):
        return grid_text(picture.givens)
    return caption(picture)
