"""The page around the player, in a real browser: conversations, keys, places that stay, what a reload keeps."""

import pytest
from browsing import PLAYER, click_example, data, finish, seek, set_number, show, slow_motion, trace_of, wait_phase
from PIL import Image
from traces import made_up_trace

from visualize import links
from visualize.player import protocol


def asked(trace) -> list[str]:
    return [message["text"] for message in trace["prompt"]["messages"] if message["role"] == "user"]


def ask(page, text: str):
    page.locator("#dvl-box textarea").fill(text)
    page.locator("#dvl-box textarea").press("Enter")




def answered(page, index: int):
    """An example's run, to its end."""
    before = data(page)["run"]
    click_example(page, index)
    finish(page, before)


def test_a_question_asked_while_an_answer_runs_goes_on_from_it(visit):
    """It keeps the picture, and what was answered so far."""
    page = visit()
    slow_motion(page, 0.3)
    click_example(page, 4)  # a chart
    wait_phase(page, "running")
    page.wait_for_function("Number(document.querySelector('.dvl').dataset.received) > 2")
    first = data(page)["run"]
    slow_motion(page, 0)
    ask(page, "Which value is the smallest?")
    finish(page, first)
    trace = trace_of(page)
    assert len(trace["images"]) == 1 and asked(trace) == ["Which value is the largest?", "Which value is the smallest?"]
    page.wait_for_function("document.querySelector('#dvl-chat').innerText.includes('Which value is the largest?')")
    assert "Which value is the smallest?" in page.locator("#dvl-chat").inner_text()


def test_a_question_asked_before_anything_is_answered_takes_its_place(visit):
    page = visit()
    slow_motion(page, 1)
    set_number(page, "Answer length", 24)
    click_example(page, 4)
    page.wait_for_function("document.querySelector('.dvl').dataset.phase === 'running'")
    first, settled = data(page)["run"], int(data(page)["received"])
    slow_motion(page, 0)
    ask(page, "Which value is the smallest?")
    finish(page, first)
    trace = trace_of(page)
    assert len(trace["images"]) == 1 and asked(trace)[-1] == "Which value is the smallest?"
    assert len(asked(trace)) <= 1 + settled


def test_the_last_question_is_asked_again_under_other_settings(visit):
    page = visit()
    slow_motion(page, 0)
    answered(page, 2)
    before = trace_of(page)
    set_number(page, "Steps per block", 2)
    first = data(page)["run"]
    page.get_by_role("button", name="Ask again").click()
    finish(page, first)
    again = trace_of(page)
    assert again["settings"]["steps"] == 2 and again["prompt"] == before["prompt"]
    assert again["images"][0]["sha256"] == before["images"][0]["sha256"]
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("button", name="Ask again").wait_for(state="hidden")


def test_a_link_names_no_example_for_a_picture_that_is_only_called_like_one(visit, tmp_path):
    page = visit()
    slow_motion(page, 0)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "chart.png")
    page.locator("#dvl-box input[type=file]").set_input_files(tmp_path / "chart.png")
    page.locator("#dvl-box img").first.wait_for()
    before = data(page)["run"]
    ask(page, "What do you see?")
    finish(page, before)
    page.locator("#dvl-link").click()
    page.get_by_text(links.NO_PICTURE).wait_for()
    assert "example=" not in page.url and "ask=" in page.url


@pytest.mark.parametrize("query", ["?seed=1e30&steps=1e300", "?seed=-1e30"])
def test_a_link_with_absurd_numbers_opens_the_page(visit, query):
    page = visit(query=query)
    page.get_by_role("spinbutton", name="Seed", exact=True).wait_for()
    seed = page.locator("#dvl-settings input[aria-label=Seed]")
    page.wait_for_function("(seed) => Math.abs(Number(seed.value)) === 2 ** 53 - 1", arg=seed.element_handle())


@pytest.mark.parametrize("width", [768, 900, 1000])
def test_two_narrow_columns_cut_nothing_off(visit, width):
    page = visit(width=width, height=1000, reduced_motion="reduce")
    show(page, protocol.trace_message("made-up", made_up_trace()))
    for part in (".dvl-counters", ".dvl-controls"):
        wide, room = page.locator(f"#dvl-player {part}").evaluate("(node) => [node.scrollWidth, node.clientWidth]")
        assert wide <= room, part


