"""The page in a real browser, checked against the traces it shows. Skipped only where no Chromium is."""

import json
import re

import pytest
from browsing import (
    DRAWN,
    PLAYER,
    SHOWN_TEXT,
    click_example,
    data,
    finish,
    seek,
    set_number,
    show,
    slow_motion,
    trace_of,
    wait_phase,
)
from page_server import ROOT
from traces import made_up_trace

from visualize.player import protocol
from visualize.theme import LIGHT

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")

EXAMPLES = json.loads((ROOT / "assets" / "examples" / "examples.json").read_text())
HOSTILE = "<img src=x onerror=window.hacked=1> </script> ${window.hacked=2} {{constructor}} <b>bold</b>"

HIDDEN = """Object.defineProperty(document, 'visibilityState', {get: () => 'hidden'});
Object.defineProperty(document, 'hidden', {get: () => true});"""
# Two of three messages never arrive, the first one among them.
LOSE_MESSAGES = f"""() => {{
  const player = {PLAYER}, receive = player.receive;
  let count = 0;
  player.receive = (message) => {{ if (message.done || count++ % 3 === 2) receive(message); }};
}}"""


# -- the empty page --


def test_a_recorded_run_plays_before_anybody_asks(visit):
    page = visit()
    page.wait_for_function("Number(document.querySelector('.dvl').dataset.cursor) > 1")
    assert data(page)["playing"] == "true"
    assert page.locator(".dvl-strip button").count() == len(EXAMPLES)
    assert "recorded run" in page.locator(".dvl-note").text_content()
    page.wait_for_function("[...document.querySelectorAll('.dvl-strip img')].every((i) => i.naturalWidth > 0)")


def test_reduced_motion_shows_the_finished_run_at_once(visit):
    page = visit(reduced_motion="reduce")
    page.wait_for_selector(".dvl[data-complete='true']")
    assert data(page)["playing"] == "false"
    assert page.evaluate(SHOWN_TEXT).strip() == trace_of(page)["text"]


# -- a run --


def test_an_example_streams_every_step_and_shows_what_the_trace_holds(visit):
    page = visit()
    slow_motion(page, 0.02)
    click_example(page)
    wait_phase(page, "running")
    finish(page)
    trace, shown = trace_of(page), data(page)
    assert int(shown["received"]) == int(shown["total"]) == len(trace["steps"])
    assert page.evaluate(SHOWN_TEXT).strip() == trace["text"]
    bubbles = page.locator("#dvl-chat .message-content").all_text_contents()
    assert bubbles[0].strip() == EXAMPLES[0]["question"] and bubbles[1].strip() == trace["text"]
    last = trace["steps"][-1]
    counters = {
        k: page.locator(f".dvl [data-slot={k}]").text_content() for k in ("block", "forwards", "per-forward", "prefill")
    }
    assert counters["block"].startswith(f"{last['block'] + 1} of ") and counters["forwards"] == str(last["forwards"])
    assert counters["prefill"] == f"{round(trace['prefill_milliseconds'])} ms"


def test_the_heatmap_shows_every_confidence_in_its_colour(visit):
    page = visit()
    slow_motion(page, 0)
    click_example(page, 4)
    finish(page)
    trace = trace_of(page)
    cells = [[s["step"], p, c] for s in trace["steps"] for p, c in zip(s["masked"], s["confidences"], strict=True)]
    pixels = page.evaluate(
        """(cells) => {
            const canvas = document.querySelector("[data-slot=heat]");
            const d = canvas.dataset, pen = canvas.getContext("2d");
            return cells.map(([step, position]) => {
                const x = Number(d.left) + (position + 0.5) * d.columnWidth, y = step * d.rowHeight + 2;
                return [...pen.getImageData(Math.floor(x), y, 1, 1).data.slice(0, 3)];
            });
        }""",
        cells,
    )
    cursor = trace["steps"][-1]  # the row the scrubber frames is drawn over
    for (step, position, confidence), pixel in zip(cells, pixels, strict=True):
        if step == cursor["step"] and position >= cursor["span"][0]:
            continue
        colour = LIGHT.scale[min(8, round(confidence * 8))]
        expected = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert max(abs(a - b) for a, b in zip(pixel, expected, strict=True)) <= 12, (step, position, confidence)


