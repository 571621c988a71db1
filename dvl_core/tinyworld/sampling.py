"""From a split and a seed to a picture: TinyWorld's random side.

Train and test cannot meet, twice over. Seeds are hashed together with the name of the split, and what a picture
*says* (its characters, values, givens or shapes, not its jitter) belongs to one split only: a checksum of the
content decides, and a drawn picture of the other split is drawn again.
"""

from __future__ import annotations

import random
import zlib
from functools import lru_cache
from itertools import permutations

from .pictures import (
    CANVAS,
    COLOURS,
    LETTERS,
    MAX_BARS,
    MAX_VALUE,
    MAX_WORD,
    PAPERS,
    SHAPES,
    SIZES,
    Chart,
    Picture,
    Scene,
    Shape,
    Sudoku,
    Word,
)

SPLITS = ("train", "test")
KINDS = ("scene", "word", "chart", "sudoku")
KIND_SHARES = (0.3, 0.3, 0.18, 0.22)
_DARK = tuple(c for c in COLOURS if c != "yellow")  # yellow characters on pale paper are hard to read


def split_of(picture: Picture) -> str:
    """The one split that a picture's content belongs to (an eighth of all contents is for testing)."""
    return "test" if zlib.crc32(repr(picture.content).encode()) % 8 == 0 else "train"


def rng_for(split: str, seed: int) -> random.Random:
    """The random stream of one sample.

    Raises:
        ValueError: if the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    return random.Random(f"tinyworld/{split}/{seed}")


def sample_picture(
    rng: random.Random, split: str, kind: str | None = None, shares: tuple[float, ...] = KIND_SHARES
) -> Picture:
    """Draw the content of a picture that belongs to `split`.

    Args:
        rng: random stream; advanced by the call.
        split: "train" or "test".
        kind: one of `KINDS`, or None to draw that too.
        shares: how often each of `KINDS` is drawn then.
    """
    kind = kind or rng.choices(KINDS, shares)[0]
    while True:
        picture = _SAMPLE[kind](rng)
        if split_of(picture) == split:
            return picture


def _sample_scene(rng: random.Random) -> Scene:
    count = rng.randint(1, 6)
    shapes = []
    for place in sorted(rng.sample(range(9), count)):
        size = rng.choice(SIZES)
        radius = rng.uniform(11.0, 13.5) if size == "large" else rng.uniform(6.0, 7.5)
        slack = 15.0 - radius
        shapes.append(
            Shape(
                kind=rng.choice(SHAPES),
                colour=rng.choice(tuple(COLOURS)),
                size=size,
                place=place,
                x=16 + 32 * (place % 3) + rng.uniform(-slack, slack) * 0.8,
                y=16 + 32 * (place // 3) + rng.uniform(-slack, slack) * 0.8,
                radius=radius,
            )
        )
    return Scene(tuple(shapes), rng.randrange(len(PAPERS)))


def _sample_word(rng: random.Random) -> Word:
    length = rng.choices(range(1, MAX_WORD + 1), (1, 2, 4, 5, 5, 5))[0]
    text = "".join(rng.choice(LETTERS) for _ in range(length))
    pitch = min(24.0, (CANVAS - 4) / length) * rng.uniform(0.9, 1.0)
    slack = CANVAS - pitch * length
    return Word(
        text=text,
        colour=rng.choice(_DARK),
        paper=rng.randrange(len(PAPERS)),
        pitch=pitch,
        x=rng.uniform(0.15, 0.85) * slack,
        y=CANVAS / 2 + rng.uniform(-18, 18),
        bold=rng.random() < 0.5,
    )


def _sample_chart(rng: random.Random) -> Chart:
    count = rng.randint(3, MAX_BARS)
    while True:
        values = tuple(rng.randint(1, MAX_VALUE) for _ in range(count))
        if values.count(max(values)) == 1 and values.count(min(values)) == 1:
            break
    if rng.random() < 0.5:
        colours = (rng.choice(tuple(COLOURS)),) * count
    else:
        colours = tuple(rng.sample(tuple(COLOURS), count))
    return Chart(values, colours, rng.randrange(len(PAPERS)))


@lru_cache(maxsize=1)
def solutions() -> tuple[tuple[int, ...], ...]:
    """All 288 filled 4 x 4 sudokus, in lexicographic order."""
    rows = list(permutations((1, 2, 3, 4)))
    found = []
    for a in rows:
        for b in rows:
            if {a[0], a[1], b[0], b[1]} != {1, 2, 3, 4} or {a[2], a[3], b[2], b[3]} != {1, 2, 3, 4}:
                continue
            for c in rows:
                for d in rows:
                    columns = all(len({a[i], b[i], c[i], d[i]}) == 4 for i in range(4))
                    if columns and {c[0], c[1], d[0], d[1]} == {1, 2, 3, 4}:
                        found.append(a + b + c + d)
    return tuple(found)


@lru_cache(maxsize=1)
def _cells() -> list[list[int]]:
    """For each (cell, digit), the solutions that have it, as one bit set: 16 lists of five integers."""
    table = [[0] * 5 for _ in range(16)]
    for number, grid in enumerate(solutions()):
        for cell, digit in enumerate(grid):
            table[cell][digit] |= 1 << number
    return table


def _unique(givens: list[int]) -> bool:
    left = (1 << len(solutions())) - 1
    for cell, digit in enumerate(givens):
        if digit:
            left &= _cells()[cell][digit]
    return left & (left - 1) == 0


def _sample_sudoku(rng: random.Random) -> Sudoku:
    solution = rng.choice(solutions())
    wanted = rng.randint(3, 9)
    givens, blanks = list(solution), 0
    for cell in rng.sample(range(16), 16):
        if blanks == wanted:
            break
        digit, givens[cell] = givens[cell], 0
        if _unique(givens):
            blanks += 1
        else:
            givens[cell] = digit
    return Sudoku(tuple(givens), solution, rng.choice(_DARK), rng.randrange(len(PAPERS)))


_SAMPLE = {"scene": _sample_scene, "word": _sample_word, "chart": _sample_chart, "sudoku": _sample_sudoku}