def test_nothing_below_the_controls_moves_while_a_run_is_scrubbed(visit):
    page = visit(reduced_motion="reduce")
    place = "document.querySelector('#dvl-player .dvl-legend').getBoundingClientRect().top + scrollY"
    slow_motion(page, 0)
    answered(page, 0)
    at_the_end = page.evaluate(place)
    assert "change a token" in page.locator("#dvl-player [data-slot=changes]").inner_text()
    seek(page, 5)
    assert page.locator("#dvl-player [data-slot=go-on]").is_visible()
    assert page.evaluate(place) == at_the_end


def test_a_click_in_the_heatmap_keeps_it_under_the_pointer(visit):
    page = visit(reduced_motion="reduce")
    show(page, protocol.trace_message("made-up", made_up_trace()))
    heat = page.locator("#dvl-player canvas[data-slot=heat]")
    heat.scroll_into_view_if_needed()
    box = heat.bounding_box()
    page.mouse.click(box["x"] + 60, box["y"] + 5)
    page.locator("#dvl-player [data-slot=inspector]").wait_for()
    page.evaluate("new Promise((drawn) => setTimeout(drawn, 200))")
    assert heat.bounding_box()["y"] == pytest.approx(box["y"], abs=2)


def test_the_token_that_is_looked_into_stays_when_the_run_is_recorded_again(visit):
    page = visit()
    slow_motion(page, 0)
    answered(page, 2)
    page.evaluate(f"{PLAYER}.select(3)")
    first = data(page)["run"]
    page.locator("#dvl-player [data-slot=observe-attention]").click()
    finish(page, first)
    page.wait_for_selector(".dvl[data-selected='3']")
    assert page.locator("#dvl-player [data-slot=candidates] li").count() == 5


def test_keys_work_after_the_slider_and_after_an_example(visit):
    page = visit(reduced_motion="reduce")
    slow_motion(page, 0)
    answered(page, 2)
    end = int(data(page)["cursor"])
    page.keyboard.press("ArrowLeft")  # the focus went from the example to the canvas
    page.wait_for_selector(f".dvl[data-cursor='{end - 1}']")
    page.locator("#dvl-player [data-slot=scrubber]").focus()
    page.keyboard.press("Home")
    page.wait_for_selector(".dvl[data-cursor='0']")
    page.keyboard.press("]")
    page.wait_for_function("Number(document.querySelector('.dvl').dataset.cursor) > 0")
    page.keyboard.press("Space")
    page.wait_for_selector(".dvl[data-playing='true']")


def test_dark_stays_after_a_reload_and_its_button_has_a_name(visit):
    page = visit()
    page.get_by_role("button", name="Dark or light").click()
    page.reload()
    page.wait_for_selector("body.dark")
    page.wait_for_selector("#dvl-player .dvl-cell")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 22)"


def test_another_language_asks_before_it_takes_a_conversation_away(visit):
    page = visit()
    slow_motion(page, 0)
    answered(page, 2)
    shown, asked_for = data(page)["run"], []

    def refuse(dialog):
        asked_for.append(dialog.message)
        dialog.dismiss()

    page.once("dialog", refuse)
    page.locator("#dvl-language").click()
    assert "conversation will be gone" in asked_for[0] and data(page)["run"] == shown


def test_a_run_is_shown_on_the_whole_screen_in_large_type(visit):
    page = visit(reduced_motion="reduce")
    show(page, protocol.trace_message("made-up", made_up_trace()))
    size = "parseFloat(getComputedStyle(document.querySelector('#dvl-player .dvl-canvas')).fontSize)"
    before = page.evaluate(size)
    page.locator("#dvl-player [data-slot=full]").click()
    page.wait_for_function("document.fullscreenElement !== null")
    assert page.evaluate(size) > 1.15 * before
    page.evaluate("document.exitFullscreen()")


def test_runs_are_told_apart_by_their_pictures(visit):
    page = visit()
    slow_motion(page, 0)
    for index in (0, 4):
        answered(page, index)
    pictures = page.locator("#dvl-player .dvl-run-name img")
    page.wait_for_function("document.querySelectorAll('#dvl-player .dvl-run-name img').length >= 2")
    assert len({pictures.nth(i).get_attribute("src") for i in range(pictures.count())}) >= 2

