"""The race in a real browser, checked against the traces it replays. Skipped only where no Chromium is."""

from itertools import accumulate

import pytest
from test_race import autoregressive_trace, message
from traces import PIECES, made_up_trace

from visualize import race
from visualize.race import protocol

PAGE = f"""<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>body {{ margin: 12px; }} {race.CSS}</style><div id="host">{race.TEMPLATE}</div><script>{race.SCRIPT}
createRace(document.getElementById("host"), {{ button: "Start <b>it</b>" }});</script>"""
RACE = "document.getElementById('host').dvlRace"
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
NAMED = [protocol.about_lane(name, "block_diffusion", {}) for name in "xy"]
HOSTILE = "<img src=x onerror=window.hacked=1></script>${window.hacked=2}{{constructor}}<b>bold</b>"

# What a reader sees of each lane: text of the settled cells, their positions, those of the masks, and the counters.
LANES = """() => [...document.querySelectorAll(".dvl-race-lane")].map((lane) => {
  const all = [...lane.querySelectorAll(".dvl-race-cell")];
  const cells = (states) => all.filter((c) => states.includes(c.dataset.state));
  const positions = (states) => cells(states).map((c) => Number(c.dataset.position));
  const slot = (name) => lane.querySelector(`[data-slot=${name}]`).textContent;
  const counters = ["forwards", "tokens", "per-forward", "seconds", "per-second"];
  return { text: cells(["settled", "new"]).map((c) => c.textContent).join(""), settled: positions(["settled", "new"]),
           fresh: positions(["new"]), masked: positions(["masked"]), state: lane.dataset.phase,
           differing: [...lane.querySelectorAll("mark")].map((m) => m.textContent),
           counters: Object.fromEntries(counters.map((name) => [name, slot(name)])) };
})"""


