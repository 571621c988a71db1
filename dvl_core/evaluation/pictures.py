"""A folder of anybody's pictures with questions.json as a benchmark: which answers count, and how many a model gives.

questions.json is a list of objects:

    {"file": "bars.png", "kind": "chart", "question": "Which bar is the tallest?", "answer": "…",
     "accept": ["…"], "must": ["…"], "must_not": ["…"]}        # the last three may be left out

An answer counts in one of two ways (case, runs of whitespace, surrounding quotes and a final full stop never matter):

1. It is `answer`, or one of `accept`.
2. The entry has `must`, and the answer states every phrase of it, word for word, and contradicts none: it holds no
   phrase of `must_not`, and of every family that `must` takes a word from (colours, shapes, places, numbers, yes and
   no) it holds no word that the right answers do not hold. With the answer "Top left, center. That makes two circles."
   and must ["two circles"], "Left. That makes two circles." counts: how many was asked, and where a shape lies in a
   picture without a grid is a matter of taste. "That makes two circles and three stars." does not.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..decoding import DecodingConfig
from ..tinyworld.pictures import COLOURS, PLACES, SHAPES
from ..tinyworld.questions import NUMBERS
from .asking import ask_model

INDEX = "questions.json"
FAMILIES = (  # words of which one excludes the others
    frozenset({*COLOURS, "grey"}),
    frozenset({*SHAPES, *(f"{shape}s" for shape in SHAPES), "crosses"}),
    frozenset(word for place in PLACES for word in place.split()),
    frozenset({*NUMBERS, "nine", "ten"}),
    frozenset({"yes", "no"}),
)
_TEXTS, _LISTS = ("file", "kind", "question", "answer"), ("accept", "must", "must_not")


def normalised(text: str) -> str:
    """Lower case, single spaces, without surrounding quotes and a final full stop."""
    return " ".join(text.casefold().split()).strip('"').removesuffix(".").strip('" ')


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _holds(text: str, phrase: str) -> bool:
    """Whether all words of the phrase stand in the text, together and whole."""
    return f" {' '.join(_words(phrase))} " in f" {' '.join(_words(text))} "


def _family(word: str) -> list[frozenset[str] | str]:
    """The families of a word; all numbers in digits are one."""
    return ["digits"] if word.isdigit() else [family for family in FAMILIES if word in family]


@dataclass(frozen=True)
class Question:
    """One entry of questions.json.

    Raises:
        ValueError: naming the field, if one is empty or of the wrong type, or if the answer itself would not count
            by `must` and `must_not`.
    """

    file: str
    kind: str
    question: str
    answer: str
    accept: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{name}={value!r} must be a text that is not empty")
        for name in _LISTS:
            value = getattr(self, name)
            if not all(isinstance(text, str) and _words(text) for text in value):
                raise ValueError(f"{name}={list(value)!r} must be a list of texts with at least one word each")
        if Path(self.file).name != self.file:
            raise ValueError(f"file={self.file!r} must be the name of a file in the same folder, without a path")
        if self.must_not and not self.must:
            raise ValueError("must_not has a meaning only beside must: add the phrases that an answer needs")
        if self.must and not self._states_the_facts(self.answer):
            raise ValueError(f"answer={self.answer!r} does not meet its own must={list(self.must)!r} and "
                             f"must_not={list(self.must_not)!r}")

    def counts(self, given: str) -> bool:
        """Whether `given` is a right answer, by the rules of this module."""
        if normalised(given) in {normalised(text) for text in (self.answer, *self.accept)}:
            return True
        return bool(self.must) and self._states_the_facts(given)

    def _states_the_facts(self, given: str) -> bool:
        if not all(_holds(given, phrase) for phrase in self.must):
            return False
        allowed = {word for text in (self.answer, *self.accept, *self.must) for word in _words(text)}
        settled = [family for phrase in self.must for word in _words(phrase) for family in _family(word)]
        contradicted = any(word not in allowed and family in settled for word in _words(given)
                           for family in _family(word))
        return not contradicted and not any(_holds(given, phrase) for phrase in self.must_not)


def _question(entry: Any) -> Question:
    if not isinstance(entry, Mapping):
        raise ValueError(f"it must be an object with {', '.join(_TEXTS)}")
    unknown = set(entry) - {*_TEXTS, *_LISTS}
    if unknown:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}; known are {', '.join((*_TEXTS, *_LISTS))}")
    for name in _LISTS:
        if not isinstance(entry.get(name, []), list):
            raise ValueError(f"{name}={entry[name]!r} must be a list of texts")
    texts = {name: entry.get(name) for name in _TEXTS}
    return Question(**texts, **{name: tuple(entry.get(name, ())) for name in _LISTS})


def open_picture(path: Path) -> Image.Image:
    """The picture, read to its end. Raises ValueError naming the file if it is missing or broken."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a picture that can be opened: {error}") from error


