"""From a split and a seed to a picture: TinyWorld's random side.

Train and test cannot meet, twice over. Seeds are hashed together with the name of the split, and what a picture
*says* (its characters, values, givens or shapes, not its jitter) belongs to one split only: a checksum of the
content decides, and a drawn picture of the other split is drawn again.
"""

from __future__ import annotations

import random
import string
import zlib
from dataclasses import replace
from functools import lru_cache
from itertools import permutations

from .drawing import PATTERNS
from .pen import FONTS
from .pictures import (
    COLOURS,
    MAX_LINE,
    MAX_LINES,
    MAX_PAGE_LINES,
    MAX_READING,
    MAX_SHAPES,
    SHAPES,
    SIZES,
    Chart,
    Other,
    Picture,
    Scene,
    Shape,
    Style,
    Sudoku,
    Sum,
    Table,
    Text,
)
from .words import COMMON, HEADERS, SERIES, TITLES

SPLITS = ("train", "test")
KINDS = ("scene", "text", "chart", "table", "sudoku", "sum", "other")
KIND_SHARES = (0.34, 0.22, 0.18, 0.08, 0.09, 0.05, 0.04)
CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
_UNSEEN_ON_DARK = {"black", "brown", "blue", "purple", "gray"}
_NAMES = tuple(word.title() for word in COMMON if 3 <= len(word) <= 7)


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
    rng: random.Random, split: str, kind: str | None = None, shares: tuple[float, ...] = KIND_SHARES,
    easy: bool = False,
) -> Picture:
    """Draw the content and the look of a picture that belongs to `split`.

    Args:
        rng: random stream; advanced by the call.
        split: "train" or "test".
        kind: one of `KINDS`, or None to draw that too.
        shares: how often each of `KINDS` is drawn then.
        easy: little content, plainly drawn; see `simplified`.
    """
    kind = kind or rng.choices(KINDS, shares)[0]
    while True:
        picture = simplified(_SAMPLE[kind](rng)) if easy else _SAMPLE[kind](rng)
        if split_of(picture) == split:
            return picture


def simplified(picture: Picture) -> Picture:
    """The same kind of picture with less in it, on plain white paper: what a curriculum begins with.

    At most three shapes in the middle of their places, one word of at most six characters, three bars A to C, a table
    of two rows, a sudoku with half of its blanks filled in, a sum of which one number has one digit.
    """
    plain = Style(font=picture.style.font)
    if isinstance(picture, Scene):
        shapes = tuple(replace(s, dx=0.0, dy=0.0, turn=0.0, outline=False) for s in picture.shapes[::2][:3])
        return replace(picture, shapes=shapes, style=plain)
    if isinstance(picture, Text):
        colour = "black" if picture.colour == "white" else picture.colour
        return Text((picture.text.replace(" ", "")[:6],), colour, style=plain)
    if isinstance(picture, Chart):
        values = tuple(1 + (value + 3 * i) % MAX_READING for i, value in enumerate(picture.values[:3]))
        if values.count(max(values)) > 1 or values.count(min(values)) > 1:
            values = (values[0] % 3 + 1, values[0] % 3 + 6, values[0] % 3 + 4)
        return Chart("bar", "", ("A", "B", "C"), values, picture.colours[:3], picture.numbers, style=plain)
    if isinstance(picture, Table):
        rows = tuple((name, value) for (name, _), value in zip(picture.rows[:2], _apart(picture.rows), strict=True))
        return replace(picture, rows=rows, lines=True, style=plain)
    if isinstance(picture, Sudoku):
        blank = [cell for cell, digit in enumerate(picture.givens) if not digit][::2]
        givens = tuple(0 if cell in blank else digit for cell, digit in enumerate(picture.solution))
        return replace(picture, givens=givens, style=plain)
    if isinstance(picture, Sum):
        first, second = picture.first, max(1, picture.second % 10)
        if picture.sign == "-" and second > first:
            first, second = second, first
        return replace(picture, first=first, second=second, style=plain)
    return picture


def _apart(rows: tuple[tuple[str, int], ...]) -> tuple[int, int]:
    """The values of the first two rows, made different."""
    (_, first), (_, second) = rows[:2]
    return first, second if second != first else first % 99 + 1


