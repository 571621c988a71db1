"""The lab in a real browser: look inside, change, branch, compare, paint over, fill in; checked against the traces."""

import json

import pytest
from browsing import (
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

from visualize import links
from visualize.player import protocol

EXAMPLES = json.loads((ROOT / "assets" / "examples" / "examples.json").read_text())


def cell(page, position: int):
    return page.locator(f".dvl-cell[data-position='{position}']")


def select(page, position: int):
    page.evaluate(f"{PLAYER}.select({position})")
    page.wait_for_selector(f".dvl[data-selected='{position}']")


def answered(page, index=0, delay=0) -> dict:
    """The trace of an example's run that is over."""
    slow_motion(page, delay)
    before = data(page)["run"]
    click_example(page, index)
    finish(page, before)
    return trace_of(page)


def observed_trace():
    """A made-up run in which everything was observed."""
    trace = made_up_trace()
    trace.images = []
    for index, step in enumerate(trace.steps):
        step.candidates = [[[i, c], [100 + index % 5, round(1 - c, 4)]] for i, c in
                           zip(step.proposals, step.confidences, strict=True)]  # fmt: skip
        step.entropies = [round(1 - c, 4) for c in step.confidences]
    return trace


# -- look inside --


def test_the_inspector_says_what_the_trace_says(visit):
    page = visit(reduced_motion="reduce")
    trace = observed_trace()
    show(page, protocol.trace_message("observed", trace))
    position = 9
    history = [(i, s) for i, s in enumerate(trace.steps) if position in s.masked]
    for index, step in history[:: max(1, len(history) // 3)]:
        seek(page, index + 1)
        cell(page, position).click()
        page.wait_for_selector(f".dvl[data-selected='{position}']")
        j = step.masked.index(position)
        shown = page.locator("[data-slot=candidates] b").all_text_contents()
        assert [float(value) for value in shown] == pytest.approx([p for _, p in step.candidates[j]], abs=6e-4)
        names = page.locator("[data-slot=candidates] span").all_text_contents()
        assert names[0] == json.dumps(trace.decode([step.proposals[j]]))
        facts = page.locator("[data-slot=facts]").inner_text()
        assert f"{step.entropies[j]:.3f} nats" in facts
        assert f"{step.candidates[j][0][1] - step.candidates[j][1][1]:.3f}" in facts
        assert page.locator("[data-slot=history] button").count() == len(history)
        cell(page, position).click()
        page.wait_for_selector(".dvl[data-selected='']")


def test_a_token_can_be_looked_at_while_the_run_goes_on(visit):
    page = visit()
    slow_motion(page, 0.15)
    click_example(page, 0)
    wait_phase(page, "running")
    page.wait_for_function("Number(document.querySelector('.dvl').dataset.received) >= 3")
    cell(page, 1).click()
    page.wait_for_selector(".dvl[data-selected='1']")
    assert data(page)["phase"] == "running"
    before = int(data(page)["received"])
    page.wait_for_function(f"Number(document.querySelector('.dvl').dataset.received) > {before + 2}")
    assert data(page)["selected"] == "1"  # it stays open while steps come in
    finish(page)
    trace = trace_of(page)
    proposed = [s for s in trace["steps"] if 1 in s["masked"]]
    assert page.locator("[data-slot=history] button").count() == len(proposed)


def test_the_heatmap_has_three_kinds_and_entropy_only_where_it_was_observed(visit):
    page = visit(reduced_motion="reduce")
    show(page, protocol.trace_message("plain", made_up_trace()))
    assert page.locator("[data-slot=heat-entropy]").is_disabled()
    show(page, protocol.trace_message("observed", observed_trace()))
    pictures = set()
    for kind in ("confidence", "entropy", "order"):
        page.locator("[data-slot=heat-kind]").select_option(kind)
        page.wait_for_function(f"document.querySelector('[data-slot=heat]').dataset.known.endsWith('{kind}')")
        pictures.add(page.locator("[data-slot=heat]").screenshot())
    assert len(pictures) == 3


def test_the_overlay_is_brightest_where_the_trace_says_it_looked(visit):
    page = visit()
    answered(page, 0)
    before = data(page)["run"]
    cell(page, 2).click()
    page.locator("[data-slot=observe-attention]").click()
    finish(page, before)
    trace = trace_of(page)
    select(page, 2)
    entry = next(s for s in reversed(trace["steps"]) if 2 in s["masked"])
    layers = sorted(entry["attention"], key=int)
    rows, columns = trace["images"][0]["grid"]
    page.wait_for_function("document.querySelector('[data-slot=overlay-image]').naturalWidth > 0")
    for number, layer in enumerate(layers):
        page.locator("[data-slot=layer]").fill(str(number))
        weights = entry["attention"][layer][entry["masked"].index(2)]
        peak = max(range(rows * columns), key=weights.__getitem__)
        sheet = "document.querySelector('[data-slot=overlay-sheet]')"
        page.wait_for_function(f"{sheet}.dataset.peak === '{peak}'")
        veil = page.evaluate(
            """([row, column, rows, columns, box, width, height]) => {
                const sheet = document.querySelector('[data-slot=overlay-sheet]');
                const scale = [sheet.width / width, sheet.height / height];
                const x = (box[0] + (column + 0.5) * (box[2] - box[0]) / columns) * scale[0];
                const y = (box[1] + (row + 0.5) * (box[3] - box[1]) / rows) * scale[1];
                return sheet.getContext('2d').getImageData(Math.round(x), Math.round(y), 1, 1).data[3];
            }""",
            [peak // columns, peak % columns, rows, columns, trace["images"][0]["box"],
             trace["images"][0]["width"], trace["images"][0]["height"]],
        )  # fmt: skip
        assert veil < 10  # the veil is lifted there
    assert f"layer {layers[-1]}" in page.locator("[data-slot=overlay-title]").text_content()
    steps = [i for i, s in enumerate(trace["steps"]) if 2 in s["masked"]]
    page.locator("[data-slot=look-step]").fill("0")  # the token's own steps, first to last
    page.wait_for_selector(f".dvl[data-cursor='{steps[0] + 1}']")
    assert f"step {steps[0] + 1} " in page.locator("[data-slot=overlay-title]").text_content()


def test_the_block_view_says_what_each_block_used(visit):
    page = visit(reduced_motion="reduce")
    trace = made_up_trace()
    show(page, protocol.trace_message("made-up", trace))
    seek(page, 12)
    chips = page.locator(".dvl-block")
    states = chips.evaluate_all("(nodes) => nodes.map((n) => n.dataset.state)")
    assert states[:4] == ["prompt", "cached", "active", "unopened"]
    block = [s for s in trace.steps[:12] if s.block == 1]
    said = chips.nth(2).get_attribute("aria-label")
    assert f"{len(block)} of 8 steps" in said and " + ".join(str(len(s.revealed)) for s in block) in said


# -- change it --


def test_a_run_that_was_held_goes_on_exactly(visit):
    page = visit()
    whole = answered(page)
    slow_motion(page, 0.2)
    before = data(page)["run"]
    click_example(page, 0)
    page.wait_for_function(f"document.querySelector('.dvl').dataset.run !== '{before}'")
    page.wait_for_function("Number(document.querySelector('.dvl').dataset.received) >= 5")
    page.locator("[data-slot=hold]").click()
    finish(page)
    held, run = trace_of(page), data(page)["run"]
    assert held["finish_reason"] == "stopped" and len(held["steps"]) < len(whole["steps"])
    slow_motion(page, 0)
    page.locator("[data-slot=go-on]").click()
    finish(page, run)
    resumed = trace_of(page)
    assert resumed["text"] == whole["text"] and len(resumed["steps"]) == len(whole["steps"])
    for ours, theirs in zip(resumed["steps"], whole["steps"], strict=True):
        assert ours["proposals"] == theirs["proposals"]
        assert ours["confidences"] == pytest.approx(theirs["confidences"], abs=1e-4)
    assert resumed["parent"]["run"] == run and resumed["steps"][: len(held["steps"])] == held["steps"]
    assert page.evaluate(SHOWN_TEXT).strip() == whole["text"]


def test_tokens_are_edited_pinned_and_masked_again_and_go_on_as_a_branch(visit):
    page = visit()
    whole = answered(page)
    first = data(page)["run"]
    seek(page, 10)
    settled = sorted({p for s in whole["steps"][:10] for p in s["revealed"]})
    edited, masked, pinned = settled[2], settled[4], settled[6]
    select(page, pinned)
    page.locator("[data-slot=pin]").click()
    select(page, masked)
    page.locator("[data-slot=mask]").click()
    page.wait_for_selector(f".dvl-cell[data-position='{masked}'][data-changed=mask]")
    page.keyboard.press("Control+z")
    page.wait_for_function(f"!document.querySelector('.dvl-cell[data-position=\"{masked}\"]').dataset.changed")
    page.locator("[data-slot=mask]").click()
    select(page, edited)
    page.locator("[data-slot=edit]").click()
    page.locator("[data-slot=edit-rest]").uncheck()
    page.locator("[data-slot=edit-text]").fill("purple")
    page.locator("[data-slot=edit-text]").press("Enter")
    page.wait_for_selector(f".dvl-cell[data-position='{edited}'][data-changed=edit]")
    assert cell(page, edited).text_content().strip() == "purple"
    page.locator("[data-slot=go-on]").click()
    finish(page, first)
    branch = trace_of(page)
    assert branch["steps"][:10] == whole["steps"][:10]  # the prefix is shared
    assert branch["parent"]["run"] == first and branch["parent"]["step"] == 10
    changed = {position: token for _, position, token in branch["changes"]}
    assert changed[masked] is None and changed[edited] is not None and set(changed) == {masked, edited}
    later = branch["steps"][10:]
    assert all(edited not in s["masked"] and pinned not in s["masked"] for s in later)
    assert any(masked in s["revealed"] for s in later)
    shown = page.locator("#dvl-chat .message-content").last.text_content().strip()
    assert shown == branch["text"] == page.evaluate(SHOWN_TEXT).strip()
    rows = page.locator(".dvl-run")
    rows.filter(has_text="from step 10").locator("input").check()
    page.locator(f".dvl-run[data-run='{first}'] input").check()
    different = page.locator("[data-slot=difference] [data-differs=true]").all_text_contents()
    assert " purple" in different
    page.locator(f".dvl-run[data-run='{first}'] button").click()
    page.wait_for_selector(f".dvl[data-run='{first}']")
    page.wait_for_function(
        "(text) => [...document.querySelectorAll('#dvl-chat .message-content')].pop().textContent.trim() === text",
        arg=whole["text"],
    )


def test_an_occluded_picture_is_asked_about_again_with_the_same_seed(visit):
    page = visit()
    answered(page)
    first = data(page)["run"]
    select(page, 2)
    sheet = page.locator("[data-slot=overlay-sheet]")
    sheet.scroll_into_view_if_needed()
    box = sheet.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.35)
    page.mouse.up()
    region = [float(share) for share in sheet.get_attribute("data-region").split(",")]
    page.locator("[data-slot=occlude]").click()
    finish(page, first)
    trace = trace_of(page)
    assert trace["prompt"]["occluded"] == pytest.approx(region, abs=0.002)
    assert "painted over" in page.locator(".dvl-run[data-shown=true]").inner_text()


def test_a_template_is_kept_to_the_letter(visit):
    page = visit()
    slow_motion(page, 0)
    page.get_by_label("Answer template").fill("There is a ___ at the top left, and <b>that</b> is all.")
    before = data(page)["run"]
    click_example(page, 0)
    finish(page, before)  # such a short run may be over before anybody has seen it run
    text = trace_of(page)["text"]
    assert text.startswith("There is a ") and text.endswith(" at the top left, and <b>that</b> is all.")
    assert page.evaluate(SHOWN_TEXT).strip() == text
    page.get_by_label("Answer template").fill("no hole")
    click_example(page, 0)
    page.get_by_text("The template has no hole").wait_for()


# -- take it home, come back --


def test_a_trace_file_replays_and_what_is_none_is_refused(visit, tmp_path):
    page = visit(reduced_motion="reduce")
    trace = made_up_trace(["<img src=x onerror=window.hacked=1>", " ${window.hacked=2}", " fine"], 16)
    file, other = tmp_path / "trace.json", tmp_path / "other.json"
    trace.save(file)
    other.write_text("{}")
    page.get_by_role("tab", name="Replay").click()
    page.locator("#dvl-replay .dvl[data-phase=recorded]").wait_for()
    page.locator("#dvl-trace-file input[type=file]").set_input_files(str(file))
    page.wait_for_function(f"document.querySelector('#dvl-replay .dvl').dataset.total === '{len(trace.steps)}'")
    shown = page.locator("#dvl-replay .dvl-cell:not([data-after])").all_text_contents()
    assert "".join(shown) == trace.text
    page.locator("#dvl-trace-file").get_by_label("Clear").first.click()
    page.locator("#dvl-trace-file input[type=file]").set_input_files(str(other))
    page.get_by_text("This is not a trace").wait_for()
    assert page.evaluate("window.hacked") is None


def test_a_recording_can_be_picked_again(visit):
    page = visit(reduced_motion="reduce")
    first, second = made_up_trace(length=16), made_up_trace(["Other", "."], 8)
    for name, trace in (("first", first), ("second", second), ("first", first)):
        show(page, protocol.trace_message(name, trace))
        assert data(page)["run"] == name and page.evaluate(SHOWN_TEXT) == trace.text


def test_a_link_brings_back_question_example_and_settings(visit):
    settings = {"block_size": 8, "steps": 3, "strategy": "factor", "factor": 2.0, "seed": 7}
    page = visit(query=links.query("How many <b>?", EXAMPLES[1]["image"], EXAMPLES, settings))
    page.wait_for_function("document.querySelector('#dvl-box textarea')?.value === 'How many <b>?'")
    assert page.get_by_role("spinbutton", name="Steps per block", exact=True).input_value() == "3"
    assert page.get_by_role("spinbutton", name="Seed", exact=True).input_value() == "7"
    page.get_by_label("number input for Factor").wait_for()
    page.locator("#dvl-box .thumbnail-item, #dvl-box .thumbnails").first.wait_for()
    page.get_by_text("Copy a link to this question").click()
    page.wait_for_function("location.search.includes('steps=3')")
    assert "How+many+%3Cb%3E%3F" in page.url and EXAMPLES[1]["image"] in page.url


# -- for everyone --


def test_the_keyboard_walks_tokens_blocks_and_opens_its_card(visit):
    page = visit(reduced_motion="reduce")
    trace = made_up_trace()
    show(page, protocol.trace_message("made-up", trace))
    canvas = page.locator(".dvl-canvas")
    canvas.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".dvl[data-selected='0']")
    page.keyboard.press("Tab")
    page.wait_for_selector(".dvl[data-selected='1']")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Escape")
    page.wait_for_selector(".dvl[data-selected='']")
    page.keyboard.press("Home")
    page.wait_for_selector(".dvl[data-cursor='0']")
    page.keyboard.press("]")
    second = next(i for i, s in enumerate(trace.steps) if s.block == 1)
    page.wait_for_selector(f".dvl[data-cursor='{second}']")
    page.keyboard.press("?")
    page.locator(".dvl-help[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator(".dvl-help[open]").wait_for(state="detached")


def test_a_screen_reader_hears_the_new_words_without_a_flood(visit):
    page = visit()
    page.evaluate("""() => {
        window.heard = [];
        const node = document.querySelector('[data-slot=spoken]');
        new MutationObserver(() => heard.push([performance.now(), node.textContent])).observe(node, {childList: true});
    }""")
    answered(page, 0, delay=0.1)
    page.wait_for_function("window.heard.some(([at, text]) => text.startsWith('Finished after'))")
    heard = page.evaluate("window.heard")
    running = [(at, text) for at, text in heard if text.startswith("Block ")]
    assert running and all(b[0] - a[0] > 1900 for a, b in zip(running, running[1:], strict=False))
    words = trace_of(page)["text"].replace(".", " ").split()
    assert any(word in running[0][1] for word in words)


def test_chinese_is_spoken_throughout(visit):
    page = visit(locale="zh-CN")
    for text in ("对话", "回放", "设置", "块大小", "回答模板"):
        page.get_by_text(text, exact=True).first.wait_for()
    assert page.locator(".dvl-counters dt").first.text_content() == "块"
    set_number(page, "每块步数", 0)
    page.locator("#dvl-box textarea").fill("?")
    page.keyboard.press("Enter")
    page.get_by_text("每块步数必须是 1 到 4096 的整数；现为 0。").wait_for()  # sentences of the server, too
    page.locator("#dvl-language").click()
    page.get_by_text("Block size", exact=True).wait_for()
    assert page.evaluate("navigator.language") == "en"


def test_scrubbing_a_long_run_stays_smooth(visit):
    page = visit(reduced_motion="reduce")
    pieces = [f" word{i}" for i in range(512)]
    trace = made_up_trace(pieces, length=512, block_size=8, steps=8, finish="length")
    show(page, protocol.trace_message("long", trace))
    spent = page.evaluate(
        f"""async () => {{
            const player = {PLAYER}, real = window.requestAnimationFrame, times = [];
            window.requestAnimationFrame = (paint) => real((now) => {{
                const began = performance.now(); paint(now); times.push(performance.now() - began);
            }});
            for (let step = 0; step < {len(trace.steps)}; step += 7) {{
                player.seek(step);
                await new Promise((done) => real(() => real(done)));
            }}
            window.requestAnimationFrame = real;
            return times.sort((a, b) => a - b);
        }}"""
    )
    assert len(spent) > 50 and spent[len(spent) // 2] < 16
