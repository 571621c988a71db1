"""Links that bring back a question, an example and settings: `?ask=...&example=chart.png&steps=4`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

NO_PICTURE = "A link holds the question and the settings; your own picture can't be part of it."
LONGEST = 2000  # characters of a question in a link; browsers and servers take more, people don't


@dataclass(frozen=True)
class Wanted:
    """What a link asks for; empty where it says nothing, or nothing that makes sense.

    Attributes:
        question: text.
        example: file name of an example's picture.
        numbers: setting -> number, not checked for its range.
        strategy: name, not checked.
    """

    question: str = ""
    example: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    strategy: str = ""


def query(question: str, picture: str, examples: Sequence[Mapping[str, str]], settings: Mapping[str, Any]) -> str:
    """The query string of a link, with its question mark; a picture of one's own can't be part of it."""
    asked = {"ask": question[:LONGEST]} if question else {}
    shown = {"example": picture} if picture in {example["image"] for example in examples} else {}
    return "?" + urlencode({**asked, **shown, **{name: f"{value}" for name, value in settings.items()}})


def read(parameters: Mapping[str, str], examples: Sequence[Mapping[str, str]]) -> Wanted:
    """What the parameters of an address ask for; an example that doesn't exist and what is no number is left out."""
    numbers: dict[str, float] = {}
    for name, value in parameters.items():
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number):
            numbers[name] = int(number) if number.is_integer() else number
    known = {example["image"] for example in examples}
    question, example = parameters.get("ask", "")[:LONGEST], parameters.get("example", "")
    return Wanted(question, example if example in known else "", numbers, parameters.get("strategy", ""))
