"""The explore page, in a real browser and in print, checked against the rows it shows."""

import csv
import io
import json
import math
import re

import pytest

from visualize import explore, strings
from visualize.explore import figure, protocol
from visualize.theme import DARK, LIGHT

HOSTILE = '<img src=x onerror=window.hacked=1> </script> ${window.hacked=2} {{constructor}} <b>bold</b>'
STRATEGIES = ("low_confidence_static", "factor", "entropy_bound")


def row(index: int, block_size: int, steps: int, strategy: str, seconds: float, agreement=1.0, **fields) -> dict:
    made = dict(
        index=index, block_size=block_size, steps=steps, strategy=strategy, slow=index == 0, runs=1, seconds=seconds,
        fastest=seconds, slowest=seconds, forwards=30 - index, tokens=20 + index, tokens_per_forward=1.5 * index,
        text=f"answer {index}", agreement=agreement, same=agreement == 1, confidence=0.95,
    )  # fmt: skip
    return made | fields


ROWS = [
    row(0, 8, 8, STRATEGIES[0], 2.0),
    row(1, 8, 4, STRATEGIES[0], 1.0, confidence=0.8),
    row(2, 8, 2, STRATEGIES[1], 0.5, 0.9, confidence=0.4),
    row(3, 16, 1, STRATEGIES[2], 0.1, 0.4, confidence=None, text=HOSTILE),
    row(4, 16, 4, STRATEGIES[1], 0.8, 0.65, runs=3, fastest=0.7, slowest=1.1),
]
PLAN = {"settings": ROWS, "skipped": [{"block_size": 2, "steps": 4, "strategy": "factor"}], "repeats": 1, "total": 5}


def message(rows=ROWS, phase="finished", **fields) -> dict:
    return {"sweep": "s1", "phase": phase, "sentence": "", "plan": PLAN, "progress": None, "rows": rows} | fields


# -- messages and print --


