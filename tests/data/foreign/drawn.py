"""Scenes of shapes and sketches: Pillow, SVG and matplotlib shapes, and strokes of a thick brush."""

from __future__ import annotations

import math

import numpy as np
from album import asked, save, shot, sized
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFilter


def ngon(x: float, y: float, r: float, corners: int, inner: float = 1.0, turn: float = 0.0) -> list:
    """Corners of a regular polygon, or of a star where `inner` is below 1; the first one points up."""
    count = corners if inner == 1.0 else 2 * corners
    reach = [r if inner == 1.0 or i % 2 == 0 else r * inner for i in range(count)]
    angles = [math.radians(turn - 90) + math.tau * i / count for i in range(count)]
    return [(x + k * math.cos(a), y + k * math.sin(a)) for k, a in zip(reach, angles, strict=True)]


def plus(x: float, y: float, r: float, arm: float) -> list:
    a = r * arm
    half = [(-a, -r), (a, -r), (a, -a), (r, -a), (r, a), (a, a)]
    return [(x + u, y + v) for u, v in half] + [(x - u, y - v) for u, v in half]


def box(x: float, y: float, r: float) -> list:
    return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]


class Canvas:
    """Pillow shapes in pixels; drawn `over` times as large and shrunk, so that edges are smooth."""

    def __init__(self, width: int, height: int, paper="white", over: int = 4) -> None:
        self.size, self.over = (width, height), over
        self.image = Image.new("RGB", (width * over, height * over), paper)
        self.pen = ImageDraw.Draw(self.image)

    def polygon(self, points: list, fill=None, outline=None, width: int = 0) -> None:
        points = [(x * self.over, y * self.over) for x, y in points]
        if fill:
            self.pen.polygon(points, fill=fill)
        if outline:
            self.pen.line([*points, *points[:2]], fill=outline, width=width * self.over, joint="curve")

    def circle(self, x: float, y: float, r: float, fill=None, outline=None, width: int = 0) -> None:
        ends = [(x - r) * self.over, (y - r) * self.over, (x + r) * self.over, (y + r) * self.over]
        self.pen.ellipse(ends, fill=fill, outline=outline, width=width * self.over)

    def done(self) -> Image.Image:
        return self.image.resize(self.size, Image.Resampling.LANCZOS) if self.over > 1 else self.image