def sample_style(rng: random.Random, turn: float = 5.0, inks: tuple[str, ...] = ()) -> Style:
    """A look: most papers are light and plain; some are dark, where every ink can be seen on that.

    Args:
        rng: random stream.
        turn: largest angle, in degrees.
        inks: names of the colours that must stand out from the paper.
    """
    def tinted(low: int, high: int) -> tuple[int, int, int]:
        base = rng.randint(low, high)
        return tuple(max(0, min(255, base + rng.randint(-14, 14))) for _ in range(3))

    dark = rng.random() < 0.2 and not set(inks) & _UNSEEN_ON_DARK
    around = (15, 50) if dark else (225, 255)
    paper = (255, 255, 255) if not dark and rng.random() < 0.4 else tinted(*around)
    fade = tinted(*around) if rng.random() < 0.15 else None
    return Style(
        font=rng.randrange(len(FONTS)),
        paper=paper,
        fade=fade,
        turn=rng.uniform(-turn, turn) if rng.random() < 0.3 else 0.0,
        line=rng.uniform(0.7, 2.0),
        grain=rng.uniform(2, 10) if rng.random() < 0.2 else 0.0,
        jpeg=rng.randint(40, 90) if rng.random() < 0.2 else 0,
        smooth=rng.random() < 0.8,
        aspect=1.0 if rng.random() < 0.5 else rng.uniform(0.75, 1.6),
        shade=tuple(rng.randint(-14, 14) for _ in range(3)),
    )


def _colour(rng: random.Random, readable: bool = False) -> str:
    """Any colour; or one that characters on light paper can be read in."""
    return rng.choice(tuple(c for c in COLOURS if not readable or c not in ("yellow", "pink")))


def _sample_scene(rng: random.Random) -> Scene:
    places = sorted(rng.sample(range(9), rng.randint(1, MAX_SHAPES)))
    few = rng.sample(tuple(COLOURS), 3) if rng.random() < 0.5 else tuple(COLOURS)  # repeats make counting worthwhile
    kinds = rng.sample(SHAPES, 3) if rng.random() < 0.5 else SHAPES
    outlined = rng.random() < 0.2
    shapes = []
    for place in places:
        size = rng.choice(SIZES)
        radius = rng.uniform(0.34, 0.44) if size == "large" else rng.uniform(0.17, 0.23)
        slack = 0.46 - radius
        shapes.append(
            Shape(
                kind=rng.choice(kinds),
                colour=rng.choice(few),
                size=size,
                place=place,
                dx=rng.uniform(-slack, slack),
                dy=rng.uniform(-slack, slack),
                radius=radius,
                turn=rng.uniform(-10, 10) if rng.random() < 0.3 else 0.0,
                outline=outlined and size == "large",
            )
        )
    return Scene(tuple(shapes), sample_style(rng, 4.0, tuple(shape.colour for shape in shapes)))


def some_word(rng: random.Random, longest: int = MAX_LINE) -> str:
    """A common word or a random string, in capitals, in lower case or as a name."""
    if rng.random() < 0.5:
        word = rng.choice([w for w in COMMON if len(w) <= longest])
        return rng.choice((str.upper, str.lower, str.title))(word)
    length = min(longest, rng.choices(range(1, MAX_LINE + 1), (1, 2, 4, 5, 5, 5, 4, 4, 3, 3, 2, 2))[0])
    alphabet = rng.choice((string.ascii_uppercase, string.ascii_lowercase, CHARACTERS, string.digits))
    return "".join(rng.choice(alphabet) for _ in range(length))


def _sample_text(rng: random.Random) -> Text:
    if rng.random() < 0.65:
        lines: tuple[str, ...] = (some_word(rng),)
    else:
        case = rng.choice((str.upper, str.lower, str.title))
        lines = ()
        for _ in range(rng.randint(1, MAX_LINES)):
            line = case(rng.choice(COMMON))
            while len(line) < 9 and rng.random() < 0.7:
                more = f"{line} {case(rng.choice(COMMON))}"
                line = more if len(more) <= MAX_LINE else line
            lines += (line,)
    colour = _colour(rng, readable=True)
    style = sample_style(rng, inks=(colour,))
    if rng.random() < 0.15:  # a sign
        paper = COLOURS[rng.choice(tuple(c for c in COLOURS if c not in ("yellow", "pink")))]
        colour, style = "white", replace(style, paper=paper, fade=None)
    return Text(lines, colour, rng.random(), rng.random(), rng.uniform(0.7, 1.0), style)


