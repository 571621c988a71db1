"""The teaching page in a real browser, checked against the trace and the training code. Skipped without Chromium."""

import json

import pytest
from test_lessons import aligned_trace, autoregressive_trace, matrix
from traces import END

from dvl_core.lessons import KINDS, lesson_data
from dvl_core.trace import TraceImage
from dvl_core.training.masks import doubled_mask
from visualize import lessons, strings
from visualize.lessons.passes import forward_passes
from visualize.lessons.protocol import lesson_message
from visualize.lessons.tour import tour_stops

HOSTILE = ["<img src=x onerror=window.hacked=1>", " </script>", " ${window.hacked=2}", " {{x}}", "\n<b>b</b>"]
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
HIDDEN = (
    "(n) => [...n.querySelectorAll('[data-state=masked][data-position]')].map((c) => Number(c.dataset.position))"
)


@pytest.fixture(scope="module")
def tabs(browser):
    """`tabs(width, locale)`: an open tab, kept for the tests after it."""
    opened = {}

    def tab(width, locale):
        if (width, locale) not in opened:
            context = browser.new_context(viewport={"width": width, "height": 900}, locale=locale)
            opened[width, locale] = context.new_page()
            opened[width, locale].set_default_timeout(15_000)
        return opened[width, locale]

    yield tab
    for page in opened.values():
        page.context.close()


@pytest.fixture
def teach(tabs):
    """`teach(trace, ...)`: the page of a run; what the browser complained about fails the test."""
    complaints, watched = [], {}

    def listen(page):
        def hear(message):
            if message.type == "error":
                complaints.append(message.text)

        def fail(error):
            complaints.append(str(error))

        page.on("pageerror", fail)
        page.on("console", hear)
        watched[page] = (fail, hear)

    def open_page(trace, width=1440, locale="en-US", draws=8):
        page = tabs(width, locale)
        if page not in watched:
            listen(page)
        style = f"<style>body {{ margin: 0; padding: 12px }} {lessons.CSS}</style>"
        page.set_content(f"{style}<main style='display: grid'>{lessons.TEMPLATE}</main>")
        page.evaluate(f"(() => {{ {lessons.SCRIPT}\nwindow.page = createLessons(document.querySelector('main')); }})()")
        page.evaluate("(m) => window.page.receive(m)", lesson_message(trace, lesson_data(trace, draws=draws)))
        page.wait_for_selector(".dvl-lessons[data-phase=ready]")
        return page

    yield open_page
    for page, (fail, hear) in watched.items():
        page.remove_listener("pageerror", fail)
        page.remove_listener("console", hear)
    assert complaints == []


def slot(page, lesson: str, name: str):
    return page.locator(f"[data-lesson={lesson}] [data-slot={name}]")


def set_range(page, lesson: str, name: str, value):
    slot(page, lesson, name).fill(str(value))


def sentence(key: str, **values) -> str:
    return strings.table("lessons")[f"lessons.{key}"]["en"].format(**values)


# -- noise --


def test_the_slider_hides_what_the_numbers_say(teach):
    trace = aligned_trace(52)
    page, data = teach(trace, draws=3), lesson_data(trace, draws=3)
    count, seen = len(data["caption"]["ids"]), []
    for turn in range(3):
        uniform, before = data["noise"]["draws"][turn]["uniform"], set()
        for ratio in (0.01, 0.3, 0.75, 1):
            set_range(page, "noise", "ratio", ratio)
            hidden = set(slot(page, "noise", "blocks").evaluate(HIDDEN))
            assert hidden == {i for i, u in enumerate(uniform) if u <= ratio} and before <= hidden
            said = slot(page, "noise", "said").text_content()
            assert said.startswith(f"{len(hidden)} of {count} tokens") and f"1/t = {1 / ratio:.2f} times" in said
            before = hidden
        seen.append(uniform)
        slot(page, "noise", "again").click()
    set_range(page, "noise", "ratio", 0.3)  # after the last draw comes the first again
    assert set(slot(page, "noise", "blocks").evaluate(HIDDEN)) == {i for i, u in enumerate(seen[0]) if u <= 0.3}