def shapes() -> None:
    c = Canvas(320, 200)
    c.circle(52, 40, 30, "crimson")
    c.polygon(box(168, 105, 26), "royalblue")
    c.polygon(ngon(272, 158, 36, 5, 0.5), "gold")
    save("shapes", "three", c.done(),
         asked("How many shapes are there?", "Top left, center, bottom right. That makes three shapes.",
               must=("three shapes",)),
         asked("What colour is the star?", "The star at the bottom right is yellow.", "Yellow",
               must=("star", "yellow")))

    c = Canvas(200, 150)
    c.circle(36, 76, 25, outline="forestgreen", width=6)
    c.polygon([(164, 46), (192, 104), (138, 104)], outline="black", width=6)
    save("shapes", "outlines", c.done(), asked("where is the triangle", "At the right."),
         asked("Is there a red circle?", "No."))

    c = Canvas(400, 400, (30, 41, 59))
    c.polygon(ngon(200, 70, 55, 5, 0.382), "yellow")
    c.circle(72, 330, 48, (255, 150, 200))
    c.polygon(box(325, 325, 42), "darkorange")
    save("shapes", "night", c.done(), sized("What's at the bottom right?", "A large orange square."),
         asked("What color is the circle?", "The circle at the bottom left is pink.", "Pink", must=("circle", "pink")))

    c = Canvas(640, 360, "ivory")
    c.circle(325, 178, 58, "hotpink")
    save("shapes", "alone", c.done(), asked(
        "What is this?", "A large pink circle is at the center. That makes one shape.",
        must=("pink circle is at the center", "one shape")))

    c = Canvas(256, 256, over=1)
    for x, y in ((44, 40), (210, 48), (130, 214)):
        c.polygon(box(x, y, 26), "green" if x == 210 else "darkorange")
    for x, y in ((46, 128), (128, 126)):
        c.polygon(plus(x, y, 30, 0.22), "mediumblue")
    save("shapes", "jagged", c.done(),
         asked("How many squares can you count?", "Top left, top right, bottom. That makes three squares.",
               must=("three squares",)),
         asked("Is there an orange square in the picture?", "Yes: top left, bottom.", must=("yes",)))

    c = Canvas(300, 450, "white")
    c.polygon([(150, 18), (205, 130), (95, 130)], "purple")
    c.polygon([(150, 170), (225, 225), (150, 280), (75, 225)], "gray")
    c.polygon(plus(150, 375, 50, 0.42), "red")
    save("shapes", "tower", c.done(),
         sized("What is below the diamond?", "The diamond is at the center. Below it is a large red cross."),
         sized("Which shape is at the top?", "A large purple triangle."))

    shadow = Canvas(480, 320)
    c = Canvas(480, 320)
    for x, y, canvas, ink in ((8, 8, shadow, "lightgray"), (0, 0, c, None)):
        canvas.polygon([(400 + x, 15 + y), (440 + x, 55 + y), (400 + x, 95 + y), (360 + x, 55 + y)], ink or "#2563eb")
        canvas.polygon([(30 + x, 300 + y), (130 + x, 300 + y), (80 + x, 225 + y)], ink or "#f59e0b")
    lit = Image.composite(c.done(), shadow.done().filter(ImageFilter.GaussianBlur(5)),
                          c.done().convert("L").point(lambda v: 255 * (v < 250)))
    save("shapes", "shadows", lit, asked(
        "Describe the picture.", "A large blue diamond is at the top right. A large orange triangle is at the "
        "bottom left. That makes two shapes.",
        must=("blue diamond is at the top right", "orange triangle is at the bottom left", "two shapes")))

    c = Canvas(500, 500, "#fffdf5")
    rng = np.random.default_rng(5)
    c.polygon([(x + rng.normal(0, 3), y + rng.normal(0, 3)) for x, y in plus(95, 255, 62, 0.3)], "saddlebrown")
    c.polygon([(x + rng.normal(0, 4), y + rng.normal(0, 4)) for x, y in ngon(400, 250, 78, 5, 0.45)], "black")
    crayon = np.asarray(c.done(), float)
    crayon += (rng.normal(0, 14, crayon.shape[:2]) * (crayon.mean(2) < 200))[..., None]
    save("shapes", "crayon", Image.fromarray(crayon.clip(0, 255).astype(np.uint8)).resize((250, 250)),
         asked("Where do you see the star?", "At the right."),
         sized("What is left of the black star?", "The black star is at the right. Left of it is a large brown cross."))

    fig, ax = plt.subplots(figsize=(3, 3), dpi=100)
    for x, y, ink in ((0.6, 3.4, "limegreen"), (2.0, 2.1, "limegreen"), (3.4, 3.3, "sienna"), (3.3, 0.6, "limegreen")):
        ax.add_patch(plt.Circle((x, y), 0.55, color=ink))
    ax.set(xlim=(0, 4), ylim=(0, 4))
    ax.axis("off")
    save("shapes", "dots", shot(fig), asked(
        "How many green circles can you see?", "Top left, center, bottom right. That makes three green circles.",
        must=("three green circles",)))