@pytest.fixture
def visit(browser):
    """`visit(message, ..., width=...)`: a page that got these messages; what the browser complained about fails."""
    opened, complaints = [], []

    def open_page(*messages, width=1440, still=False, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        if still:  # time stands still until the test lets it run
            page.clock.install(time=0)
            page.clock.pause_at(1000)
        page.set_content(PAGE)
        for sent in messages:
            page.evaluate(f"(m) => {RACE}.receive(m)", sent)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert complaints == []


def seek(page, milliseconds: float) -> list[dict]:
    """Both lanes at that moment of the axis."""
    page.evaluate(f"(ms) => {{ {RACE}.seek(ms); return {DRAWN}; }}", milliseconds)
    return page.evaluate(LANES)


def data(page) -> dict:
    return page.evaluate("({...document.querySelector('.dvl-race').dataset})")


def slot(page, name: str) -> str:
    return page.locator(f".dvl-race [data-slot={name}]").first.text_content()


def ends_of(trace) -> list[float]:
    """The milliseconds of the axis at which the forward passes were over."""
    return list(accumulate((step.milliseconds for step in trace.steps), initial=trace.prefill_milliseconds))[1:]


def readable(trace, canvas) -> str:
    """The whole characters of the settled tokens before the first end token."""
    stop = next((p for p, token in enumerate(canvas) if token in trace.model["eos_token_ids"]), len(canvas))
    runs = [[]]
    for token in canvas[:stop]:
        runs[-1].append(token) if token is not None else runs.append([])
    return "".join(b"".join(trace.vocabulary[t] for t in run).decode(errors="ignore") for run in runs)


def expected_lane(trace, at: float) -> dict:
    """What a lane must show `at` milliseconds after its run began."""
    done = sum(end <= at for end in ends_of(trace))
    canvas = trace.canvas(done)
    ends = trace.model["eos_token_ids"]
    stop = next((p for p, token in enumerate(canvas) if token in ends), len(canvas))
    settled = [p for p, token in enumerate(canvas[:stop]) if token is not None]
    masked = []
    if trace.model["kind"] == "block_diffusion" and trace.prefill_milliseconds <= at and done < len(trace.steps):
        start, end = trace.steps[done].span
        masked = [p for p in range(start, end) if canvas[p] is None]
    return {"text": readable(trace, canvas), "settled": settled, "masked": masked, "done": done}


# -- the replay --


def test_at_every_moment_each_lane_shows_what_its_trace_had_settled_by_then(visit):
    traces = [made_up_trace(), autoregressive_trace(PIECES)]
    page = visit(message(*traces))
    whole = max(ends_of(trace)[-1] for trace in traces)
    for at in [0, 5, 11, 12.5, *(whole * share / 23 for share in range(1, 23)), ends_of(traces[0])[0], whole]:
        for trace, shown in zip(traces, seek(page, at), strict=True):
            expected = expected_lane(trace, at)
            assert {key: shown[key] for key in ("text", "settled", "masked")} == {
                key: expected[key] for key in ("text", "settled", "masked")
            }, at
            done = expected["done"]
            assert shown["counters"]["tokens"] == str(len(expected["settled"]))
            assert shown["counters"]["seconds"] == f"{min(at, ends_of(trace)[-1]) / 1000:.3f}"
            if done:
                assert shown["counters"]["forwards"] == str(trace.steps[done - 1].forwards)
            phase = "running" if at >= trace.prefill_milliseconds else "prefill"
            assert shown["state"] == ("finished" if done == len(trace.steps) else phase)


def test_at_the_end_the_counters_are_the_traces_numbers(visit):
    traces = [made_up_trace(seed=3), autoregressive_trace(PIECES, 7.3)]
    page = visit(message(*traces))
    for trace, shown in zip(traces, seek(page, 1e9), strict=True):
        assert shown["text"] == trace.text and shown["masked"] == []
        counters = {name: float(value) for name, value in shown["counters"].items()}
        assert counters["forwards"] == trace.forwards and counters["tokens"] == len(trace.answer_ids())
        assert counters["per-forward"] == pytest.approx(trace.tokens_per_forward, abs=0.0051)
        assert counters["seconds"] == pytest.approx(trace.seconds, abs=0.00051)
        assert counters["per-second"] == pytest.approx(trace.tokens_per_second, abs=0.51)


def test_bars_ticks_and_prefill_stand_on_one_axis(visit):
    traces = [made_up_trace(), autoregressive_trace(PIECES, 20.0, 45.0)]
    page = visit(message(*traces))
    whole = max(ends_of(trace)[-1] for trace in traces)
    seek(page, whole / 4)
    rows = page.evaluate(
        """() => [...document.querySelectorAll(".dvl-race-row")].map((row) => {
            const bar = row.querySelector(".dvl-race-whole > div").getBoundingClientRect();
            const axis = row.querySelector(".dvl-race-bar").getBoundingClientRect();
            const prefill = row.querySelector("[data-kind=prefill]").getBoundingClientRect();
            const path = row.querySelector("path").getAttribute("d");
            const played = getComputedStyle(row.querySelector(".dvl-race-played")).clipPath;
            return { left: axis.left, share: bar.width / axis.width, prefill: prefill.width / axis.width, played,
                     ticks: path.split("M").slice(1).map(parseFloat),
                     whole: Number(row.querySelector("svg").getAttribute("viewBox").split(" ")[2]) };
        })"""
    )
    assert rows[0]["left"] == rows[1]["left"] and rows[0]["whole"] == rows[1]["whole"] == whole
    for trace, row in zip(traces, rows, strict=True):
        assert row["ticks"] == pytest.approx(ends_of(trace))
        assert row["share"] == pytest.approx(ends_of(trace)[-1] / whole, abs=0.002)
        assert row["prefill"] == pytest.approx(trace.prefill_milliseconds / whole, abs=0.002)
        assert "25%" in row["played"] or "75%" in row["played"]
    labels = page.locator(".dvl-race-ticks span").all_text_contents()
    assert labels == ["0", "200", "400", "600 ms"] and 600 < whole < 800
    boxes = [page.locator(s).bounding_box() for s in ("[data-slot=head]", "[data-slot=ticks]")]
    assert boxes[0]["x"] == pytest.approx(boxes[1]["x"] + boxes[1]["width"] / 4, abs=1)


def test_true_time_is_true_and_slower_is_slower_for_both(visit):
    traces = [made_up_trace(), autoregressive_trace(PIECES)]
    page = visit(still=True)
    page.evaluate(f"(m) => {RACE}.receive(m)", message(*traces))
    page.clock.run_for(100)
    assert float(data(page)["at"]) == pytest.approx(100, abs=20) and data(page)["playing"] == "true"
    at = float(data(page)["at"])
    for trace, shown in zip(traces, page.evaluate(LANES), strict=True):
        assert shown["settled"] == expected_lane(trace, at)["settled"]
    page.get_by_role("button", name="10 times slower").click()
    page.clock.run_for(500)
    assert float(data(page)["at"]) == pytest.approx(at + 50, abs=4)
    whole = max(ends_of(trace)[-1] for trace in traces)
    assert slot(page, "factor").startswith("Both lanes 10 times slower than they ran")
    assert f"{round(10 * whole)} ms" in slot(page, "factor")
    page.get_by_role("button", name="true time").click()
    page.clock.run_for(1000)
    assert data(page)["complete"] == "true" and data(page)["playing"] == "false" and float(data(page)["at"]) == whole
    page.get_by_role("button", name="2 times slower").click()  # whoever slows it down at the end sees it again
    page.clock.run_for(100)
    assert float(data(page)["at"]) == pytest.approx(50, abs=12)


def test_a_hidden_tab_waits_and_goes_on_from_what_was_seen(visit):
    page = visit(message(made_up_trace(), autoregressive_trace(PIECES)), still=True)
    page.clock.run_for(100)
    page.evaluate("""() => {
        window.kept = [];
        window.frame = window.requestAnimationFrame;
        window.requestAnimationFrame = (draw) => window.kept.push(draw);
    }""")
    page.clock.run_for(50)  # the frame that was asked for is drawn, and asks for one that never comes
    seen = float(data(page)["at"])
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.clock.run_for(60_000)
    page.evaluate("""() => {
        document.dispatchEvent(new Event('visibilitychange'));
        window.requestAnimationFrame = window.frame;
        window.kept.forEach((draw) => draw(0));
    }""")
    assert float(data(page)["at"]) == pytest.approx(seen, abs=1) and data(page)["playing"] == "true"
    page.clock.run_for(100)
    assert float(data(page)["at"]) == pytest.approx(seen + 100, abs=20)


def test_keys_and_slider_move_both_lanes_together(visit):
    traces = [made_up_trace(), autoregressive_trace(PIECES, 20.0)]
    page = visit(message(*traces))
    seek(page, 0)
    page.locator("[data-slot=scrubber]").focus()
    moments = sorted({trace.prefill_milliseconds for trace in traces} | {e for trace in traces for e in ends_of(trace)})
    for moment in moments[:5]:  # an arrow goes to the next thing that happened in either lane
        page.keyboard.press("ArrowRight")
        page.evaluate(DRAWN)
        assert float(data(page)["at"]) == pytest.approx(moment)
    page.keyboard.press("ArrowLeft")
    page.evaluate(DRAWN)
    assert float(data(page)["at"]) == pytest.approx(moments[3])
    assert page.locator("[data-slot=scrubber]").get_attribute("aria-valuetext").endswith("milliseconds")
    page.locator("[data-slot=scrubber]").evaluate("(s) => { s.value = 100; s.dispatchEvent(new Event('input')); }")
    page.evaluate(DRAWN)
    for trace, shown in zip(traces, page.evaluate(LANES), strict=True):
        assert shown["settled"] == expected_lane(trace, 100)["settled"]
    page.locator(".dvl-race-page").first.focus()
    page.keyboard.press("End")
    page.wait_for_selector(".dvl-race[data-complete=true]")
    page.keyboard.press(" ")
    page.wait_for_selector(".dvl-race[data-playing=true]")


def test_reduced_motion_shows_the_end_at_once(visit):
    trace = made_up_trace()
    page = visit(message(trace, trace), reduced_motion="reduce")
    page.wait_for_selector(".dvl-race[data-complete=true]")
    assert data(page)["playing"] == "false" and page.evaluate(LANES)[0]["text"] == trace.text
    page.get_by_role("button", name="2 times slower").click()
    page.evaluate(DRAWN)
    assert data(page)["playing"] == "false" and data(page)["complete"] == "true"


# -- the end --


def test_differing_words_are_marked_by_line_and_colour_at_the_end_only(visit):
    pieces = ["A", " small", " red", " circle", ".\n", b"\xe7\x8c", b"\xab", " sm", "iles", " 😀", " twice"]
    other = [{" red": " blue", "iles": "irks"}.get(piece, piece) for piece in pieces]
    page = visit(message(made_up_trace(pieces, 16), autoregressive_trace(other)))
    assert [lane["differing"] for lane in seek(page, 30)] == [[], []]
    assert not page.locator(".dvl-race-verdict").is_visible()
    lanes = seek(page, 1e9)
    assert [lane["differing"] for lane in lanes] == [["red", "sm", "iles"], ["blue", "sm", "irks"]]
    for lane, (colour, does) in zip(lanes, (("red", "smiles"), ("blue", "smirks")), strict=True):
        assert lane["text"] == f"A small {colour} circle.\n猫 {does} 😀 twice"
    style = """(node) => {
        const own = getComputedStyle(node), around = getComputedStyle(node.closest('.dvl-race-text'));
        return [own.textDecorationLine, own.color !== around.color];
    }"""
    assert page.locator("mark").first.evaluate(style) == ["underline", True]
    assert slot(page, "answers").startswith("Their answers differ") and page.locator(".dvl-race-verdict").is_visible()


def test_the_same_answers_are_called_the_same(visit):
    page = visit(message(made_up_trace(), autoregressive_trace(PIECES)))
    assert [lane["differing"] for lane in seek(page, 1e9)] == [[], []]
    assert slot(page, "answers") == "Their answers are the same."


def sentences(page) -> tuple[str, str]:
    seek(page, 1e9)
    return slot(page, "faster"), slot(page, "times")


def test_the_ratio_comes_from_the_medians_and_the_spread_is_said(visit):
    slow, fast = autoregressive_trace(["a"], 95.0), autoregressive_trace(["a"], 20.0)  # 200 and 50 ms
    times = {0: (0.25, slow.seconds, 0.19), 1: (0.04, fast.seconds, 0.07)}
    page = visit(message(slow, fast, seconds=times))
    faster, measured = sentences(page)
    assert faster == "lane 1 was 4.00 times as fast as lane 0."
    assert measured.startswith("50 ms (40 ms to 70 ms) against 200 ms (190 ms to 250 ms)") and "3 runs" in measured
    assert "chance" not in measured
    assert slot(page, "spoken").startswith(faster)


def test_a_verdict_claims_no_more_than_was_measured(visit):
    page = visit(reduced_motion="reduce")
    cases = [  # milliseconds of a forward pass, seconds of the runs, what is said
        ((20.0, 45.0), {}, "lane 0 was 2.00 times as fast as lane 1.", "50 ms against 100 ms of computing, in one run"),
        ((20.0, 20.0), {}, "Both took the same time to within half a percent.", "50 ms against 50 ms"),
        ((20.0, 45.0), {0: (0.05, 0.01, 0.2), 1: (0.1, 0.1, 0.1)}, "lane 0 was 2.00 times", "may be chance."),
        ((-5.0, 45.0), {}, "A lane has no measured time, so neither can be called faster.", ""),
    ]
    for number, (milliseconds, seconds, faster, measured) in enumerate(cases):
        traces = [autoregressive_trace(["a"], each) for each in milliseconds]
        page.evaluate(f"(m) => {RACE}.receive(m)", message(*traces, seconds=seconds, race=str(number)))
        said = sentences(page)
        assert said[0].startswith(faster) and measured in said[1]
        assert (said[1] == "") == (measured == "")


def test_answers_of_other_lengths_are_said_to_be(visit):
    page = visit(message(autoregressive_trace(["a", " b"]), autoregressive_trace(["a", " b", " c"])))
    seek(page, 1e9)
    assert "2 and 3 tokens" in slot(page, "answers")


# -- before, during, instead --


def test_the_empty_page_says_what_to_press(visit):
    page = visit()
    page.wait_for_function("document.querySelector('[data-slot=note]').textContent")
    assert "press “Start <b>it</b>”" in slot(page, "note") and not page.locator(".dvl-race-result").is_visible()
    assert page.locator(".dvl-race b").count() == 0


def test_a_recorded_race_says_so_and_waits_to_be_seen_until_a_live_one_takes_its_place(visit):
    trace = autoregressive_trace(["a", " b"], 30.0)
    recorded = {"model": "m", "machine": "<i>cpu</i>", "question": HOSTILE}
    page = visit()
    page.evaluate("document.getElementById('host').style.display = 'none'")
    page.evaluate(f"(m) => {RACE}.receive(m)", message(trace, trace, race="recorded") | {"recorded": recorded})
    page.wait_for_timeout(200)
    assert data(page)["playing"] == "false" and float(data(page)["at"]) == 0
    page.evaluate("document.getElementById('host').style.display = ''")
    page.wait_for_selector(".dvl-race[data-playing=true]")
    said = f"Recorded with m on <i>cpu</i>: “{HOSTILE}” “Start <b>it</b>” runs one on this machine."
    assert slot(page, "note") == said
    assert page.locator(".dvl-race-news").is_visible() and slot(page, "factor").startswith("Both lanes 10 times slower")
    page.evaluate(f"(m) => {RACE}.receive(m)", protocol.failed_message("failed", "No."))
    page.wait_for_selector(".dvl-race[data-phase=failed]")
    assert slot(page, "note").startswith("No. Recorded with m on ")  # whose times are still to be seen
    page.evaluate(f"(m) => {RACE}.receive(m)", message(trace, trace, race="live"))
    page.wait_for_selector(".dvl-race[data-race=live]")
    page.evaluate(DRAWN)
    assert slot(page, "factor").startswith("Both lanes in true time")
    assert not page.locator(".dvl-race-news").is_visible()


def test_progress_failure_and_a_stop_are_sentences_and_the_last_race_stays(visit):
    page = visit(protocol.progress_message("one", NAMED, 0, 0, 5, 0))
    page.wait_for_selector(".dvl-race[data-phase=running]")
    assert slot(page, "note") == "Warming up lane 1 of 2 (x); this run does not count."
    page.evaluate(f"(m) => {RACE}.receive(m)", protocol.progress_message("one", NAMED, 0, 3, 5, 6))
    page.evaluate(DRAWN)
    assert slot(page, "note").startswith("Running lane 1 of 2 (x), run 3 of 5")
    assert page.locator("[data-slot=progress]").evaluate("(bar) => bar.style.width") == "50%"
    trace = autoregressive_trace(["kept"])
    first = message(trace, trace)
    for sent in (
        first,
        protocol.progress_message("two", NAMED, 1, 1, 1, 3),
        first,  # late: no longer heard
    ):
        page.evaluate(f"(m) => {RACE}.receive(m)", sent)
    page.evaluate(DRAWN)
    assert data(page)["phase"] == "running"
    faint = page.locator(".dvl-race-result").evaluate("(node) => getComputedStyle(node).opacity")
    assert float(faint) < 0.5  # the race before
    page.evaluate(f"(m) => {RACE}.receive(m)", protocol.failed_message("two", HOSTILE))
    page.wait_for_selector(".dvl-race[data-phase=failed]")
    assert slot(page, "note") == HOSTILE + " Below is the race before." and seek(page, 1e9)[0]["text"] == "kept"
    page.evaluate(f"(m) => {RACE}.receive(m)", protocol.stopped_message("three"))
    page.wait_for_selector(".dvl-race[data-phase=stopped]")
    assert slot(page, "note").startswith("Stopped before the last run")
    assert page.evaluate("window.hacked") is None and page.locator(".dvl-race img, .dvl-race b").count() == 0


def test_a_result_that_comes_twice_does_not_begin_again(visit):
    trace = made_up_trace()
    page = visit(message(trace, trace))
    seek(page, 100)
    page.evaluate(f"(m) => {RACE}.receive(m)", message(trace, trace))
    page.evaluate(DRAWN)
    assert data(page)["at"] == "100" and data(page)["playing"] == "false"


def test_hostile_text_stays_text_and_nothing_scrolls_sideways(visit):
    pieces = [HOSTILE, " ", "x" * 400, "\n</script>", "${1}", "{{x}}"]
    traces = [made_up_trace(pieces, 16), autoregressive_trace([*pieces[:-1], "<b>y</b>"])]
    lanes = [(HOSTILE * 3, traces[0], (0.1, 0.2)), ("n" * 300, traces[1], (0.3, 0.4))]
    page = visit(protocol.result_message("r", lanes), width=390)
    for at, width in ((40, 390), (1e9, 390), (1e9, 1440)):
        page.set_viewport_size({"width": width, "height": 900})
        shown = seek(page, at)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [lane["text"] for lane in shown] == [trace.text for trace in traces]
    assert shown[0]["differing"] and HOSTILE in slot(page, "faster") and slot(page, "name") == HOSTILE * 3
    assert page.evaluate("window.hacked") is None
    assert page.locator(".dvl-race :is(img, b, script)").count() == 0


def test_lanes_stand_side_by_side_where_there_is_room(visit):
    page = visit(message(made_up_trace(), made_up_trace()))
    for width, beside in ((1099, False), (1100, True)):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(DRAWN)
        one, other = (page.locator(".dvl-race-lane").nth(i).bounding_box() for i in (0, 1))
        assert (one["y"] == other["y"] and one["x"] < other["x"]) == beside


def test_the_page_does_not_jump_while_it_runs(visit):
    page = visit(message(made_up_trace(), autoregressive_trace(PIECES)))
    heights = set()
    for at in (0, 40, 150, 1e9):
        seek(page, at)
        heights.add(page.locator(".dvl-race").bounding_box()["height"])
    assert len(heights) == 1


def test_the_page_speaks_chinese(visit):
    page = visit(message(made_up_trace(), autoregressive_trace(PIECES)), locale="zh-CN")
    seek(page, 1e9)
    trace = made_up_trace()
    trace.settings |= {"block_size": 8, "steps": 4, "strategy": "margin", "lookahead": 2}
    unnamed = protocol.result_message("named", [("", trace, (1.0,)), ("", autoregressive_trace(PIECES), (1.0,))])
    page.evaluate(f"(m) => {RACE}.receive(m)", unnamed)
    page.wait_for_selector(".dvl-race[data-race=named]")
    names = page.locator(".dvl-race-lane [data-slot=name]").all_text_contents()
    assert names == ["块扩散，块 8，4 步，差距，前瞻 2", "自回归"]
    about = protocol.about_lane("", "block_diffusion", trace.settings)
    page.evaluate(f"(m) => {RACE}.receive(m)", protocol.progress_message("next", [about, about], 0, 1, 3, 2))
    page.wait_for_selector(".dvl-race[data-phase=running]")
    assert names[0] in slot(page, "note")
    page.evaluate(f"(m) => {RACE}.receive(m)", message(made_up_trace(), autoregressive_trace(PIECES), race="last"))
    page.wait_for_selector(".dvl-race[data-race=last]")
    seek(page, 1e9)
    assert slot(page, "answers") == "两者的回答相同。" and "预填充" in page.locator(".dvl-race-legend").text_content()
