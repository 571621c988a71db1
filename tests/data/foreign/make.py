"""Draws the pictures of this folder and writes questions.json: what a visitor might upload, made without TinyWorld.

    python tests/data/foreign/make.py            # needs matplotlib, Pillow, playwright and Chromium

Charts are matplotlib's, at its default style; shapes come from Pillow, SVG and matplotlib; texts, tables and signs are
screenshots of web pages; sketches are jittery strokes of a thick brush, laid on white as Gradio lays them; photographs
and maps are matplotlib's sample data, all in the public domain. Nothing here is ever trained on, and no test runs this
file.

What is fair: every picture shows what the application says it can read, with shapes well inside one of the nine
places, and what is asked about can be read by a person from the picture shrunk to 128 pixels, which is what the
bundled model sees. Charts are therefore small figures: at 640 pixels the default labels would be three pixels high.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from album import HERE, asked, entries, markdown, save, shot
from drawn import drawings, shapes, sketches
from matplotlib import cbook
from matplotlib import pyplot as plt
from matplotlib.colors import LightSource
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

FONTS = Path("/usr/share/fonts/truetype/liberation")
UNKNOWN = "I can't read this picture. I know shapes, texts, charts, tables, sums and sudokus."
NO_SHAPES = "There are no shapes in this picture."


# Charts


def figure(width: float, height: float, dpi: int = 100):
    return plt.subplots(figsize=(width, height), dpi=dpi, layout="constrained")


def charts() -> None:
    fig, ax = figure(2.6, 2.0)
    ax.bar(["Mon", "Tue", "Wed", "Thu"], [3, 7, 5, 2])
    save("chart", "days", shot(fig), asked("What is the value of Tue?", '"Tue" has the value 7.'),
         asked("Which day has the smallest value?", '"Thu" has the smallest value, 2.'))

    fig, ax = figure(2.6, 2.2)
    ax.bar_label(ax.bar(["Apple", "Pear", "Plum"], [12, 30, 21]))
    ax.set_title("Fruit")
    ax.margins(y=0.15)
    save("chart", "fruit", shot(fig), asked("What's the title of this chart?", 'The title is "Fruit".'),
         asked("Turn the chart into a table.", markdown(("Label", "Value"), ("Apple", 12), ("Pear", 30), ("Plum", 21))))

    fig, ax = figure(2.4, 2.4)
    ax.bar(list("ABCDE"), [4, 1, 6, 9, 3], color=["C0", "C1", "C2", "C3", "C4"])
    ax.set_yticks(range(0, 10))
    ax.grid(axis="y")
    save("chart", "letters", shot(fig), asked("which bar is the tallest", '"D" has the largest value, 9.'),
         asked("What is the value of E?", '"E" has the value 3.'))

    fig, ax = figure(2.4, 2.0)
    bars = ax.barh(["Cat", "Dog", "Cow"], [15, 42, 8])
    ax.bar_label(bars)
    ax.margins(x=0.2)
    save("chart", "sideways", shot(fig), asked("How much is Dog?", '"Dog" has the value 42.'))

    fig, ax = figure(2.6, 2.0)
    ax.plot(["Jan", "Feb", "Mar", "Apr"], [2, 5, 8, 4], marker="o")
    ax.set_yticks(range(0, 10, 2))
    save("chart", "months", shot(fig), asked("In which month is the maximum?", '"Mar" has the largest value, 8.'),
         asked("What value does Jan have?", '"Jan" has the value 2.'))

    fig, ax = figure(2.5, 2.2)
    ax.plot(["P", "Q", "R", "S", "T"], [6, 3, 7, 1, 5])
    ax.set_title("Goals")
    ax.set_ylim(0, 9)
    save("chart", "goals", shot(fig), asked("What is the lowest value?", '"S" has the smallest value, 1.'),
         asked("What is the chart called?", 'The title is "Goals".'))

    fig, ax = figure(2.2, 2.2)
    ax.pie([45, 30, 25], labels=["tea", "milk", "cola"], autopct="%1.0f%%")
    save("chart", "drinks", shot(fig), asked("Which slice is the biggest?", '"tea" has the largest value, 45.'))

    fig, ax = figure(2.2, 2.2)
    values = [12, 20, 38, 30]
    ax.pie(values, labels=list("ABCD"), autopct=lambda share: f"{share * sum(values) / 100:.0f}")
    ax.set_title("Votes")
    save("chart", "votes", shot(fig), asked("Which slice is the smallest?", '"A" has the smallest value, 12.'),
         asked("What's the value of slice C?", '"C" has the value 38.'))

    with plt.rc_context({"font.size": 24}):
        fig, ax = figure(6.4, 4.8)
        ax.bar_label(ax.bar(["Red", "Blue", "Green"], [8, 17, 11], color=["red", "blue", "green"]))
        ax.set_title("Teams")
        ax.margins(y=0.2)
        save("chart", "teams", shot(fig), asked("Give me all the values of this chart.", markdown(
            ("Label", "Value"), ("Red", 8), ("Blue", 17), ("Green", 11))))

    with plt.style.context("dark_background"):
        fig, ax = figure(2.4, 2.0)
        ax.bar_label(ax.bar(list("XYZ"), [64, 25, 80], width=0.6))
        ax.margins(y=0.2)
        save("chart", "dark", shot(fig), asked(
            "Which label has the smallest value?", '"Y" has the smallest value, 25.'))

    fig, ax = figure(2.8, 2.1)
    bars = ax.bar(["Ann", "Bob", "Eva", "Tom"], [35, 50, 20, 65], color="orange", edgecolor="black")
    ax.bar_label(bars, label_type="center")
    ax.set_yticks([])
    save("chart", "people", shot(fig), asked("Who has the largest value?", '"Tom" has the largest value, 65.'),
         asked("How many red circles are there?", NO_SHAPES, "There are no red circles."))


# Screenshots of web pages: (width, height, style of the body, content)

CENTERED = "display:flex;align-items:center;justify-content:center;height:100vh;margin:0;"


def table(rows: list[tuple[str, object]], style: str, attributes: str = "") -> str:
    head, *body = rows
    cells = "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in body)
    return f"<style>{style}</style><table {attributes}><tr><th>{head[0]}</th><th>{head[1]}</th></tr>{cells}</table>"


def pages(screenshot) -> None:
    def page(name: str, width: int, height: int, body: str, *questions: dict, style: str = "") -> None:
        html = f'<body style="{CENTERED}{style}">{body}</body>'
        save("page", name, screenshot(html, width, height), *questions)

    page("heading", 400, 200, "<h1 style='font-size:64px'>WELCOME</h1>", asked("What does it say?", '"WELCOME"'))
    page("exit", 300, 160, "<b style='font:bold 76px sans-serif;color:white'>EXIT</b>",
         asked("What does the sign say?", '"EXIT"'), style="background:#0a7d3c;")
    page("button", 240, 120, "<button style='font-size:42px;padding:8px 22px'>Sign up</button>",
         asked("What text do you see on the button?", '"Sign up"'))
    page("hours", 320, 240, "<div style='font:44px sans-serif;color:#333;line-height:1.4'>Open daily<br>from 9 to 5"
         "<br>not Sunday</div>", asked("Read the text.", '"Open daily from 9 to 5 not Sunday"'))
    page("code", 280, 140, "<code style='font-size:68px;color:#d2691e'>K7Q4</code>",
         asked("What is written here?", '"K7Q4"'), asked("Read the word backwards.", '"4Q7K"'))
    page("night", 340, 170, "<i style='font-size:56px;color:#1a3fb0'>good night</i>",
         asked("What does the text say?", '"good night"'))
    page("sale", 260, 200, "<div style='font:bold 72px sans-serif;color:#c81e1e;background:#ffe45c;padding:12px 24px;"
         "border-radius:12px;transform:rotate(-4deg)'>SALE</div>", asked("what is the word", '"SALE"'))
    page("card", 360, 160, "<div style='font:56px \"Liberation Sans Narrow\";color:#444;background:white;padding:14px "
         "26px;box-shadow:0 2px 8px #aaa'>butterfly</div>", asked("Which word is this?", '"butterfly"'),
         style="background:#e9edf2;")

    fruit = [("Fruit", "Count"), ("Apple", 14), ("Banana", 6), ("Cherry", 52)]
    page("striped", 320, 240, table(fruit, "table{border-collapse:collapse;font:34px sans-serif;width:300px}"
         "th{background:#dbe7ff;text-align:left}td,th{padding:6px 14px}tr:nth-child(odd) td{background:#f2f2f2}"),
         asked("Turn this table into text.", markdown(*fruit)), asked("What is the value of Banana?",
                                                                     '"Banana" has the value 6.'))
    teams = [("Team", "Score"), ("Lions", 27), ("Bears", 31), ("Wolves", 9)]
    page("bordered", 260, 220, table(teams, "table{font-size:34px}", "border=1 cellpadding=5"),
         asked("How much is Bears?", '"Bears" has the value 31.'), asked("Copy the table.", markdown(*teams)))
    cities = [("City", "Days"), ("Rome", 4), ("Oslo", 12)]
    page("dark_header", 300, 180, table(cities, "table{border-collapse:collapse;font:40px sans-serif;width:280px}"
         "th{background:#333;color:white}td{text-align:center;border-bottom:1px solid #999}"),
         asked("What value does Oslo have?", '"Oslo" has the value 12.'))

    grid = "3..1\n.1.3\n1..4\n.31."
    cells = "".join("<tr>" + "".join(f"<td>{d.strip('.')}</td>" for d in row) + "</tr>" for row in grid.split())
    html = ("<style>table{border-collapse:collapse;border:3px solid black}td{width:56px;height:56px;border:1px solid "
            "#777;text-align:center;font:34px sans-serif}td:nth-child(2){border-right:3px solid black}tr:nth-child(2) "
            f"td{{border-bottom:3px solid black}}</style><table>{cells}</table>")
    save("puzzle", "web_sudoku", screenshot(f'<body style="{CENTERED}">{html}</body>', 260, 260),
         asked("Solve this sudoku, please.", "3421\n2143\n1234\n4312"),
         asked("Which digits are given?", grid))
    save("puzzle", "web_sum", screenshot(f'<body style="{CENTERED}font:64px serif">45 &minus; 18 = ?</body>', 400, 160),
         asked("What is the result?", "45 - 18 = 27", "27"))


# Puzzles, photographs and the end


def puzzles() -> None:
    font = ImageFont.truetype(FONTS / "LiberationSerif-Bold.ttf", 80)
    image = Image.new("RGB", (420, 180), "#fff8e1")
    ImageDraw.Draw(image).text((210, 90), "12 + 7 =", font=font, fill="#14532d", anchor="mm")
    save("puzzle", "sum", image, asked("Work it out.", "12 + 7 = 19", "19"))

    fig, ax = plt.subplots(figsize=(2.4, 2.4), dpi=100)
    grid = "1.3.\n.4..\n..4.\n.3.1"
    for i in range(5):
        ax.plot([i, i], [0, 4], "k", lw=3 if i % 2 == 0 else 1)
        ax.plot([0, 4], [i, i], "k", lw=3 if i % 2 == 0 else 1)
    for row, digits in enumerate(grid.split()):
        for column, digit in enumerate(digits.strip()):
            ax.text(column + 0.5, 3.5 - row, digit.strip("."), ha="center", va="center", fontsize=24, color="C0")
    ax.axis("off")
    save("puzzle", "plotted_sudoku", shot(fig), asked("Fill in the missing digits.", "1234\n3412\n2143\n4321"),
         asked("Copy the grid.", grid))


def field(draw) -> Image.Image:
    """A matplotlib picture without axes."""
    fig = plt.figure(figsize=(1.6, 1.3), dpi=100)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.axis("off")
    draw(ax)
    return shot(fig)


def photographs() -> None:
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as photo:
        portrait = photo.convert("RGB").crop((60, 0, 460, 500)).resize((144, 180), Image.Resampling.LANCZOS)
    save("photo", "portrait", portrait, asked("Who is this?", UNKNOWN))

    dem = cbook.get_sample_data("jacksboro_fault_dem.npz")["elevation"]
    hills = LightSource(315, 45).shade(dem, plt.cm.gist_earth, vert_exag=0.05, blend_mode="soft")
    save("photo", "hills", field(lambda ax: ax.imshow(hills, aspect="auto")), asked("Describe this photo.", UNKNOWN))

    topo = cbook.get_sample_data("topobathy.npz")["topo"]
    save("photo", "seafloor", field(lambda ax: ax.imshow(topo, cmap="terrain", aspect="auto")),
         asked("What is in this image?", UNKNOWN))

    y, x = np.mgrid[-3:3:90j, -3:3:110j]
    waves = np.sin(x * x + y) + np.cos(3 * y - x)
    save("photo", "contours", field(lambda ax: ax.contourf(waves, 12)),
         asked("What does the picture show?", UNKNOWN),
         asked("How many stars are there?", UNKNOWN, NO_SHAPES, "There are no stars."))


def browser_pictures() -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])

        def screenshot(html: str, width: int, height: int) -> Image.Image:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_content(f"<!doctype html><style>body{{margin:0}}</style>{html}")
            picture = Image.open(io.BytesIO(page.screenshot()))
            page.close()
            return picture

        drawings(screenshot)
        pages(screenshot)
        browser.close()


def main() -> None:
    for old in HERE.glob("*.png"):
        old.unlink()
    charts()
    shapes()
    sketches()
    puzzles()
    photographs()
    browser_pictures()
    order = ("chart", "shapes", "page", "sketch", "puzzle", "photo")
    entries.sort(key=lambda entry: order.index(entry["kind"]))
    (HERE / "questions.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(len({entry["file"] for entry in entries}), "pictures,", len(entries), "questions")


if __name__ == "__main__":
    main()