SVGS = {
    "five": (800, 600, "#f4f1ea", """
        <circle cx="120" cy="110" r="75" fill="#e63946"/><circle cx="660" cy="90" r="60" fill="#1d3557"/>
        <circle cx="410" cy="310" r="70" fill="#e63946"/><rect x="60" y="420" width="140" height="140" fill="#2a9d3a"/>
        <polygon points="680,400 770,490 680,580 590,490" fill="#7b2cbf"/>"""),
    "ringed": (360, 240, "white", """
        <defs><linearGradient id="g" x2="0" y2="1"><stop offset="0" stop-color="#ff5a5a"/>
        <stop offset="1" stop-color="#c00"/></linearGradient></defs>
        <g stroke="black" stroke-width="4"><polygon fill="url(#g)"
        points="62,20 76,57 116,59 84,84 96,122 62,100 28,122 40,84 8,59 48,57" transform="translate(0,50)"/>
        <rect x="258" y="82" width="84" height="84" fill="#4285f4"/></g>"""),
    "tiles": (300, 300, "white", """
        <rect x="14" y="14" width="72" height="72" rx="8" fill="#ef4444"/>
        <rect x="212" y="16" width="72" height="72" rx="8" fill="#3b82f6"/>
        <rect x="16" y="212" width="72" height="72" rx="8" fill="#22a045"/>
        <rect x="214" y="210" width="72" height="72" rx="8" fill="#8c8c8c"/>"""),
    "stars": (600, 300, "#eef4ff", """
        <g fill="#f2c200"><polygon id="s" points="100,15 112,48 147,49 119,70 129,104 100,84 71,104 81,70 53,49 88,48"/>
        <use href="#s" x="395"/><use href="#s" x="200" y="190"/></g>
        <polygon points="300,10 345,95 255,95" fill="#d62828"/><circle cx="95" cy="250" r="36" fill="#222"/>"""),
}


def drawings(screenshot) -> None:
    """The SVG shapes; `screenshot(html, width, height)` gives a picture."""
    five, ringed, tiles, stars = (
        screenshot(f'<svg width="{w}" height="{h}" style="display:block;background:{paper}">{body}</svg>', w, h)
        for w, h, paper, body in SVGS.values())
    save("shapes", "five", five,
         asked("How many red circles are there?", "Top left, center. That makes two red circles.",
               must=("two red circles",)),
         sized("What is left of the diamond?",
               "The diamond is at the bottom right. Left of it is a large green square."))
    save("shapes", "ringed", ringed,
         asked("What colour is the star?", "The star at the left is red.", "Red", must=("star", "red")),
         asked("Find the blue square.", "At the right."))
    save("shapes", "tiles", tiles, sized("What shape is in the bottom left?", "A large green square."),
         asked("Does the picture have a circle?", "No."))
    save("shapes", "stars", stars,
         asked("Count the yellow stars.", "Top left, top right, bottom. That makes three yellow stars.",
               must=("three yellow stars",)),
         sized("What is on the bottom left?", "A large black circle."))


# Sketches


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list:
    """Points of an ellipse's arc, clockwise from `start` to `end` degrees (0 = right)."""
    angles = np.radians(np.linspace(start, end, 24))
    return list(zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True))


# Strokes in a box one unit high
LETTERS = {
    "H": [[(0, 0), (0, 1)], [(0.6, 0), (0.6, 1)], [(0, 0.5), (0.6, 0.5)]],
    "E": [[(0.55, 0), (0, 0), (0, 1), (0.55, 1)], [(0, 0.5), (0.45, 0.5)]],
    "L": [[(0, 0), (0, 1), (0.55, 1)]],
    "O": [arc(0.35, 0.5, 0.35, 0.5, -90, 275)],
    "c": [arc(0.28, 0.7, 0.28, 0.3, -40, -320)],
    "a": [arc(0.26, 0.7, 0.26, 0.3, -20, -350), [(0.52, 0.4), (0.52, 0.9), (0.6, 1)]],
    "t": [[(0.25, 0.1), (0.25, 0.9), (0.35, 1), (0.5, 0.95)], [(0, 0.4), (0.5, 0.4)]],
    "7": [[(0, 0), (0.55, 0), (0.2, 1)]],
    "2": [[*arc(0.28, 0.27, 0.27, 0.27, -170, 30), (0, 1), (0.58, 1)]],
    "4": [[(0.4, 0), (0, 0.65), (0.6, 0.65)], [(0.42, 0.35), (0.42, 1)]],
    "+": [[(0.3, 0.25), (0.3, 0.8)], [(0.02, 0.52), (0.58, 0.52)]],
    "=": [[(0, 0.4), (0.55, 0.4)], [(0, 0.65), (0.55, 0.65)]],
}