def test_scrubbing_back_shows_the_masks_of_that_step(visit):
    page = visit()
    slow_motion(page, 0)
    click_example(page, 1)
    finish(page)
    trace = trace_of(page)
    page.locator("[data-act=first]").click()
    page.wait_for_selector(".dvl[data-cursor='0']")
    assert page.locator(".dvl-cell:not([data-state=masked])").count() == 0
    for count in (1, 2):
        page.locator("[data-act=forward]").click()
        page.wait_for_selector(f".dvl[data-cursor='{count}']")
        new = page.locator(".dvl-cell[data-state=new]")
        positions = [int(p) for p in new.evaluate_all("(cells) => cells.map((c) => c.dataset.position)")]
        assert positions == sorted(trace["steps"][count - 1]["revealed"])
        assert page.locator(".dvl [data-slot=forwards]").text_content() == str(trace["steps"][count - 1]["forwards"])
    assert page.locator("[data-slot=time]").text_content() == f"2 / {len(trace['steps'])}"
    page.locator("[data-act=last]").click()
    page.wait_for_selector(".dvl[data-complete='true']")


def test_a_finished_run_counts_the_blocks_that_it_used_wherever_it_is_scrubbed_to(visit):
    page = visit(reduced_motion="reduce")
    page.wait_for_selector(".dvl[data-complete='true']")
    trace = trace_of(page)
    used = trace["steps"][-1]["block"] + 1
    assert used > 3 and trace["length"] > used * trace["settings"]["block_size"]  # longer answers were allowed
    assert page.locator(".dvl-block[data-state=cached]").count() == used
    page.locator("[data-act=first]").click()
    page.wait_for_selector(".dvl[data-cursor='0']")
    assert page.locator(".dvl [data-slot=block]").text_content() == f"1 of {used}"
    assert page.locator(".dvl-block[data-state=rest]").text_content() == f"+ {used - 3}"
    assert page.locator(".dvl-more").text_content() == f"+ {used - 3} block" + "s" * (used > 4)


def test_a_short_run_shows_no_blocks_that_it_never_used(visit):
    page = visit(reduced_motion="reduce")
    trace = made_up_trace(["a", " b", " c"], length=32, block_size=8, steps=4)
    show(page, protocol.trace_message("short", trace))
    assert page.locator(".dvl [data-slot=block]").text_content() == "1 of 1"
    page.locator("[data-act=first]").click()
    page.wait_for_selector(".dvl[data-cursor='0']")
    assert page.locator(".dvl [data-slot=block]").text_content() == "1 of 1"
    assert page.locator(".dvl-block:not([data-state=prompt])").count() == 1


