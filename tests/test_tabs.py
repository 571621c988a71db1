"""The page's other tabs in a real browser: race, explore and the lessons, against what the model itself says."""

import json

import pytest
from browsing import click_example, data, finish, show, slow_motion, trace_of
from gradio_client import Client, handle_file
from page_server import ROOT, page_url
from traces import made_up_trace

from visualize.gallery import read_gallery, read_measured
from visualize.player import protocol

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")

EXAMPLES = json.loads((ROOT / "assets" / "examples" / "examples.json").read_text())


def open_tab(page, name: str):
    page.get_by_role("tab", name=name, exact=True).click()


def answer(index: int, **settings) -> str:
    """What the model answers to an example when a program asks."""
    example = EXAMPLES[index]
    image = handle_file(str(ROOT / "assets" / "examples" / example["image"]))
    client = Client(page_url(), verbose=False)
    return client.predict(image=image, question=example["question"], settings=settings, api_name="/answer")[0]


def test_a_recorded_race_and_sweep_are_shown_before_anybody_begins_one(visit):
    page = visit()
    raced, swept = read_measured(ROOT / "assets" / "examples")
    page.wait_for_timeout(500)
    open_tab(page, "Race")
    page.locator(".dvl-race[data-race=recorded][data-playing=true]").wait_for()  # not over before it was seen
    assert page.evaluate("scrollY") == 0
    note = page.locator(".dvl-race [data-slot=note]").text_content()
    assert note.startswith("Recorded with tinyvl on ") and f"“{EXAMPLES[0]['question']}”" in note
    page.locator(".dvl-race[data-complete=true]").wait_for(timeout=20_000)
    texts = page.locator(".dvl-race-text").all_text_contents()
    assert [text.strip() for text in texts] == [
        "".join(piece for piece, _ in lane["words"]) for lane in raced["result"]["lanes"]
    ]
    open_tab(page, "Explore")
    page.locator(".dvl-explore[data-sweep=recorded][data-phase=finished]").wait_for()
    assert page.locator(".dvl-explore tbody tr").count() == len(swept["rows"])
    assert page.locator(".dvl-explore [data-slot=note]").text_content().startswith("Recorded with tinyvl on ")
    assert page.evaluate("scrollY") == 0


def test_a_race_runs_both_models_and_says_who_was_faster(visit):
    page = visit(reduced_motion="reduce")
    open_tab(page, "Race")
    page.locator("#component-0, .dvl-race").first.wait_for()
    page.get_by_label("number input for Runs per lane").fill("1")
    page.get_by_label("number input for Runs per lane").press("Tab")
    page.locator(".dvl-strip:visible button").nth(2).click()
    page.wait_for_function(
        "(text) => [...document.querySelectorAll('.dvl-ask textarea')].some((t) => t.value === text)",
        arg=EXAMPLES[2]["question"],
    )
    page.get_by_role("button", name="Start the race").click()
    page.locator(".dvl-race[data-complete=true]:not([data-race=recorded])").wait_for(timeout=60_000)
    texts = page.locator(".dvl-race-text").all_text_contents()
    expected = answer(2, strategy="low_confidence_dynamic", threshold=0.9)
    assert texts[0].strip() == expected and texts[1].strip()
    kinds = page.locator(".dvl-race-lane").evaluate_all("(lanes) => lanes.map((lane) => lane.dataset.kind)")
    assert kinds == ["block_diffusion", "autoregressive"]
    assert page.locator(".dvl-race [data-slot=faster]").text_content().strip()


def test_a_race_with_an_impossible_setting_is_refused_in_a_sentence(visit):
    page = visit()
    open_tab(page, "Race")
    shown = page.get_by_role("spinbutton", name="Steps per block").locator("visible=true")
    assert shown.count() == 1  # not the parent's
    page.get_by_role("spinbutton", name="Steps per block").first.fill("0")
    page.get_by_role("spinbutton", name="Steps per block").first.press("Tab")
    page.get_by_role("button", name="Start the race").click()
    page.get_by_text("Steps per block must be a whole number").wait_for()


def test_a_sweep_fills_chart_and_table(visit):
    page = visit()
    open_tab(page, "Explore")
    page.get_by_label("number input for Runs per setting").fill("1")
    page.get_by_label("number input for Runs per setting").press("Tab")
    for step in ("1", "2"):
        page.locator("label").filter(has_text=step).get_by_label(step, exact=True).last.uncheck()
    start, stop = (page.get_by_role("button", name=name, exact=True).locator("visible=true")
                   for name in ("Run all combinations", "Stop"))
    sync_api.expect(stop).to_be_disabled()
    start.click()
    sync_api.expect(start).to_be_disabled()
    sync_api.expect(stop).to_be_enabled()
    page.locator(".dvl-explore[data-phase=finished]:not([data-sweep=recorded])").wait_for(timeout=60_000)
    sync_api.expect(start).to_be_enabled()
    rows = int(page.locator(".dvl-explore").get_attribute("data-rows"))
    assert rows == page.locator(".dvl-explore tbody tr").count() == 4
    page.locator(".dvl-explore tbody tr").first.click()
    assert page.locator(".dvl-explore [data-slot=answer]").text_content().strip() == answer(0)


def test_the_lessons_are_drawn_from_the_recorded_run(visit):
    page = visit()
    open_tab(page, "How it works")
    _, gallery = read_gallery(ROOT / "assets" / "examples")
    page.locator("#dvl-how .dvl-lessons:not([data-phase=empty])").wait_for()
    assert page.locator("#dvl-how [data-slot=question]").text_content() == gallery[0].question
    assert page.locator("#dvl-how [data-slot=answer]").first.text_content().strip() == gallery[0].trace.text


@pytest.mark.parametrize("name", ["Chat", "Race", "Explore"])
def test_a_phone_shows_every_tab_without_scrolling_sideways(visit, name):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    open_tab(page, name)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


# -- what it costs --


def test_an_update_stays_small_unless_more_was_asked_for(visit):
    page = visit()
    slow_motion(page, 0)
    before = data(page)["run"]
    click_example(page, 0)
    finish(page, before)
    from dvl_core.trace import DenoisingTrace

    trace = DenoisingTrace.from_json(trace_of(page))
    steps, trace.steps = trace.steps, []
    for step in steps:
        trace.steps.append(step)
        fresh = {token: trace.vocabulary[token] for token in step.proposals}
        assert len(json.dumps(protocol.steps_message("run", trace, len(trace.steps), trace.steps[-1:], fresh))) < 4096


def test_ten_long_runs_keep_the_page_small(visit):
    page = visit(reduced_motion="reduce")
    trace = made_up_trace([f" word{i}" for i in range(512)], length=512, block_size=64, steps=64, finish="length")
    for number in range(10):
        show(page, protocol.trace_message(f"long-{number}", trace))
    assert data(page)["run"] == "long-9"
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    assert metrics["JSHeapUsedSize"] < 60e6