class Sketchpad:
    """A thick round brush on a transparent canvas, moved by an unsteady hand."""

    def __init__(self, width: int, height: int, seed: int) -> None:
        self.image = Image.new("RGBA", (width, height))
        self.pen, self.rng = ImageDraw.Draw(self.image), np.random.default_rng(seed)

    def stroke(self, points: list, ink: str, brush: int, jitter: float = 4.0) -> None:
        points = np.asarray(points, float)
        far = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
        at = np.linspace(0, far[-1], max(8, int(far[-1] / 3)))
        path = np.stack([np.interp(at, far, points[:, i]) for i in (0, 1)], 1)
        knots = np.linspace(0, far[-1], max(3, int(far[-1] / 40)))  # the hand wanders slowly
        path += np.stack([np.interp(at, knots, self.rng.normal(0, jitter, len(knots))) for _ in (0, 1)], 1)
        for x, y in path:
            self.pen.ellipse([x - brush / 2, y - brush / 2, x + brush / 2, y + brush / 2], fill=ink)

    def write(self, text: str, x: float, y: float, high: float, ink: str, brush: int) -> None:
        for character in text:
            for stroke in LETTERS.get(character, []):
                self.stroke([(x + u * high, y + v * high) for u, v in stroke], ink, brush, high / 60)
            x += high * (0.9 if character in LETTERS else 0.4)

    def done(self) -> Image.Image:
        return Image.alpha_composite(Image.new("RGBA", self.image.size, "white"), self.image)


def sketches() -> None:
    pad = Sketchpad(800, 800, 1)
    pad.stroke(arc(410, 390, 125, 115, -100, 275), "#e11d1d", 22, 7)
    save("sketch", "circle", pad.done(), sized("What shape is in the center?", "A large red circle."),
         asked("What colour is the circle?", "The circle at the center is red.", "Red", must=("circle", "red")))

    pad = Sketchpad(800, 600, 2)
    pad.stroke([(130, 40), (215, 180), (40, 175), (132, 38)], "#1d4ed8", 18)
    pad.stroke([(580, 420), (745, 415), (750, 570), (585, 575), (580, 415)], "#15803d", 18)
    save("sketch", "pair", pad.done(),
         asked("How many shapes are there?", "Top left, bottom right. That makes two shapes.", must=("two shapes",)),
         asked("Where did I draw the square?", "At the bottom right."))

    pad = Sketchpad(800, 400, 3)
    pad.write("HELLO", 60, 125, 150, "black", 18)
    save("sketch", "hello", pad.done(), asked("What did I write?", '"HELLO"'))

    pad = Sketchpad(600, 600, 4)
    star = ngon(115, 300, 85, 5)
    pad.stroke([star[i] for i in (0, 2, 4, 1, 3, 0)], "#f97316", 16, 3)
    diamond = [(480, 205), (560, 300), (480, 395), (400, 300), (480, 205)]
    pad.stroke(diamond, "#7e22ce", 14, 3)
    for y in range(225, 390, 11):  # filled by scribbling
        half = 80 * (1 - abs(y - 300) / 95)
        pad.stroke([(480 - half, y), (480 + half, y + 6)], "#7e22ce", 14, 2)
    save("sketch", "star", pad.done(), asked("Can you find a star?", "Yes: left.", must=("yes",)),
         sized("What's on the right?", "A large purple diamond."))

    pad = Sketchpad(600, 400, 5)
    pad.write("cat", 60, 90, 200, "#7b3f00", 22)
    save("sketch", "cat", pad.done(), asked("Read my word.", '"cat"'))

    pad = Sketchpad(800, 800, 6)
    pad.write("42", 200, 250, 290, "#111111", 26)
    save("sketch", "number", pad.done(), asked("Which number is this?", '"42"'))

    pad = Sketchpad(800, 400, 7)
    pad.write("7 + 2 =", 50, 130, 140, "#1e3a8a", 18)
    save("sketch", "sum", pad.done(), asked("Can you solve this?", "7 + 2 = 9", "9"))