def load_questions(folder: str | Path) -> list[Question]:
    """Read and check questions.json, and that every picture opens.

    Raises:
        ValueError: naming the folder, or the number and file of the entry that is broken and its field.
    """
    index = Path(folder) / INDEX
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} needs a readable {INDEX}: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{index} must hold a list of at least one question")
    questions: list[Question] = []
    for number, entry in enumerate(entries):
        try:
            questions.append(_question(entry))
            if questions[-1].file not in {q.file for q in questions[:-1]}:
                open_picture(index.parent / questions[-1].file)
        except ValueError as error:
            name = entry.get("file") if isinstance(entry, Mapping) else None
            raise ValueError(f"{index}: entry {number} (file {name!r}): {error}") from error
    return questions


@dataclass(frozen=True)
class PictureScore:
    """What one kind of pictures gave.

    Attributes:
        kind: as in questions.json.
        questions: how many were asked.
        right: how many answers count.
        steps: denoising steps per answer (tokens per answer, for an autoregressive model).
        tokens_per_step: answer tokens, the end included, per denoising step.
        seconds: wall-clock time.
        mistakes: the wrong ones as (file, question, right answer, given answer).
    """

    kind: str
    questions: int
    right: int
    steps: float
    tokens_per_step: float
    seconds: float
    mistakes: tuple[tuple[str, str, str, str], ...]


def evaluate_pictures(
    model: Any, processor: Any, folder: str | Path, config: DecodingConfig | None = None, batch: int = 16
) -> Iterator[PictureScore]:
    """Ask a model all questions about a folder of pictures, one kind after the other.

    Args:
        model, processor: from `load_model`; a parent (enable_bd3lm False) answers autoregressively.
        folder: pictures and questions.json.
        config: decoding settings; `max_new_tokens` 96 and the model's block by default.
        batch: questions answered at once.

    Raises:
        ValueError: as `load_questions`; or if `batch` is below 1.
    """
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1")
    questions = load_questions(folder)
    config = config or model.default_config(max_new_tokens=96)
    for kind in dict.fromkeys(q.kind for q in questions):
        asked = [q for q in questions if q.kind == kind]
        began, given, tokens, steps = time.perf_counter(), [], 0, 0
        for start in range(0, len(asked), batch):
            items = [(open_picture(Path(folder) / q.file), q.question) for q in asked[start : start + batch]]
            for text, count, taken in ask_model(model, processor, items, config):
                given.append(text)
                tokens, steps = tokens + count, steps + taken
        wrong = tuple((q.file, q.question, q.answer, text) for q, text in zip(asked, given, strict=True)
                      if not q.counts(text))
        yield PictureScore(kind, len(asked), len(asked) - len(wrong), steps / len(asked), tokens / steps,
                           time.perf_counter() - began, wrong)


def share_right(scores: Iterable[PictureScore]) -> float:
    """Right answers of all kinds together, per question asked."""
    scores = list(scores)
    return sum(score.right for score in scores) / sum(score.questions for score in scores)
