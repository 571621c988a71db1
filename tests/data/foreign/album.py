"""Writes the pictures of this folder and collects the questions about them."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib import pyplot as plt
from PIL import Image

HERE = Path(__file__).parent

entries: list[dict] = []


def save(kind: str, name: str, image: Image.Image, *questions: dict) -> None:
    """Write a picture and remember its questions; pictures of many colours get a palette, to stay small."""
    image = image.convert("RGB")
    file = f"{kind}_{name}.png"
    if image.getcolors(4096) is None or kind in ("chart", "page", "photo"):
        image = image.quantize(64 if kind in ("photo", "shapes") else 128, dither=Image.Dither.NONE)
    image.save(HERE / file, optimize=True)
    entries.extend({"file": file, "kind": kind, **question} for question in questions)


def asked(question: str, answer: str, *accept: str, must: tuple[str, ...] = ()) -> dict:
    """One question; `accept` and `must` as in dvl_core.evaluation.pictures."""
    entry = {"question": question, "answer": answer}
    return entry | ({"accept": list(accept)} if accept else {}) | ({"must": list(must)} if must else {})


def sized(question: str, answer: str) -> dict:
    """A question whose answer names one size: "small" and "large" are matters of taste, so both count."""
    other = answer.replace("large", "small") if "large" in answer else answer.replace("small", "large")
    return asked(question, answer, other)


def markdown(*rows: tuple[str, object]) -> str:
    head, *body = [f"| {a} | {b} |" for a, b in rows]
    return "\n".join([head, "|---|---|", *body])


def shot(fig) -> Image.Image:
    """A matplotlib figure as a picture."""
    stream = io.BytesIO()
    fig.savefig(stream)
    plt.close(fig)
    return Image.open(stream)
