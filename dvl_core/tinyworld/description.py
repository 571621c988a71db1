"""A picture in words: what a language model without eyes is trained to answer from."""

from __future__ import annotations

from .pictures import Chart, Picture, Sudoku
from .questions import caption, chart_sentence, grid_text, markdown


def describe(picture: Picture) -> str:
    """Everything that a question may ask about, and nothing worked out.

    A chart is a sentence and a table of its values (its extremes are left to find), a sudoku its grid; the rest is
    told as its caption does.
    """
    if isinstance(picture, Chart):
        rows = zip(picture.labels, picture.values, strict=True)
        return f"{chart_sentence(picture)}\n{markdown(('Label', 'Value'), rows)}"
    if isinstance(picture, Sudoku):
        return f"A sudoku with these digits:\n{grid_text(picture.givens)}"
    return caption(picture)
