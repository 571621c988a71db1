"""The example pictures of the app: unseen TinyWorld pictures with a question each, drawn large.

    python -m dvl_core.tinyworld.examples --out assets/examples

A test holds the bundled model to the right answer of every one of them.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

from .pictures import CANVAS, Picture, Word, draw
from .questions import ask
from .sampling import rng_for, sample_picture, split_of

SIZE = 5 * CANVAS


@dataclass(frozen=True)
class Example:
    """A picture of the test split and what to ask about it; `question` is one of the task's wordings."""

    file: str
    title: str
    kind: str
    seed: int
    task: str
    question: str
    word: str = ""  # a word to write instead of the seed's own


EXAMPLES = (
    Example("shapes.png", "Describe a scene", "scene", 5036, "caption", "Describe the picture."),
    Example("place.png", "Look at one place", "scene", 5011, "place", "What is at the bottom right?"),
    Example("word.png", "Read a word", "word", 5001, "word", "What does it say?", word="CLOUD"),
    Example("backwards.png", "Read it backwards", "word", 5004, "reversed", "Read the word backwards.", word="WHALE"),
    Example("chart.png", "Chart to table", "chart", 5019, "table", "Turn the chart into a table."),
    Example("bars.png", "Find the tallest bar", "chart", 5004, "tallest", "Which bar is the tallest?"),
    Example("sudoku.png", "Solve a sudoku", "sudoku", 5001, "sudoku", "Solve the sudoku."),
    Example("puzzle.png", "A harder sudoku", "sudoku", 5030, "sudoku", "Solve the sudoku."),
)


def picture_of(example: Example) -> Picture:
    """The example's picture.

    Raises:
        ValueError: if its content belongs to the training split.
    """
    picture = sample_picture(rng_for("test", example.seed), "test", example.kind)
    if example.word:
        pitch = min(24.0, (CANVAS - 6) / len(example.word))
        left = (CANVAS - pitch * len(example.word)) / 2
        picture = Word(example.word, picture.colour, picture.paper, pitch, left, CANVAS / 2, bold=True)
    if split_of(picture) != "test":
        raise ValueError(f"{example.file}: the picture belongs to the training split")
    return picture


def answer_of(example: Example) -> str:
    """The right answer to the example's question."""
    picture = picture_of(example)
    for seed in range(10_000):  # the wording is drawn at random: draw until it is the example's
        question, answer = ask(random.Random(seed), picture, example.task)
        if question == example.question:
            return answer
    raise ValueError(f"{example.file}: {example.question!r} is not a wording of {example.task}")


def write_examples(folder: Path) -> None:
    """Draw all examples into `folder`, with examples.json beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for example in EXAMPLES:
        draw(picture_of(example), SIZE).save(folder / example.file, optimize=True)
        entries.append({"image": example.file, "question": example.question, "title": example.title,
                        "answer": answer_of(example)})
    (folder / "examples.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/examples"))
    write_examples(parser.parse_args().out)