def test_the_keyboard_and_the_scrubber_move_the_whole_page(visit):
    page = visit(reduced_motion="reduce")
    page.locator(".dvl-canvas").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".dvl[data-cursor='1']")
    page.locator("[data-slot=scrubber]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".dvl[data-cursor='2']")
    assert page.locator("[data-slot=scrubber]").get_attribute("aria-valuetext").startswith("step 2 of ")
    before = page.locator("[data-slot=heat]").screenshot()
    page.locator(".dvl-canvas").focus()
    page.keyboard.press("End")
    page.wait_for_selector(".dvl[data-complete='true']")
    assert page.locator("[data-slot=heat]").screenshot() != before  # the heatmap follows
    page.keyboard.press(" ")
    page.wait_for_selector(".dvl[data-playing='true']")


def test_stop_stops_within_a_step_and_keeps_what_was_there(visit):
    page = visit()
    slow_motion(page, 0.4)
    click_example(page)
    wait_phase(page, "running")
    page.wait_for_function("Number(document.querySelector('.dvl').dataset.received) >= 2")
    seen = int(data(page)["received"])
    page.locator("#dvl-box .stop-button").click()
    wait_phase(page, "finished", timeout=3_000)
    page.wait_for_function(DRAWN)
    trace = trace_of(page)
    assert trace["finish_reason"] == "stopped" and seen <= len(trace["steps"]) <= seen + 2
    assert page.locator(".dvl-note").text_content().startswith("Stopped after step")
    assert page.evaluate(SHOWN_TEXT).strip() == trace["text"]
    assert page.locator(".dvl-cell[data-state=masked]:visible").count() > 0
    page.locator("#dvl-box .submit-button").wait_for()  # ready for the next question


# -- errors and hostile text --


def test_an_error_says_what_to_do_and_loses_nothing(visit, tmp_path):
    page = visit()
    slow_motion(page, 0)
    click_example(page, 2)
    finish(page)
    kept, shown = data(page)["run"], page.locator("#dvl-chat .message-content").all_text_contents()
    set_number(page, "Steps per block", 0)
    page.locator("#dvl-box textarea").fill("And now?")
    page.keyboard.press("Enter")
    page.get_by_text("Steps per block must be a whole number").wait_for()
    set_number(page, "Steps per block", 8)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 50)
    page.locator("#dvl-box input[type=file]").set_input_files(str(broken))
    page.locator("#dvl-box .thumbnail-item, #dvl-box .thumbnails").first.wait_for()
    page.locator("#dvl-box textarea").press("Enter")
    page.locator("#dvl-main .dvl-notice", has_text=re.compile("picture|file")).wait_for()
    assert data(page)["run"] == kept and page.locator("#dvl-chat .message-content").all_text_contents() == shown
    assert page.locator("#dvl-box textarea").input_value() == "And now?"


def test_hostile_text_is_shown_as_text(visit):
    page = visit()
    slow_motion(page, 0)
    set_number(page, "Answer length", 8)
    page.locator("#dvl-box textarea").fill(HOSTILE)
    page.keyboard.press("Enter")
    finish(page)
    assert HOSTILE in [text.strip() for text in page.locator("#dvl-chat .message-content").all_text_contents()]
    trace = made_up_trace(
        ["<img src=x onerror=window.hacked=1>", " </script>", " ${window.hacked=2}", " {{x}}", "\n<b>b</b>"], 16
    )
    show(page, protocol.trace_message("hostile", trace))
    page.locator(".dvl-canvas").press("End")
    page.wait_for_selector(".dvl[data-complete='true']")
    assert page.evaluate(SHOWN_TEXT) == trace.text
    assert page.evaluate("window.hacked") is None
    assert page.locator(".dvl-canvas img, .dvl-canvas b, #dvl-chat b").count() == 0


# -- the player alone --


def test_characters_spread_over_tokens_and_line_breaks_show_properly(visit):
    page = visit(reduced_motion="reduce")
    trace = made_up_trace()
    show(page, protocol.trace_message("made-up", trace))
    page.wait_for_selector(".dvl[data-run=made-up][data-complete=true]")
    assert page.evaluate(SHOWN_TEXT) == trace.text
    for count in range(0, len(trace.steps), 5):  # at no step does half a character show as garbage
        seek(page, count)
        assert "\ufffd" not in page.evaluate(SHOWN_TEXT)
        masked = page.locator(".dvl-cell[data-state=masked]").count()
        assert masked == trace.canvas(count).count(None)