def test_every_message_holds_the_whole_state():
    events = [{"plan": PLAN}, {"progress": {"done": 0, "total": 2}}, {"row": ROWS[1]}, {"row": ROWS[0]},
              {"row": ROWS[1] | {"runs": 2}}]  # fmt: skip
    sent = list(protocol.messages("s9", events))
    kept = json.loads(json.dumps(sent))
    assert [len(m["rows"]) for m in sent] == [0, 0, 1, 2, 2, 2] and sent == kept  # earlier ones stay what they were
    assert [r["index"] for r in sent[-1]["rows"]] == [0, 1] and sent[-1]["rows"][1]["runs"] == 2
    assert [m["phase"] for m in sent] == ["running"] * 5 + ["finished"]
    assert sent[1]["progress"]["done"] == 0 and sent[-1]["progress"] is None and sent[-1]["plan"] == PLAN
    stopped = protocol.ended(sent[3], "failed", "No.")
    assert (stopped["phase"], stopped["sentence"], stopped["rows"]) == ("failed", "No.", sent[3]["rows"])


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_figure_shows_every_row_at_its_place(mode):
    palette = {"light": LIGHT, "dark": DARK}[mode]
    axes = figure(ROWS, mode).axes[0]
    places = [tuple(c.get_offsets()[0]) for c in axes.collections]
    for r in ROWS:
        assert (r["seconds"], pytest.approx(100 * r["agreement"])) in places
    assert axes.get_xscale() == "log" and axes.get_facecolor()[:3] == pytest.approx(
        [int(palette.surface[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )
    said = [text.get_text() for text in axes.texts]
    assert sorted(said) == sorted(["slow setting", *(f"{r['block_size']}/{r['steps']}" for r in ROWS)])
    legend = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert legend == [name.replace("_", " ") for name in STRATEGIES]


def test_the_figure_of_close_times_is_linear_and_of_nothing_refused():
    assert figure(ROWS[:3]).axes[0].get_xscale() == "linear"
    with pytest.raises(ValueError, match="no rows yet"):
        figure([])


def test_the_template_can_neither_run_nor_interpolate_anything():
    assert not re.search(r"\$\{|\{\{|<script|\son\w+=", explore.TEMPLATE)
    assert "innerHTML" not in explore.LIVE_SCRIPT
    said = set(re.findall(r'"(explore\.[a-zA-Z.]+)"', explore.SCRIPT.split("\n", 1)[1] + explore.TEMPLATE))
    known = set(strings.table("explore"))
    assert {key for key in said if not key.endswith(".")} <= known


# -- in the browser --



@pytest.fixture
def visit(browser):
    """`visit(message or None, width, ...)`: the chart alone; what the browser complains about fails."""
    opened, complaints = [], []

    def open_page(sent=None, width=1200, dark=False, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **{"locale": "en-GB"} | options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(5_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.set_content(
            f"<style>body {{ margin: 0 }} {explore.CSS}</style><body class='{'dark' if dark else ''}'>"
            f"<div id=host>{explore.TEMPLATE}</div><script>{explore.SCRIPT}\n"
            "window.shown = createExplore(document.getElementById('host'));</script>"
        )
        send(page, sent)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert complaints == []


def send(page, sent) -> None:
    """Give the page a message and wait until it is painted."""
    painted = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(f"async (m) => {{ shown.receive(m); await {painted}; }}", sent)


def places(page) -> dict[int, tuple[float, float]]:
    """index -> (x, y) of every mark."""
    found = page.locator(".dvl-explore-point").evaluate_all(
        "(nodes) => nodes.map((n) => [Number(n.dataset.index), n.getAttribute('transform')])"
    )
    return {index: tuple(map(float, re.findall(r"[-\d.]+", place))) for index, place in found}


def mark(page, index: int):
    return page.locator(f".dvl-explore-point[data-index='{index}']")


def detail(page) -> dict[str, str]:
    terms = page.locator(".dvl-explore-detail dl div").evaluate_all(
        "(pairs) => pairs.map((p) => [p.children[0].textContent, p.children[1].textContent])"
    )
    slots = {name: page.locator(f".dvl-explore [data-slot={name}]").text_content() for name in ("name", "answer")}
    return dict(terms) | slots


def test_marks_stand_where_the_rows_say(visit):
    page = visit(message())
    at = places(page)
    assert set(at) == {r["index"] for r in ROWS}
    assert page.locator(".dvl-explore-plot svg").get_attribute("data-log") == "true"
    (x0, top), (x3, bottom) = at[0], at[3]
    for r in ROWS:
        x, y = at[r["index"]]
        assert (x - x3) / (x0 - x3) == pytest.approx(math.log(r["seconds"] / 0.1) / math.log(2.0 / 0.1), abs=2e-3)
        assert (y - top) / (bottom - top) == pytest.approx((1 - r["agreement"]) / (1 - 0.4), abs=2e-3)
    send(page, message(ROWS[:3]))  # 0.5 to 2 seconds: linear, from zero
    at = places(page)
    assert (at[1][0] - at[2][0]) / (at[0][0] - at[2][0]) == pytest.approx(1 / 3, abs=2e-3) and len(at) == 3


@pytest.mark.parametrize(("dark", "palette"), [(False, LIGHT), (True, DARK)])
def test_a_mark_tells_strategy_and_confidence_by_shape_filling_and_colour(visit, dark, palette):
    page = visit(message(), dark=dark)
    looks = {
        index: page.locator(f".dvl-explore-point[data-index='{index}'] .dvl-explore-mark").evaluate(
            "(m) => [m.dataset.fill, getComputedStyle(m).color, m.querySelector('path').getAttribute('d')]"
        )
        for index in range(5)
    }
    assert [looks[i][0] for i in range(5)] == ["full", "dot", "open", "open", "full"]
    shapes = [looks[i][2] for i in range(5)]
    assert shapes[0] == shapes[1] and shapes[2] == shapes[4] and len(set(shapes)) == 3
    for r in ROWS:
        colour = palette.muted if r["confidence"] is None else palette.scale[round(r["confidence"] * 8)]
        rgb = ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
        assert looks[r["index"]][1] == f"rgb({rgb})"
    assert page.locator(".dvl-explore-point[data-slow=true]").get_attribute("data-index") == "0"


def test_pointing_at_a_mark_or_a_row_shows_the_setting_in_full(visit):
    page = visit(message())
    assert detail(page)["answer"] == "answer 0"  # the slow setting, until something else is pointed at
    assert page.locator("[data-slot=expected-box]").is_hidden()
    mark(page, 4).hover()
    page.wait_for_selector(".dvl-explore[data-shown='4']")
    shown = detail(page)
    assert shown["name"] == "block size 16, 4 steps, factor" and shown["answer"] == "answer 4"
    assert shown["seconds"] == "0.800 s, median of 3 runs (0.700 to 1.10 s)"
    assert shown["speed"].startswith("2.50") and shown["agreement"].startswith("65.0 %")
    assert shown["forward passes"] == "26" and shown["tokens"] == "24" and shown["mean confidence"] == "0.950"
    assert page.locator("[data-slot=expected]").text_content() == "answer 0"
    assert page.locator("tr[data-shown=true]").get_attribute("data-index") == "4"
    page.locator("tr[data-index='2'] td").first.hover()
    page.wait_for_selector(".dvl-explore[data-shown='2']")
    assert mark(page, 2).get_attribute("aria-pressed") == "true"
    page.locator("tr[data-index='1'] td").first.click()
    page.locator("[data-slot=note]").hover()
    page.wait_for_selector(".dvl-explore[data-shown='1']")  # what was clicked stays
    page.keyboard.press("Escape")
    page.wait_for_selector(".dvl-explore[data-shown='0']")


def test_the_keyboard_goes_from_mark_to_mark_by_time(visit):
    page = visit(message())
    assert page.locator(".dvl-explore-point[tabindex='0']").count() == 1
    mark(page, 0).focus()
    for key, index in {"ArrowLeft": 1, "ArrowDown": 4, "ArrowRight": 1, "Home": 3, "ArrowUp": 2, "End": 0}.items():
        page.keyboard.press(key)
        page.wait_for_selector(f".dvl-explore[data-shown='{index}']")
        assert page.evaluate("document.activeElement.dataset.index") == str(index)
    label = mark(page, 4).get_attribute("aria-label")
    assert label == "block size 16, 4 steps, factor: 0.800 s, agreement 65.0 %"
    send(page, message([*ROWS, row(5, 4, 4, "factor", 3.0)]))  # the focus stays while rows arrive
    assert page.evaluate("document.activeElement.dataset.index") == "0"


def test_the_table_sorts_by_number_and_back(visit):
    page = visit(message())

    def order() -> list[int]:
        return [int(i) for i in page.locator("tbody tr").evaluate_all("(rows) => rows.map((r) => r.dataset.index)")]

    assert order() == [0, 1, 2, 3, 4]
    seconds = page.get_by_role("button", name="seconds")
    heading = page.locator("th", has=seconds)
    for sort, expected in (("ascending", [3, 2, 4, 1, 0]), ("descending", [0, 1, 4, 2, 3]), ("none", [0, 1, 2, 3, 4])):
        seconds.click()
        assert order() == expected and heading.get_attribute("aria-sort") == sort
    page.get_by_role("button", name="mean confidence").click()
    assert order() == [2, 1, 0, 4, 3]  # what is unknown stands last
    page.get_by_role("button", name="mean confidence").click()
    assert order() == [0, 4, 1, 2, 3]
    cells = page.locator("tr[data-index='2'] td").all_text_contents()
    assert cells == ["8", "2", "0.500", "28", "22", "3.00", "0.400", "90.0 %"]


def test_the_table_as_csv_is_safe_to_open(visit):
    hostile = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", 'say "hi",\nthere', " =1", "a=1", ""]
    rows = [row(i, 8, 1, "factor", 1.0 + i, text=text) for i, text in enumerate(hostile)]
    page = visit(message(rows))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the table").click()
    assert download.value.suggested_filename == "explore.csv"
    with open(download.value.path(), encoding="utf-8-sig", newline="") as file:
        read = list(csv.DictReader(file))
    for r, line in zip(rows, read, strict=True):
        safe = "'" + r["text"] if r["text"].lstrip()[:1] in ("=", "+", "-", "@") and r["text"] else r["text"]
        assert line["text"] == safe
        assert (float(line["seconds"]), line["same"], line["strategy"]) == (r["seconds"], "true", "factor")
    assert list(csv.reader(io.StringIO(page.evaluate("exploreCsv([])"))))[0] == list(read[0])


def test_what_models_write_is_text(visit):
    strange = ROWS[:4] + [row(4, 8, 1, HOSTILE, 0.3)]
    page = visit(message(strange))
    mark(page, 3).dispatch_event("click")
    page.wait_for_selector(".dvl-explore[data-shown='3']")
    assert detail(page)["answer"] == HOSTILE
    assert HOSTILE in page.locator("tr[data-index='4'] th").text_content()
    send(page, message(phase="failed", sentence=HOSTILE))
    assert page.locator("[data-slot=note]").text_content() == HOSTILE
    assert page.evaluate("window.hacked") is None and page.locator(".dvl-explore :is(img, b, script)").count() == 0


def test_it_says_how_far_a_sweep_is_and_what_came_of_it(visit):
    page = visit()
    note, bar = page.locator("[data-slot=note]"), page.locator("[data-slot=bar]")
    assert "every combination answers the same question" in note.text_content() and bar.is_hidden()
    progress = {"done": 2, "total": 5, "block_size": 8, "steps": 1, "strategy": "factor"}
    send(page, message(ROWS[:2], "running", progress=progress))
    assert note.text_content() == "Run 3 of 5: block size 8, 1 step, factor"
    assert (bar.get_attribute("aria-valuenow"), bar.get_attribute("aria-valuemax")) == ("2", "5")
    assert bar.locator("i").bounding_box()["width"] == pytest.approx(0.4 * bar.bounding_box()["width"], abs=1)
    assert "2/4" in page.locator("[data-slot=skipped]").text_content()
    assert page.locator("tbody tr").count() == 2
    send(page, message(ROWS[:2], "stopped"))
    assert note.text_content() == "Stopped; the 2 settings that were measured are kept." and bar.is_hidden()
    send(page, message())
    assert "block size 8, 4 steps, low confidence static, at 2.00" in note.text_content()
    send(page, message([ROWS[0], ROWS[2]]))
    assert "None that is faster" in note.text_content()
    send(page, message(ROWS[:1], sweep="s2"))
    send(page, message())  # late, of the sweep before
    assert page.locator("tbody tr").count() == 1
    send(page, message([], "running", sweep="s3"))
    assert page.locator("tbody tr").count() == 1 and page.locator("table").is_visible()  # until there is a newer row
    send(page, message([], "stopped", sweep="s3"))
    assert note.text_content() == "Stopped before anything was measured. Below is the sweep before."
    send(page, message(ROWS[:2], "running", sweep="s3"))
    assert page.locator("tbody tr").count() == 2 and "before" not in note.text_content()


@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_the_screen_in_either_language(visit, width):
    said = (("en-GB", "slow setting", "low confidence static"), ("zh-CN", "慢速设置", "低置信度·固定"))
    for locale, word, strategy in said:
        page = visit(message(), width=width, locale=locale)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert word in page.locator(".dvl-explore-plot text.dvl-explore-slow").text_content()
        line = page.locator("tr[data-index='0']").text_content()
        assert word in line and strategy in line
        box = page.locator(".dvl-explore-plot svg").bounding_box()
        marks = [mark(page, i).locator("path").bounding_box() for i in range(5)]
        assert all(box["x"] <= m["x"] and m["x"] + m["width"] <= box["x"] + box["width"] + 12 for m in marks)
        assert not re.search(r"explore\.\w", page.locator(".dvl-explore").text_content())


def test_labels_cover_nothing(visit):
    crowd = [row(i, 8, 1 + i % 8, "factor", 1 + 0.02 * i, 1 - 0.01 * (i % 5)) for i in range(40)]
    crowd[0] |= {"runs": 3, "fastest": 0.9, "slowest": 1.3}
    page = visit(message(crowd), width=700)
    boxes = page.evaluate(
        """[...document.querySelectorAll('.dvl-explore-plot text[data-shown]')].map((t) => {
            const b = t.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; })"""
    )
    span = page.locator(".dvl-explore-span").bounding_box()  # of the shown setting's runs
    for left, top, right, bottom in boxes:
        beside = right <= span["x"] or left >= span["x"] + span["width"]
        assert beside or bottom <= span["y"] + 2 or top >= span["y"] + span["height"] - 4
    assert 2 <= len(boxes) < 40
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 4 or b[3] <= a[1] + 4