def sample_page(rng: random.Random) -> Text:
    """Four to six lines full of characters, about 50 of them: what the vision warm-up learns to read from.

    No question is asked about such a page, so it belongs to no split.
    """
    lines = []
    for _ in range(rng.randint(4, MAX_PAGE_LINES)):
        line = some_word(rng)
        while len(line) < MAX_LINE - 1 and rng.random() < 0.9:
            line = f"{line}{rng.choice((' ', ''))}{some_word(rng)}"
        lines.append(line[:MAX_LINE])
    colour = _colour(rng, readable=True)
    style = sample_style(rng, inks=(colour,))
    return Text(tuple(lines), colour, rng.random(), rng.random(), rng.uniform(0.7, 1.0), style)


def _labels(rng: random.Random, count: int) -> tuple[str, ...]:
    way = rng.random()
    if way < 0.35:
        return tuple(string.ascii_uppercase[:count])
    if way < 0.65:
        return tuple(rng.sample(string.ascii_uppercase, count))
    if way < 0.85:
        series = rng.choice(SERIES)
        first = rng.randint(0, len(series) - count)
        return series[first : first + count]
    return tuple(rng.sample([w for w in _NAMES if len(w) <= 5], count))


def distinct_extremes(rng: random.Random, count: int, low: int, high: int) -> tuple[int, ...]:
    while True:
        values = tuple(rng.randint(low, high) for _ in range(count))
        if values.count(max(values)) == 1 and values.count(min(values)) == 1:
            return values


def _sample_chart(rng: random.Random) -> Chart:
    kind = rng.choices(("bar", "line", "pie"), (0.6, 0.2, 0.2))[0]
    count = rng.randint(3, 5 if kind == "pie" else 6)
    numbers = kind == "pie" or rng.random() < 0.4
    if kind == "pie":
        values = distinct_extremes(rng, count, 10, 60)
    else:
        values = distinct_extremes(rng, count, 1, 99 if numbers else MAX_READING)
    alike = kind == "line" or (kind == "bar" and rng.random() < 0.5)
    colours = (_colour(rng),) * count if alike else tuple(rng.sample(tuple(COLOURS), count))
    return Chart(
        kind, rng.choice(TITLES) if rng.random() < 0.5 else "", _labels(rng, count), values, colours, numbers,
        ticks=rng.random() < 0.6, grid=rng.random() < 0.7, style=sample_style(rng, 1.0, colours),
    )


def _sample_table(rng: random.Random) -> Table:
    count = rng.randint(2, 4)
    values = distinct_extremes(rng, count, 1, 99)
    if rng.random() < 0.6:
        names = tuple(rng.sample(_NAMES, count))
    else:
        names = _labels(rng, count)
    return Table(rng.choice(HEADERS), tuple(zip(names, values, strict=True)), rng.random() < 0.7,
                 sample_style(rng, turn=1.5))


def _sample_sum(rng: random.Random) -> Sum:
    first, second = (rng.randint(1, 9 if rng.random() < 0.3 else 99) for _ in range(2))
    sign = rng.choice("+-")
    if sign == "-" and second > first:
        first, second = second, first
    colour = _colour(rng, readable=True)
    return Sum(first, sign, second, colour, sample_style(rng, 3.0, (colour,)))


def _sample_other(rng: random.Random) -> Other:
    return Other(rng.choice(PATTERNS), rng.randrange(2**31), sample_style(rng))


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


def sample_sudoku(rng: random.Random, wanted: int) -> Sudoku:
    """A sudoku with `wanted` blanks, or as many as leave a single solution (12 at most)."""
    solution = rng.choice(solutions())
    givens, blanks = list(solution), 0
    for cell in rng.sample(range(16), 16):
        if blanks == wanted:
            break
        digit, givens[cell] = givens[cell], 0
        if _unique(givens):
            blanks += 1
        else:
            givens[cell] = digit
    colour = _colour(rng, readable=True)
    return Sudoku(tuple(givens), solution, colour, sample_style(rng, 2.0, (colour,)))


_SAMPLE = {
    "scene": _sample_scene, "text": _sample_text, "chart": _sample_chart, "table": _sample_table,
    "sudoku": lambda rng: sample_sudoku(rng, rng.randint(3, 11)), "sum": _sample_sum, "other": _sample_other,
}