def test_states_and_confidence_are_told_apart_by_more_than_colour(visit):
    page = visit(reduced_motion="reduce")
    trace = made_up_trace()
    show(page, protocol.trace_message("made-up", trace))
    seek(page, 12)
    look = """(cell) => {
        const style = getComputedStyle(cell.querySelector('.dvl-tok'));
        return [style.borderBottomStyle, style.boxShadow, style.display];
    }"""
    assert page.locator(".dvl-cell[data-state=masked]").first.evaluate(look)[2] == "inline-block"
    assert page.locator(".dvl-cell[data-state=new]").first.evaluate(look)[1] != "none"
    assert page.locator(".dvl-cell[data-state=settled]").first.evaluate(look)[1] == "none"
    confidence = {
        p: c for s in trace.steps[:12] for p, c in zip(s.masked, s.confidences, strict=True) if p in s.revealed
    }
    for position, value in confidence.items():
        cell = page.locator(f".dvl-cell[data-position='{position}']")
        expected = "dotted" if value < 0.5 else "dashed" if value < 0.9 else "solid"
        assert cell.evaluate(look)[0] == expected


def test_end_tokens_show_on_demand(visit):
    page = visit(reduced_motion="reduce")
    show(page, protocol.trace_message("made-up", made_up_trace()))
    page.wait_for_selector(".dvl[data-run=made-up][data-complete=true]")
    ends = page.locator(".dvl-cell[data-eos]")
    assert ends.count() > 0 and page.locator(".dvl-cell[data-eos]:visible").count() == 0
    page.locator("[data-slot=ends]").check()
    assert page.locator(".dvl-cell[data-eos]:visible").count() == ends.count()
    assert ends.first.evaluate("(c) => getComputedStyle(c.querySelector('.dvl-tok'), '::after').content") == '"end"'


@pytest.mark.parametrize("how", ["hidden tab", "lost messages"])
def test_steps_a_page_has_missed_are_fetched(visit, how):
    page = visit(init=HIDDEN if how == "hidden tab" else None)
    slow_motion(page, 0)
    if how == "lost messages":  # two of three messages never arrive, the first one among them
        page.evaluate(LOSE_MESSAGES)
    click_example(page)
    finish(page)
    page.wait_for_function(
        "document.querySelector('.dvl').dataset.received === document.querySelector('.dvl').dataset.total"
    )
    page.wait_for_function(DRAWN)
    trace = trace_of(page)
    assert int(data(page)["received"]) == len(trace["steps"]) and page.evaluate(SHOWN_TEXT).strip() == trace["text"]


# -- visitors and screens --


def test_two_visitors_have_their_own_runs(visit):
    one, two = visit(), visit()
    for page, index in ((one, 0), (two, 2)):
        slow_motion(page, 0.05)
        set_number(page, "Answer length", 24)
        click_example(page, index)
    for page, index in ((one, 0), (two, 2)):
        finish(page)
        trace = trace_of(page)
        assert trace["prompt"]["messages"][0]["text"] == EXAMPLES[index]["question"]
        assert page.evaluate(SHOWN_TEXT).strip() == trace["text"]
    assert data(one)["run"] != data(two)["run"]


def test_a_conversation_keeps_its_picture_until_a_new_one_begins(visit):
    page = visit()
    slow_motion(page, 0)
    set_number(page, "Answer length", 16)
    click_example(page, 2)
    finish(page)
    first = data(page)["run"]
    page.locator("#dvl-box textarea").fill("Read the word backwards.")
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('.dvl').dataset.run !== '{first}'")
    finish(page)
    trace = trace_of(page)
    assert len(trace["prompt"]["messages"]) == 3 and len(trace["images"]) == 1
    page.get_by_role("button", name="New conversation").click()
    page.get_by_text("Drop a picture below and ask about it").wait_for()


def test_of_several_examples_the_last_that_is_clicked_is_answered(visit):
    page = visit()
    slow_motion(page, 0.1)
    set_number(page, "Answer length", 16)
    for index in (0, 3, 1):
        click_example(page, index)
        page.wait_for_timeout(60)
    page.wait_for_function(
        "(text) => document.querySelector('#dvl-chat').innerText.includes(text)", arg=EXAMPLES[1]["question"]
    )
    finish(page)
    assert trace_of(page)["prompt"]["messages"][-1]["text"] == EXAMPLES[1]["question"]
    runs = page.locator(".dvl-run").count()
    page.wait_for_timeout(1500)
    assert page.locator(".dvl-run").count() == runs and data(page)["phase"] == "finished"


