"""The page that a run is taken home as: self-contained, small, inert, and readable by this program and by browsers."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_traces import HOSTILE, HOSTILE_PIECES, branched_trace, hostile_trace, observed, picture, written
from traces import END, PIECES, made_up_trace, token_table

from dvl_core.trace import DenoisingTrace, TraceError
from visualize import theme
from visualize.export import load, trace_of_page
from visualize.export.card import rgb
from visualize.export.page import page_of_trace, script_safe
from visualize.export.size import Trimmed, compact, fit
from visualize.export.states import canvases
from visualize.text import cell_texts

ROOT = Path(__file__).parents[1]

# -- the file --


def test_a_page_gives_its_trace_back():
    trace = observed(made_up_trace(), patches=36)
    trace.images = [replace(picture(), grid=[6, 6])]
    again = trace_of_page(page_of_trace(trace))
    assert again == trace


def test_a_hostile_page_holds_no_markup_of_others_and_gives_its_trace_back(tmp_path):
    trace = hostile_trace()
    trace.images = [replace(picture(), data=data) for data in ("https://example.org/x.png", "javascript:alert(1)")]
    file = tmp_path / "run.html"
    file.write_bytes(written("run.html", trace))
    html = file.read_text(encoding="utf-8")
    assert "<img src=x" not in html and "example.org" not in html and html.count("<b>") <= html.count("data-slot") + 9
    assert html.count("</script>") == 2 and "<!--" not in html.split("<body>")[1]
    again = load(file)
    assert again.vocabulary == trace.vocabulary and again.canvas() == trace.canvas()
    assert again.images[0].data is None


def test_json_in_a_script_element_is_inert():
    text = json.dumps("</script><!-- <script> & \u2028\u2029", ensure_ascii=False)
    safe = script_safe(text)
    assert json.loads(safe) == json.loads(text) and not re.search("[<>&\u2028\u2029]", safe)


@pytest.mark.parametrize(
    "html", ["", "<html></html>", page_of_trace(made_up_trace(cut=1)).replace('"format"', '"from"')]
)
def test_what_is_no_page_of_a_run_is_refused(html):
    with pytest.raises(TraceError):
        trace_of_page(html)


def test_a_page_of_128_tokens_stays_small_whatever_was_observed():
    sizes = {}
    for patches, grid, candidates in ((0, [12, 16], 50), (192, [12, 16], 5), (576, [24, 24], 5)):
        trace = observed(made_up_trace(PIECES * 3 + PIECES[:25], 128), patches, candidates)
        trace.images = [replace(picture(), grid=grid)]
        made = written("run.html", trace)
        sizes[patches, candidates] = len(made)
        kept = trace_of_page(made.decode()).steps[0]
        assert (kept.attention is not None) == bool(patches) and len(kept.candidates[0]) >= 5
    assert max(sizes.values()) < 600_000, sizes


def test_attention_is_made_coarser_before_it_is_left_out():
    trace = observed(made_up_trace(length=16), patches=15 * 9)
    trace.images = [replace(picture(150, 90), grid=[9, 15])]
    data = trace.to_json()
    whole = len(compact(data))
    assert fit(data, whole) == (data, Trimmed())
    rounded, done = fit(data, whole - 1)
    assert done == Trimmed(rounded=True) and len(compact(rounded)) < whole
    pooled, done = fit(data, len(compact(rounded)) - 1)
    assert done == Trimmed(rounded=True, pooled=2)
    assert pooled["images"][0]["grid"] == [5, 8] and pooled["images"][0]["box"] == [0, 0, 160, 100]
    before, after = (np.array(side["steps"][0]["attention"]["27"]) for side in (data, pooled))
    cells = np.pad(before.reshape(-1, 9, 15), ((0, 0), (0, 1), (0, 1))).reshape(-1, 5, 2, 8, 2).sum((2, 4))
    faintest = 0.02 * cells.max((1, 2), keepdims=True)
    assert (np.abs(after.reshape(-1, 5, 8) - cells) <= np.maximum(faintest, 0.05 * cells) + 1e-9).all()
    bare, done = fit(data, 10)
    assert done == Trimmed(left_out=True) and not any("attention" in step for step in bare["steps"])
    assert data == trace.to_json()  # as it was


def test_many_candidates_become_fewer_and_the_page_says_so(monkeypatch):
    trace = observed(made_up_trace(length=16), candidates=24)
    data = trace.to_json()
    fewer, done = fit(data, len(compact(data)) - 1)
    assert done == Trimmed(candidates=12) and [len(best) for best in fewer["steps"][0]["candidates"]] == [12] * 8
    assert fewer["steps"][0]["candidates"][0] == trace.steps[0].candidates[0][:12]
    assert fit(data, 10)[1] == Trimmed(candidates=5)
    monkeypatch.setattr("visualize.export.page.LARGEST", 10)
    assert "Only the best 5 candidates" in page_of_trace(trace)
    assert "Attention was recorded but left out" in page_of_trace(observed(made_up_trace(length=16), patches=36))


# -- in a browser --

HOST = "document.getElementById('dvl-export-player')"
CELLS = """() => [...document.querySelectorAll('.dvl-cell')].filter((cell) => cell.offsetParent).map((cell) => ({
  text: cell.textContent, state: cell.dataset.state, pattern: cell.dataset.pattern || null,
  first: cell.dataset.first === 'true' }))"""


@pytest.fixture
def opened(browser, tmp_path):
    """`opened(trace)`: its page, from disk, with the network off; every request and complaint fails the test."""
    contexts, wrong = [], []

    def open_page(trace, **options):
        file = tmp_path / "run.html"
        file.write_bytes(written("run.html", trace))
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, **options)
        contexts.append(context)
        context.set_offline(True)
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        tab.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        tab.on("requestfailed", lambda r: wrong.append(f"failed: {r.url[:80]}"))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("dialog", lambda d: wrong.append(d.message))
        tab.goto(file.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def seek(tab, step: int):
    tab.evaluate(f"(step) => {{ {HOST}.diffusionPlayer.pause(); {HOST}.diffusionPlayer.seek(step); }}", step)
    tab.wait_for_function("(step) => document.querySelector('.dvl').dataset.cursor === String(step)", arg=step)


def test_a_saved_page_replays_the_run_without_a_network(opened):
    trace = observed(made_up_trace(), patches=192)
    trace.images = [picture()]
    tab = opened(trace)
    tab.wait_for_function("() => Number(document.querySelector('.dvl').dataset.cursor) > 1")  # it plays by itself
    last = len(trace.steps)
    tab.locator(".dvl input[type=range]").first.press("End")
    tab.wait_for_selector(f".dvl[data-cursor='{last}'][data-complete='true']")
    shown = tab.evaluate(CELLS)
    assert "".join(cell["text"] for cell in shown).strip() == trace.text
    seek(tab, 20)
    assert sum(cell["state"] == "masked" for cell in tab.evaluate(CELLS)) == sum(
        cell.kind == "mask" for cell in next(canvases(trace, [20])).cells
    )
    tab.wait_for_function("() => document.querySelector('.dvl-export-pictures img').naturalWidth > 0")
    assert tab.locator(".dvl-export-turn").all_text_contents() == ["What is in the picture?", trace.text]
    assert tab.title() == "What is in the picture?"
    settings = tab.locator(".dvl-export-settings dl").text_content()
    assert all(f"{name}{value}" in settings for name, value in trace.settings.items())


@pytest.mark.parametrize("make", [made_up_trace, branched_trace, lambda: made_up_trace(cut=5, finish="stopped")])
def test_what_is_drawn_and_what_the_player_shows_agree(opened, make):
    trace = make()
    tab = opened(trace, reduced_motion="reduce")
    counts = sorted({0, 1, 5, 12, 13, len(trace.steps) // 2, len(trace.steps)} & set(range(len(trace.steps) + 1)))
    for canvas in canvases(trace, counts):
        seek(tab, canvas.count)
        shown = tab.evaluate(CELLS)
        patterns = [None if c.confidence is None else "solid" if c.confidence >= 0.9 else
                    "dashed" if c.confidence >= 0.5 else "dotted" for c in canvas.cells]  # fmt: skip
        assert [cell["text"] for cell in shown] == ["" if c.kind == "end" else c.text for c in canvas.cells]
        assert [cell["pattern"] for cell in shown] == patterns
        assert [cell["first"] for cell in shown] == [cell.opens for cell in canvas.cells]
        states = ["masked" if c.kind == "mask" else "new" if c.fresh else "settled" for c in canvas.cells]
        assert [cell["state"] for cell in shown] == states
        counter = tab.locator("[data-slot=block]").text_content(), tab.locator("[data-slot=step]").text_content()
        place = canvas.step.step + 1 if canvas.step else 0
        assert counter == (f"{canvas.block} of {canvas.blocks}", f"{place} of {canvas.steps}")


def test_texts_of_cells_are_those_of_the_player(browser):
    ids, vocabulary = token_table([*PIECES, *HOSTILE_PIECES])
    rng = random.Random(7)
    tries = [[rng.choice([*ids, None, END]) for _ in range(40)] for _ in range(60)]
    table = {str(token): list(raw) for token, raw in vocabulary.items()}
    script = (ROOT / "visualize" / "player" / "text.js").read_text(encoding="utf-8")
    tab = browser.new_page()
    answer = tab.evaluate(
        f"""([tries, table, end]) => {{ {script}
        const vocabulary = new Map(Object.entries(table).map(([id, bytes]) => [Number(id), Uint8Array.from(bytes)]));
        return tries.map((ids) => cellTexts(ids, vocabulary, (id) => id === end)); }}""",
        [tries, table, END],
    )
    tab.close()
    for row, cells in zip(tries, answer, strict=True):
        mine = [{"text": cell.text, "partial": cell.partial} for cell in cell_texts(row, vocabulary, END.__eq__)]
        assert mine == cells


def test_hostile_texts_are_text_in_the_page(opened):
    trace = hostile_trace()
    tab = opened(trace, reduced_motion="reduce")
    tab.wait_for_selector(".dvl[data-complete='true']")
    tab.wait_for_timeout(100)
    assert tab.evaluate("window.hacked") is None
    assert HOSTILE in tab.locator(".dvl-export-turn").first.text_content()
    assert HOSTILE in " ".join(tab.title().split()) or HOSTILE.startswith(tab.title())
    shown = "".join(cell["text"] for cell in tab.evaluate(CELLS))
    assert shown.startswith("".join(HOSTILE_PIECES[:2]))
    assert tab.locator("img[src=x], .dvl-export-turn b, title b").count() == 0
    assert "</title><b>$a_b$" in tab.locator(".dvl-note").text_content()


def test_the_page_is_dark_as_the_system_is_until_somebody_says_otherwise(opened):
    tab = opened(made_up_trace(cut=2), color_scheme="dark")
    button = tab.get_by_role("button", name="Dark mode")

    def becomes(palette, pressed):
        colour = f"rgb{rgb(palette.page)}"
        tab.wait_for_function("(colour) => getComputedStyle(document.body).backgroundColor === colour", arg=colour)
        assert button.get_attribute("aria-pressed") == pressed

    becomes(theme.DARK, "true")
    tab.emulate_media(color_scheme="light")
    becomes(theme.LIGHT, "false")
    button.click()
    becomes(theme.DARK, "true")
    tab.emulate_media(color_scheme="dark")
    button.click()
    becomes(theme.LIGHT, "false")


def test_the_trace_can_be_downloaded_from_the_page(opened, tmp_path):
    trace = observed(made_up_trace(length=16), patches=192)
    trace.images = [picture()]
    tab = opened(trace)
    with tab.expect_download() as waiting:
        tab.get_by_role("link", name="Download the trace").click()
    assert waiting.value.suggested_filename == "trace.json"
    waiting.value.save_as(tmp_path / "again.json")
    assert DenoisingTrace.load(tmp_path / "again.json") == trace


def test_the_answer_is_there_without_javascript_and_in_chinese_with_it(browser, opened, tmp_path):
    trace = made_up_trace()
    tab = opened(trace, locale="zh-CN")
    assert tab.evaluate("document.documentElement.lang") == "zh-CN"
    assert f"{len(trace.answer_ids())} 个词元" in tab.locator(".dvl-export-told").first.text_content()
    context = browser.new_context(java_script_enabled=False)
    bare = context.new_page()
    bare.goto((tmp_path / "run.html").as_uri())
    assert bare.locator(".dvl-export-turn").last.inner_text() == trace.text
    assert not bare.locator(".dvl-export-player").is_visible() and "JavaScript" in bare.locator("main").inner_text()
    context.close()


def test_nothing_overflows_on_a_phone(opened):
    tab = opened(hostile_trace())
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_plays_another_trace_file_and_refuses_what_is_none(opened, tmp_path):
    tab = opened(made_up_trace(length=16), reduced_motion="reduce")
    other, wrong = tmp_path / "other.json", tmp_path / "wrong.json"
    trace = made_up_trace(["Another", " <b>", " answer", "."], 16)
    trace.save(other)
    wrong.write_text("[1]")
    tab.locator("#dvl-export-open").set_input_files(str(other))
    tab.wait_for_function(f"document.querySelector('.dvl').dataset.total === '{len(trace.steps)}'")
    tab.wait_for_selector(".dvl[data-complete=true]")
    assert "".join(tab.locator(".dvl-cell:not([data-after])").all_text_contents()) == trace.text
    tab.locator("#dvl-export-open").set_input_files(str(wrong))
    tab.get_by_text("wrong.json is not a trace").wait_for()
    assert "".join(tab.locator(".dvl-cell:not([data-after])").all_text_contents()) == trace.text
