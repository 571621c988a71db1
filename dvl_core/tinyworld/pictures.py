"""What TinyWorld pictures contain: scenes, texts, charts, tables, sudokus, sums, and pictures of nothing it knows.

A picture is plain data (a frozen dataclass); `drawing.draw` turns it into pixels. What it says is its content, how
it looks is its `Style`: only the content decides which split a picture belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass

CANVAS = 128  # longer side of the picture in drawing units; one merged patch of the bundled model covers 10.7 of them

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 90, 200),
    "yellow": (240, 205, 20),
    "purple": (140, 70, 180),
    "orange": (255, 127, 14),
    "black": (25, 25, 25),
    "brown": (125, 75, 40),
    "pink": (250, 140, 190),
    "gray": (130, 130, 130),
}
INKS = COLOURS | {"white": (245, 245, 245)}  # of texts; white ones stand on dark or coloured paper
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
MAX_SHAPES = 8
MAX_LINE, MAX_LINES = 12, 3  # of a text: characters per line, lines
MAX_PAGE_LINES = 6  # of a page that only the vision warm-up sees
MAX_READING = 9  # largest value that has to be read off the height of a bar or a point; larger ones are written


@dataclass(frozen=True)
class Style:
    """How a picture looks; nothing in it changes an answer.

    font: index into `pen.FONTS`, then `pen.MORE_FONTS`; paper, fade: background RGB, and what it fades to from top to
    bottom (None = plain); turn: degrees anticlockwise; line: width factor of lines; grain: standard deviation of noise,
    of 255; jpeg: quality of a compression, 0 = none; smooth: drawn with anti-aliasing; aspect: width / height;
    shade: added to every colour, RGB; edge: dark lines round shapes and bars; stretch: of shapes, width / height;
    wobble: shapes and letters are drawn by an unsteady hand, which strays by this share of their width; letters: size
    of lettering, as a factor; panel: RGB of a field
    behind a text, a sum or a sudoku, or of a table's head.
    """

    font: int = 0
    paper: tuple[int, int, int] = (255, 255, 255)
    fade: tuple[int, int, int] | None = None
    turn: float = 0.0
    line: float = 1.0
    grain: float = 0.0
    jpeg: int = 0
    smooth: bool = True
    aspect: float = 1.0
    shade: tuple[int, int, int] = (0, 0, 0)
    edge: bool = False
    stretch: float = 1.0
    wobble: float = 0.0
    letters: float = 1.0
    panel: tuple[int, int, int] | None = None

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in canvas units; the longer one is `CANVAS`."""
        return (CANVAS, CANVAS / self.aspect) if self.aspect >= 1 else (CANVAS * self.aspect, CANVAS)


PLAIN = Style()


@dataclass(frozen=True)
class Shape:
    """One coloured shape. `place` indexes `PLACES`; dx, dy (offset) and radius are shares of the place's shorter side;
    turn in degrees; outline: only its edge is drawn."""

    kind: str
    colour: str
    size: str
    place: int
    dx: float = 0.0
    dy: float = 0.0
    radius: float = 0.36
    turn: float = 0.0
    outline: bool = False


@dataclass(frozen=True)
class Scene:
    """Shapes in reading order, at most one in each of the nine places."""

    shapes: tuple[Shape, ...]
    style: Style = PLAIN

    @property
    def content(self) -> tuple:
        """Kind, colour, size and place of every shape."""
        return ("scene", *((s.place, s.kind, s.colour, s.size) for s in self.shapes))


@dataclass(frozen=True)
class Text:
    """One to three lines; `x`, `y` place it in what room is left (0 to 1), `fill` is its share of the room."""

    lines: tuple[str, ...]
    colour: str
    x: float = 0.5
    y: float = 0.5
    fill: float = 1.0
    style: Style = PLAIN

    @property
    def content(self) -> tuple:
        """The characters."""
        return ("text", *self.lines)

    @property
    def text(self) -> str:
        """All lines, joined by spaces."""
        return " ".join(self.lines)


@dataclass(frozen=True)
class Chart:
    """A bar, line or pie chart: one whole value per label; the largest and the smallest value are unique.

    numbers: values are written beside what shows them (always so in a pie); ticks: the axis has numbers;
    grid: horizontal lines; top: value at the upper end of the axis, 0 = as high as the chart's kind has it; step: of
    the axis' numbers; framed: lines all round; sideways: bars that lie (their numbers are written); scaled: the axis
    has numbers although values are written; inside: those are written within the bars; dots: on the points of a line;
    percent: a pie's numbers are followed by its sign; begin: degrees clockwise from the top at which a pie begins.
    `title` may be empty.
    """

    kind: str
    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[str, ...]
    numbers: bool = False
    ticks: bool = True
    grid: bool = True
    style: Style = PLAIN
    top: float = 0.0
    step: int = 3
    framed: bool = False
    sideways: bool = False
    scaled: bool = False
    inside: bool = False
    dots: bool = True
    percent: bool = False
    begin: float = 0.0

    @property
    def content(self) -> tuple:
        """Labels and values."""
        return ("chart", self.kind, *self.labels, *self.values)


@dataclass(frozen=True)
class Table:
    """A table of two columns: a header, and rows of a name and a whole number.

    lines: between the cells; striped: every other row on the style's panel; flush: cells begin at their left edge.
    """

    header: tuple[str, str]
    rows: tuple[tuple[str, int], ...]
    lines: bool = True
    style: Style = PLAIN
    striped: bool = False
    flush: bool = False

    @property
    def content(self) -> tuple:
        """Every cell."""
        return ("table", self.header, *self.rows)


@dataclass(frozen=True)
class Sudoku:
    """A 4 x 4 sudoku: `givens` and `solution` are 16 digits in reading order, 0 = blank; one solution only."""

    givens: tuple[int, ...]
    solution: tuple[int, ...]
    colour: str
    style: Style = PLAIN

    @property
    def content(self) -> tuple:
        """The givens."""
        return ("sudoku", *self.givens)

    @property
    def blanks(self) -> int:
        """Cells to fill in."""
        return self.givens.count(0)


@dataclass(frozen=True)
class Sum:
    """`first` + `second`, or `first` - `second` where that is not negative; `ending` stands behind it."""

    first: int
    sign: str
    second: int
    colour: str
    style: Style = PLAIN
    ending: str = " ="

    @property
    def content(self) -> tuple:
        """Both numbers and the sign."""
        return ("sum", self.first, self.sign, self.second)

    @property
    def result(self) -> int:
        """What it makes."""
        return self.first + self.second if self.sign == "+" else self.first - self.second


@dataclass(frozen=True)
class Other:
    """A texture with nothing in it that TinyWorld knows: `pattern` is one of `drawing.PATTERNS`, drawn from `seed`."""

    pattern: str
    seed: int
    style: Style = PLAIN

    @property
    def content(self) -> tuple:
        """The pattern and its seed."""
        return ("other", self.pattern, self.seed)


Picture = Scene | Text | Chart | Table | Sudoku | Sum | Other