def test_every_block_shows_the_level_that_it_drew(teach):
    trace = aligned_trace(52)
    page, data = teach(trace), lesson_data(trace)
    slot(page, "noise", "own").check()
    draw = data["noise"]["draws"][0]
    level = [draw["levels"][(4 + i) // 8] for i in range(len(draw["uniform"]))]
    hidden = [i for i, u in enumerate(draw["uniform"]) if u <= level[i]]
    assert slot(page, "noise", "blocks").evaluate(HIDDEN) == hidden
    heads = slot(page, "noise", "blocks").locator(".dvl-lessons-head").all_text_contents()
    assert [f"t = {t:.2f}" in head for head, t in zip(heads, draw["levels"], strict=True)] == [True] * len(heads)
    assert f"{sum(1 / level[i] for i in hidden):.1f} in all" in slot(page, "noise", "said").text_content()


def test_noise_moves_nothing(teach):
    page = teach(aligned_trace(52))
    places = "(n) => [...n.querySelectorAll('.dvl-lessons-tok')].map((t) => t.getBoundingClientRect().left)"
    set_range(page, "noise", "ratio", 0.01)
    shown = slot(page, "noise", "blocks").evaluate(places)
    set_range(page, "noise", "ratio", 0.2)
    moved = [abs(a - b) for a, b in zip(shown, slot(page, "noise", "blocks").evaluate(places), strict=True)]
    assert max(moved) <= 24  # what is too narrow for a mask gets a little wider


# -- who may look at whom --


@pytest.mark.parametrize("size", [1, 4, 8, 16])
def test_every_cell_of_the_matrix_has_the_colour_of_its_part(teach, size):
    trace = aligned_trace(52)
    page = teach(trace)
    page.locator(f"[data-lesson=mask] input[value='{size}']").check(force=True)
    slot(page, "mask", "matrix").scroll_into_view_if_needed()
    (table,) = lesson_data(trace, [size])["masks"]["sizes"]
    n, kinds = len(table["positions"]), matrix(table["rows"]).tolist()
    fills = page.evaluate(
        """(n) => {
          const svg = document.querySelector("[data-slot=matrix]");
          const rects = [...svg.querySelectorAll("[data-slot=cells] rect")].map((node) => {
            const box = ["x", "y", "width", "height"].map((name) => Number(node.getAttribute(name)));
            return [...box, getComputedStyle(node).fill];
          });
          const covers = ([x, y, w, h], r, c) => c >= x && c < x + w && r >= y && r < y + h;
          const at = (r, c) => rects.filter((rect) => covers(rect, r, c)).map((rect) => rect[4]);
          return Array.from({ length: n }, (_, r) => Array.from({ length: n }, (_, c) => at(r, c)));
        }""",
        n,
    )
    for row in range(n):
        for column in range(n):
            kind = KINDS[kinds[row][column]]
            expected = [f'url("#dvl-lessons-{kind}")'] if kind in ("within", "back", "finished") else []
            assert fills[row][column] == expected, (row, column)
    length = table["positions"][-1] + 1  # and what is coloured is what the published mask allows
    begin = table["noisy"]
    sample = [(0, 0), (n - 1, 0), (n - 1, n - 1), (begin, begin + 1), (begin, begin - 1)]
    index = [p if i >= table["noisy"] else p + length for i, p in enumerate(table["positions"])]
    allowed = doubled_mask(length, size)
    for row, column in sample:
        assert bool(fills[row][column]) == bool(allowed[index[row], index[column]])


def test_a_cell_is_said_in_plain_words(teach):
    page = teach(aligned_trace(52))
    svg = slot(page, "mask", "matrix")
    svg.scroll_into_view_if_needed()
    (table,) = lesson_data(aligned_trace(52), [8])["masks"]["sizes"]
    box, n = svg.bounding_box(), len(table["positions"])

    def hover(row, column):
        page.mouse.move(box["x"] + (column + 0.5) * box["width"] / n, box["y"] + (row + 0.5) * box["height"] / n)
        return slot(page, "mask", "verdict").text_content()

    third = next(i for i in range(table["noisy"], n) if table["blocks"][i] == 2) + 2
    finished = [i for i in range(table["noisy"]) if table["positions"][i] >= 52]
    own = next(i for i in finished if table["blocks"][i] == 2)
    assert hover(third, finished[0]) == "✓ Token 3 of noisy block 2 may look at token 5 of finished block 1, “The”."
    assert hover(third, own).startswith("✕ Token 3 of noisy block 2 may not look at token 1 of finished block 2")
    assert slot(page, "mask", "reason").text_content() == sentence("mask.why.solution")
    assert hover(0, n - 1).startswith("✕ Token 41 of the prompt may not look at token 8 of noisy block 4")
    svg.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    dataset = svg.evaluate("(n) => ({...n.dataset})")
    assert (dataset["row"], dataset["column"], dataset["kind"]) == ("1", str(n - 2), "noise")


def test_while_answering_only_the_mask_of_inference_is_left(teach):
    page = teach(aligned_trace(52))
    page.locator("[data-lesson=mask] input[value=decoding]").check(force=True)
    (table,) = lesson_data(aligned_trace(52), [8])["masks"]["sizes"]
    assert slot(page, "mask", "matrix").get_attribute("viewBox") == f"0 0 {table['noisy']} {table['noisy']}"
    area = slot(page, "mask", "cells").evaluate(
        "(g) => [...g.children].reduce((sum, r) => sum + r.getAttribute('width') * r.getAttribute('height'), 0)"
    )
    assert area == int((matrix(table["decoding"]) < 3).sum())
    parts = slot(page, "mask", "cells").evaluate("(g) => [...new Set([...g.children].map((r) => r.dataset.part))]")
    assert parts == ["finished"]


def test_parts_are_told_apart_by_more_than_colour(teach):
    page = teach(aligned_trace(52))
    shapes = page.evaluate(
        """['within', 'back', 'finished'].map((part) =>
          [...document.querySelector("#dvl-lessons-" + part).children].map((node) => node.tagName).join())"""
    )
    assert len(set(shapes)) == 3
    bars = page.locator(".dvl-lessons-states li").evaluate_all(
        "(all) => all.map((item) => getComputedStyle(item)).map((s) => s.borderLeftStyle + s.borderLeftWidth)"
    )
    assert len(set(bars)) >= 3


# -- the cache --


def test_every_pass_shows_what_it_reads_computes_and_writes(teach):
    trace = aligned_trace(52, steps=2)
    page, passes = teach(trace), forward_passes(trace)
    with_cache = without = 0
    for number, one in enumerate(passes, 1):
        set_range(page, "cache", "pass", number)
        with_cache, without = with_cache + one["computed"], without + one["without"]
        shown = [slot(page, "cache", name).text_content() for name in ("reads", "computes", "writes")]
        assert shown == [str(one["cached"]), str(one["computed"]), str(one["written"])]
        bars = page.locator("[data-lesson=cache] [data-bar]").evaluate_all("(bars) => bars.map((b) => b.dataset.value)")
        assert bars == [str(with_cache), str(without)]
    total = slot(page, "cache", "sum").text_content()
    assert f"{len(passes) - 1} passes over blocks = {len(passes)} forward passes" in total
    assert f"computed {with_cache:,} token positions" in total and f"{without:,}" in total


def test_blocks_are_frozen_entering_active_or_unopened(teach):
    trace = aligned_trace(64)
    page, passes = teach(trace), forward_passes(trace)
    states = "(n) => [...n.querySelectorAll('.dvl-lessons-block')].map((b) => b.dataset.state)"
    for number, one in enumerate(passes, 1):
        if number % 3:
            continue
        set_range(page, "cache", "pass", number)
        shown = slot(page, "cache", "blocks").evaluate(states)
        if one["kind"] == "prefill":
            assert shown[0] == "entering"
            continue
        frozen, entering = 1 + (one["cached"] - 64) // 8, one["written"] // 8
        expected = ["frozen"] * frozen + ["entering"] * entering + ["active"]
        assert shown[: len(expected)] == expected and set(shown[len(expected) :]) <= {"unopened"}
        new = slot(page, "cache", "blocks").locator("[data-state=new]").evaluate_all(
            "(cells) => cells.map((c) => Number(c.dataset.position))"
        )  # fmt: skip
        assert new == sorted(trace.steps[one["step"]].revealed)


# -- the tour --


def test_the_tour_shows_each_stop_with_its_numbers_and_marks_its_token(teach):
    trace = aligned_trace()
    page, stops = teach(trace), tour_stops(trace)
    slot(page, "tour", "figure").focus()
    for index, stop in enumerate(stops):
        if index:
            page.keyboard.press("ArrowRight")
        values = {name: f"{count:,}" for name, count in stop["counts"].items()}
        for name, share in stop["shares"].items():
            values[name] = f"{100 * share:.3f} %" if share >= 0.99 else f"{100 * share:.1f} %"
        for name, token in stop["tokens"].items():
            values[name] = "end" if token == END else f"“{trace.decode([token]).strip() or '␣'}”"
        assert slot(page, "tour", "told").text_content() == sentence(f"tour.{stop['kind']}", **values)
        marked = slot(page, "tour", "draft").locator("[data-mark]")
        if stop["position"] is not None:
            assert marked.get_attribute("data-position") == str(stop["position"])
        open_cells = slot(page, "tour", "draft").evaluate(HIDDEN)
        canvas = trace.canvas(stop["step"])
        assert all(canvas[position] is None for position in open_cells)
    assert slot(page, "tour", "next").get_attribute("aria-disabled") == "true"
    for _ in stops[1:]:
        slot(page, "tour", "back").click()
    assert page.locator("[data-lesson=tour]").get_attribute("data-stop") == "prefill"
    page.locator("[data-lesson=tour] .dvl-lessons-stops button").last.click()
    text = slot(page, "tour", "draft").evaluate(
        "(n) => [...n.querySelectorAll('.dvl-lessons-cell:not([data-end]):not([data-state=masked])')]"
        ".map((c) => c.textContent).join('')"
    )
    assert text == trace.text


# -- the game --


def test_guesses_are_judged_by_the_trace(teach):
    trace = aligned_trace()
    page = teach(trace)
    game = page.locator("[data-lesson=guess]")
    score = chance = 0.0
    for turn in range(8):
        step = trace.steps[int(game.get_attribute("data-step"))]
        buttons = slot(page, "guess", "draft").locator("button")
        cells = slot(page, "guess", "draft").locator("[data-position]:has(button)")
        offered = [int(cells.nth(i).get_attribute("data-position")) for i in range(cells.count())]
        assert offered == step.masked
        known = dict(zip(step.masked, step.confidences, strict=True))
        right = {p for p in step.masked if known[p] >= min(known[q] for q in step.revealed)}
        wrong = [p for p in step.masked if p not in right]
        pick = wrong[0] if turn % 2 and wrong else step.revealed[0]
        buttons.nth(offered.index(pick)).click()
        score, chance = score + (pick in right), chance + len(right) / len(step.masked)
        told = slot(page, "guess", "told").text_content()
        assert told.startswith("Right:" if pick in step.revealed else "The model chose another:")
        assert slot(page, "guess", "score").text_content() == f"right: {int(score)} of {turn + 1}"
        rows = slot(page, "guess", "ranking").locator("li")
        order = [int(rows.nth(i).get_attribute("data-position")) for i in range(rows.count())]
        assert order == sorted(step.masked, key=lambda p: -known[p])
        chosen = slot(page, "guess", "ranking").locator("[data-chosen]").get_attribute("data-position")
        assert int(chosen) == step.revealed[0]
        last = slot(page, "guess", "next").text_content() == "Play again"
        assert last == (turn == 7)
        if last:
            assert f"{int(score)} of 8 right" in told and f"would score {chance:.1f} on average" in told
        slot(page, "guess", "next").click()
    assert slot(page, "guess", "where").text_content() == "Round 1 of 8"
    assert slot(page, "guess", "score").text_content() == ""


def test_a_step_that_reveals_several_is_no_dead_end_and_ties_count(teach):
    trace = aligned_trace(steps=2)
    step = next(step for step in trace.steps[1:] if len(step.revealed) < len(step.masked))
    least = min(step.confidences[step.masked.index(p)] for p in step.revealed)
    tied = next(p for p in step.masked if p not in step.revealed)
    step.confidences[step.masked.index(tied)] = least
    page, index = teach(trace), trace.steps.index(step)
    game = page.locator("[data-lesson=guess]")
    assert int(game.get_attribute("data-step")) == index
    slot(page, "guess", "draft").locator("button").nth(step.masked.index(tied)).click()
    assert slot(page, "guess", "told").text_content().startswith("A dead heat")
    assert game.get_attribute("data-score") == "1"
    for _ in range(6):  # around the whole run, always with a choice
        slot(page, "guess", "next").click()
        step = trace.steps[int(game.get_attribute("data-step"))]
        slot(page, "guess", "draft").locator("button").nth(step.masked.index(step.revealed[0])).click()
        assert "places at once" in slot(page, "guess", "told").text_content()


# -- any run --


def test_hostile_text_is_shown_as_text(teach):
    trace = aligned_trace(pieces=HOSTILE, length=16)
    trace.prompt["messages"] = [{"role": "user", "text": HOSTILE[0]}]
    trace.model["name"] = trace.settings["strategy"] = HOSTILE[0]
    page = teach(trace)
    for _ in tour_stops(trace)[1:]:
        slot(page, "tour", "next").click()
    slot(page, "guess", "draft").locator("button").first.click()
    assert trace.text in page.locator(".dvl-lessons-talk").text_content()
    assert HOSTILE[1].strip() in slot(page, "noise", "blocks").text_content()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main b:not([data-bar] b), main img:not([hidden]), main script").count() == 0


def test_a_picture_is_shown_only_where_the_trace_holds_one(teach):
    trace = aligned_trace()
    trace.images = [TraceImage(1, 1, [1, 1], [0, 0, 1, 1], data=PIXEL)]
    page = teach(trace)
    sources = page.locator("main img").evaluate_all("(all) => all.map((i) => [i.hidden, i.src])")
    assert sources == [[False, PIXEL]] * 3
    for data in (None, "javascript:alert(1)", "https://example.org/x.png"):
        trace.images = [TraceImage(1, 1, [1, 1], [0, 0, 1, 1], data=data)]
        assert teach(trace).locator("main img:not([hidden])").count() == 0


@pytest.mark.parametrize("kind", ["autoregressive", "stopped", "empty", "one step a block"])
def test_lessons_adapt_to_the_run_or_say_why_not(teach, kind):
    trace = {
        "autoregressive": autoregressive_trace,
        "stopped": lambda: aligned_trace(cut=5, finish="stopped"),
        "empty": lambda: aligned_trace(cut=0, finish="stopped"),
        "one step a block": lambda: aligned_trace(steps=1),
    }[kind]()
    page = teach(trace)
    said = {
        name: slot(page, name, "instead").text_content() for name in ("noise", "mask", "cache", "tour", "guess")
        if slot(page, name, "instead").is_visible()
    }  # fmt: skip
    assert all(slot(page, name, "figure").is_hidden() for name in said) and all(said.values())
    expected = {
        "autoregressive": {"guess": "guess.causal"},
        "stopped": {},
        "one step a block": {"guess": "guess.none"},
        "empty": {name: f"{name}.none" for name in ("noise", "mask", "cache", "tour", "guess")},
    }[kind]
    assert said == {name: sentence(key) for name, key in expected.items()}


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_nothing_scrolls_sideways_on_a_phone(teach, locale):
    page = teach(aligned_trace(52, block_size=16), width=390, locale=locale)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    slot(page, "noise", "own").check()
    for _ in range(3):
        slot(page, "tour", "next").click()
    slot(page, "guess", "draft").locator("button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    unsaid = page.locator(".dvl-lessons").evaluate("(n) => n.innerText.match(/lessons\\.[a-z.-]+|\\{\\w+\\}/g)")
    assert unsaid is None
    assert ("掩码比例" in page.locator("[data-lesson=noise]").inner_text()) == (locale == "zh-CN")


def test_the_template_needs_no_interpolation():
    assert "${" not in lessons.TEMPLATE and "{{" not in lessons.TEMPLATE
    assert "innerHTML" not in lessons.SCRIPT and "insertAdjacentHTML" not in lessons.SCRIPT
    assert json.dumps(strings.by_language("lessons")["zh"], ensure_ascii=False)[1:-1] in lessons.SCRIPT