def test_a_follow_up_goes_on_with_the_recording_and_a_picture_begins_anew(visit):
    page = visit()
    slow_motion(page, 0)
    set_number(page, "Answer length", 8)
    for picture, messages in ((None, 3), (ROOT / "assets" / "examples" / EXAMPLES[1]["image"], 1)):
        if picture:
            page.reload()
            page.wait_for_selector(".dvl-cell")
            set_number(page, "Answer length", 8)
            page.locator("#dvl-box input[type=file]").set_input_files(picture)
            page.locator("#dvl-box .thumbnail-item, #dvl-box img").first.wait_for()
        page.locator("#dvl-box textarea").fill("How many shapes are there?")
        page.keyboard.press("Enter")
        finish(page)
        trace = trace_of(page)
        assert len(trace["prompt"]["messages"]) == messages and len(trace["images"]) == 1


def test_a_text_put_after_the_end_is_part_of_the_answer_and_has_no_confidence(visit):
    page = visit()
    slow_motion(page, 0)
    set_number(page, "Answer length", 8)
    click_example(page)
    finish(page)
    before = data(page)["run"]
    below = "[...document.querySelectorAll('[data-slot=scrubber], [data-slot=canvas]')].map((n) => n.offsetTop).join()"
    transport = page.evaluate(below)
    page.locator(".dvl-cell").nth(2).click()
    page.locator("[data-slot=edit]").first.click()
    page.locator("[data-slot=edit-text]").first.fill("green")
    page.locator("[data-slot=edit-rest]").first.uncheck()
    page.locator("[data-slot=edit-text]").first.press("Enter")
    page.get_by_text("put here by hand").wait_for()
    assert page.locator("[data-slot=facts]").first.text_content().count("confidence") == 0
    assert page.evaluate(below) == transport  # nothing moved away from under the cursor
    page.locator("[data-slot=go-on]").first.click()
    finish(page, before)
    assert "green" in trace_of(page)["text"] and "green" in page.evaluate(SHOWN_TEXT)


def test_a_strategy_shows_its_own_parameter_only(visit):
    page = visit()
    sliders = {name: page.get_by_label(f"number input for {name}") for name in ("Threshold", "Entropy bound", "Factor")}
    for strategy, parameter in (("low confidence dynamic", "Threshold"), ("factor", "Factor"), ("random", None)):
        page.get_by_label("Strategy", exact=True).click()
        page.get_by_role("option", name=strategy, exact=True).click()
        for name, slider in sliders.items():
            sync_api.expect(slider).to_be_visible() if name == parameter else sync_api.expect(slider).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(visit, scheme):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True, color_scheme=scheme)
    sync_api.expect(page.get_by_label("Block size", exact=True)).to_be_hidden()  # the settings are folded
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    chat, canvas = (page.locator(s).bounding_box() for s in ("#dvl-chat", ".dvl-canvas"))
    assert chat["y"] < canvas["y"]
    seek(page, 3)
    page.wait_for_selector(".dvl-cell[data-state=masked]")
    assert page.locator(".dvl-cell[data-state=masked] .dvl-tok").first.bounding_box()["height"] >= 32
    assert all(
        b["height"] >= 32
        for b in page.locator("[data-act]").evaluate_all("(bs) => bs.map((b) => b.getBoundingClientRect().toJSON())")
    )


def test_the_figure_and_the_trace_can_be_taken_home(visit):
    page = visit(reduced_motion="reduce")
    page.locator(".dvl-take summary").click()
    page.wait_for_function("document.querySelector('[data-slot=figure]').naturalWidth > 600")
    for name in ("png", "json"):
        with page.expect_download() as download:
            page.locator(f"[data-slot={name}]").click()
        assert download.value.path().stat().st_size > 1000
