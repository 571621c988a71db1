"""The page's examples: unseen TinyWorld pictures with a question each, drawn large.

    python -m dvl_core.tinyworld.examples --out assets/examples
    python -m dvl_core.tinyworld.examples --easy --out assets/tinylm/examples

They show what a model can do: their seeds were chosen among those that the bundled model answers right. The
language-model family knows easy pictures alone (`sampling.simplified`), and has examples of its own.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..folders import make_folder
from .drawing import draw
from .pictures import CANVAS, Picture, Style, Text
from .questions import ask
from .sampling import rng_for, sample_picture, split_of

SIZE = 4 * CANVAS


@dataclass(frozen=True)
class Example:
    """A picture of the test split and what to ask about it; `question` is one of the task's wordings."""

    file: str
    title: str
    kind: str
    seed: int
    task: str
    question: str
    lines: tuple[str, ...] = ()  # a text to write instead of the seed's own
    easy: bool = False


EXAMPLES = (
    Example("shapes.png", "Describe a scene", "scene", 7057, "caption", "Describe the picture."),
    Example("count.png", "Count shapes", "scene", 7153, "count", "How many red shapes are there?"),
    Example("word.png", "Read a sign", "text", 7943, "read", "What does the sign say?"),
    Example("backwards.png", "Read it backwards", "text", 7113, "reversed", "Read the word backwards."),
    Example("chart.png", "Find the largest", "chart", 7827, "largest", "Which value is the largest?"),
    Example("table.png", "Chart to table", "chart", 7867, "table", "Make a table of the chart."),
    Example("sudoku.png", "Solve a sudoku", "sudoku", 7122, "sudoku", "Solve the sudoku."),
    Example("texture.png", "What it can't read", "other", 5001, "caption", "What do you see?"),
)


EASY = (
    Example("shapes.png", "Describe a scene", "scene", 7003, "caption", "Describe the picture.", easy=True),
    Example("count.png", "Count shapes", "scene", 7057, "count", "How many red shapes are there?", easy=True),
    Example("word.png", "Read a sign", "text", 7000, "read", "What does the sign say?", ("Madrid",), easy=True),
    Example("backwards.png", "Read it backwards", "text", 7000, "reversed", "Read the word backwards.", ("Paris",),
            easy=True),
    Example("chart.png", "Find the largest", "chart", 7001, "largest", "Which value is the largest?", easy=True),
    Example("table.png", "Chart to table", "chart", 7002, "table", "Make a table of the chart.", easy=True),
    Example("sudoku.png", "Solve a sudoku", "sudoku", 7002, "sudoku", "Solve the sudoku.", easy=True),
    Example("texture.png", "What it can't read", "other", 7000, "caption", "What do you see?", easy=True),
)


def picture_of(example: Example) -> Picture:
    """The example's picture, without grain, compression or turn.

    Raises:
        ValueError: if its content belongs to the training split.
    """
    picture = sample_picture(rng_for("test", example.seed), "test", example.kind, easy=example.easy)
    if example.lines:
        picture = Text(example.lines, picture.colour, style=picture.style)
    plain = Style(font=picture.style.font, paper=picture.style.paper, aspect=max(1.0, picture.style.aspect))
    picture = replace(picture, style=plain)
    if split_of(picture) != "test":
        raise ValueError(f"{example.file}: the picture belongs to the training split")
    return picture


def answer_of(example: Example) -> str:
    """The right answer to the example's question."""
    picture = picture_of(example)
    for seed in range(10_000):  # the wording is drawn at random: draw until it is the example's
        turn = ask(random.Random(seed), picture, example.task)
        if turn is not None and turn[0] == example.question:
            return turn[1]
    raise ValueError(f"{example.file}: {example.question!r} is not a wording of {example.task}")


def write_examples(folder: Path, examples: Sequence[Example] = EXAMPLES) -> None:
    """Draw examples into `folder`, with examples.json beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for example in examples:
        draw(picture_of(example), SIZE).save(folder / example.file, optimize=True)
        entries.append({"image": example.file, "question": example.question, "title": example.title,
                        "answer": answer_of(example)})
    (folder / "examples.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.tinyworld.examples", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures and examples.json")
    parser.add_argument("--easy", action="store_true", help="those of the language-model family")
    options = parser.parse_args()
    try:
        make_folder("out", options.out)
    except ValueError as error:
        parser.error(str(error))
    write_examples(options.out, EASY if options.easy else EXAMPLES)
