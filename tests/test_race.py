"""The race: who runs when, which run is the median, and what its messages hold. No browser needed."""

import json
import re
from contextlib import closing
from pathlib import Path

import pytest
from traces import END, made_up_trace, token_table

from dvl_core.decoding import DecodingConfig
from dvl_core.engine import EngineError
from dvl_core.race import MAX_REPEATS, WARM_UP, Lane, Result, Running, run_race
from dvl_core.trace import DenoisingTrace, TraceStep, decode_vocabulary
from visualize import race, strings, theme
from visualize.race import protocol

ASSETS = Path(__file__).parents[1] / "assets"
QUESTION = [{"role": "user", "content": "What is in the picture?"}]


class FakeEngine:
    """Writes every call into `log`; its runs take `seconds`, one after the other."""

    def __init__(self, name, log, seconds=(), fails_at=None):
        self.name, self.log, self.seconds, self.fails_at = name, log, iter(seconds), fails_at
        self.calls = 0

    def answer(self, messages, config, **how):
        self.calls += 1
        self.log.append((self.name, messages, config, how))
        if self.calls == self.fails_at:
            raise EngineError("The model ran out of memory.", "model")
        trace = made_up_trace(cut=0)
        trace.prefill_milliseconds = 1000 * next(self.seconds, 1.0)
        return trace


def fake_lanes(log, seconds=((), ()), fails_at=(None, None)):
    return [
        Lane(name.upper(), FakeEngine(name, log, times, fail), DecodingConfig(seed=i))
        for i, (name, times, fail) in enumerate(zip("ab", seconds, fails_at, strict=True))
    ]


# -- the runs --


def test_runs_are_interleaved_after_one_warm_up_each_and_the_lanes_take_turns_to_begin():
    log = []
    list(run_race(QUESTION, fake_lanes(log), 3))
    assert "".join(name for name, *_ in log) == "ab" + "ab" + "ba" + "ab"


def test_every_run_has_the_machine_to_itself_and_its_own_lanes_settings():
    log = []
    lanes = fake_lanes(log)
    list(run_race(QUESTION, lanes, 2))
    assert all(how == {"alone": True} and messages is QUESTION for _, messages, _, how in log)
    assert all(config is lanes["ab".index(name)].config for name, _, config, _ in log)


def test_what_is_run_is_said_before_each_run():
    log = []
    events = run_race(QUESTION, fake_lanes(log), 2)
    said = []
    for event in events:
        if isinstance(event, Running):
            assert event.before == len(log) and event.runs == 2
            said.append((event.lane, event.run))
    assert said == [(0, WARM_UP), (1, WARM_UP), (0, 1), (1, 1), (1, 2), (0, 2)]


@pytest.mark.parametrize(
    ("counted", "median"),
    [([0.5], 0.5), ([0.9, 0.2, 0.4], 0.4), ([0.4, 0.1], 0.1), ([4.0, 1.0, 3.0, 2.0], 2.0), ([0.3, 0.3, 9.0], 0.3)],
)
def test_the_median_is_a_run_that_was_measured_and_warm_ups_do_not_count(counted, median):
    *_, result = run_race(QUESTION, fake_lanes([], ([50.0, *counted], [0.001, *counted[::-1]])), len(counted))
    assert isinstance(result, Result) and [lane.name for lane in result.lanes] == ["A", "B"]
    for lane, expected in zip(result.lanes, (counted, counted[::-1]), strict=True):
        assert lane.seconds == pytest.approx(expected) and lane.trace.seconds == pytest.approx(median)


def test_closing_stops_before_the_next_run():
    log = []
    with closing(run_race(QUESTION, fake_lanes(log), 5)) as events:
        for _ in range(4):
            next(events)
    assert len(log) == 3  # the fourth was announced and never begun


def test_an_error_of_a_run_ends_the_race():
    log = []
    with pytest.raises(EngineError, match="out of memory"):
        list(run_race(QUESTION, fake_lanes(log, fails_at=(None, 2)), 2))
    assert "".join(name for name, *_ in log) == "abab"


@pytest.mark.parametrize("repeats", [0, -1, MAX_REPEATS + 1, True, 2.0, "3", None])
def test_repeats_are_refused_by_name_and_range_before_anything_runs(repeats):
    log = []
    with pytest.raises(ValueError, match=r"repeats must be a whole number from 1 to 15; got"):
        run_race(QUESTION, fake_lanes(log), repeats)
    assert log == []


def test_a_race_has_two_lanes():
    for lanes in ([], fake_lanes([])[:1], fake_lanes([]) + fake_lanes([])):
        with pytest.raises(ValueError, match="lanes must be two"):
            run_race(QUESTION, lanes)


def test_the_bundled_model_races_its_parent():
    from dvl_core import load_model
    from dvl_core.engine import Engine, Limits

    engines, turn = [], None
    for name in ("tinyvl", "tinyvl-ar"):
        engines.append(Engine(*load_model(ASSETS / name, device="cpu"), Limits(max_new_tokens=24), name, turn=turn))
        turn = engines[0].turn
    lanes = [Lane(engine.name, engine, engine.config(max_new_tokens=24)) for engine in engines]
    asked = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": str(ASSETS / "examples" / "word.png")},
                {"type": "text", "text": "Read the word."},
            ],
        }
    ]
    *running, result = run_race(asked, lanes, 1)
    assert len(running) == 4
    diffusion, parent = (lane.trace for lane in result.lanes)
    assert (diffusion.model["kind"], parent.model["kind"]) == ("block_diffusion", "autoregressive")
    for lane in result.lanes:
        assert lane.seconds == (lane.trace.seconds,) and lane.trace.seconds > 0
        assert lane.trace.finish_reason in ("eos", "length") and lane.trace.text
    assert parent.forwards == len(parent.steps)  # the first token comes out of the prefill
    sent = protocol.result_message("r", [(lane.name, lane.trace, lane.seconds) for lane in result.lanes])["result"]
    assert (sent["answers"] == "same") == (diffusion.text == parent.text)


# -- the messages --


def autoregressive_trace(pieces, step_milliseconds=5.0, prefill_milliseconds=10.0) -> DenoisingTrace:
    """A run that writes `pieces` and the end token from left to right; the first comes out of the prefill."""
    ids, vocabulary = token_table(pieces)
    trace = made_up_trace(pieces, length=len(ids) + 8, cut=0)
    trace.model["kind"], trace.vocabulary = "autoregressive", vocabulary
    trace.prefill_milliseconds = prefill_milliseconds
    trace.steps = [
        TraceStep(i, 0, [i, i + 1], [i], [token], [0.9], [i], step_milliseconds, i + 1)
        for i, token in enumerate([*ids, END])
    ]
    return trace


def message(*traces, seconds=None, race="r"):
    """A result of these traces; `seconds`: of all runs, by lane, where there was more than one."""
    lanes = [(f"lane {i}", trace, (seconds or {}).get(i, (trace.seconds,))) for i, trace in enumerate(traces)]
    return protocol.result_message(race, lanes)


def changed_by_hand() -> DenoisingTrace:
    """A run with given tokens, in which a person changed a token, masked another, and a step masked one again."""
    trace = made_up_trace(length=16, block_size=8, steps=4)
    trace.given = [[0, 100]]
    trace.changes = [[2, 0, 101], [3, trace.steps[0].revealed[0], None]]
    again = trace.steps[1].revealed[0]
    last = trace.steps[3]
    last.masked, last.proposals = [*last.masked, again], [*last.proposals, 100]
    last.confidences = [*last.confidences, 0.5]
    return trace


@pytest.mark.parametrize("trace", [made_up_trace(), autoregressive_trace(["A", " b"]), changed_by_hand()])
def test_the_cells_of_the_steps_give_the_canvas_after_every_step(trace):
    lane = message(trace, trace)["result"]["lanes"][0]
    canvas = [None] * trace.length
    for position, token in lane["given"]:
        canvas[position] = token
    for count, step in enumerate(lane["steps"], start=1):
        for position, token in step["cells"]:
            assert canvas[position] != token  # only what changed is sent
            canvas[position] = token
        assert canvas == trace.canvas(count)
        record = trace.steps[count - 1]
        assert (step["span"], step["forwards"]) == (record.span, record.forwards)
        assert step["milliseconds"] == record.milliseconds
    settled = {token for step in lane["steps"] for _, token in step["cells"]} | {t for _, t in lane["given"]}
    assert decode_vocabulary(lane["vocabulary"]) == {t: trace.vocabulary[t] for t in settled if t is not None}


def test_a_result_is_json_and_holds_the_measured_times():
    one, two = made_up_trace(), autoregressive_trace(["A"])
    sent = message(one, two, seconds={0: (0.5, one.seconds, 0.1)})
    assert json.loads(json.dumps(sent)) == sent
    lanes = sent["result"]["lanes"]
    assert lanes[0]["seconds"] == [0.5, one.seconds, 0.1] and lanes[0]["median_seconds"] == one.seconds
    assert [lane["prefill_milliseconds"] for lane in lanes] == [12.5, 10.0]


@pytest.mark.parametrize(
    ("one", "other", "differing"),
    [
        ("a red circle", "a red circle", ([], [])),
        ("a red circle", "a blue circle", (["red"], ["blue"])),
        ("a circle", "a large red circle", ([], ["large", "red"])),
        ("x  y\nz", "x y z", ([], [])),
        ("一只红猫", "一只蓝猫", (["红"], ["蓝"])),
        ("😀 ok", "ok 😀 ok", ([], ["ok"])),
        ("", "all of it", ([], ["all", "of", "it"])),
    ],
)
def test_words_that_differ_are_found_and_the_pieces_join_to_the_text(one, other, differing):
    for text, pieces, expected in zip((one, other), protocol.compare_words(one, other), differing, strict=True):
        assert "".join(piece for piece, _ in pieces) == text
        assert [piece for piece, differs in pieces if differs] == expected


@pytest.mark.parametrize(
    ("pieces", "answers"), [(["a", " b"], "same"), ([" a", " b", "\n"], "same"), (["a", "\n", "b"], "spacing"),
                            (["a", " c"], "different")],
)  # fmt: skip
def test_answers_are_compared_as_people_read_them(pieces, answers):
    assert message(autoregressive_trace(["a", " b"]), autoregressive_trace(pieces))["result"]["answers"] == answers


# -- the page's files --


def test_the_template_is_static_and_the_script_writes_text_and_never_markup():
    assert not re.search(r"\$\{|\{\{|`|\\", race.TEMPLATE)
    script = race.LIVE_SCRIPT
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "</script"):
        assert way not in script
    assert "https:" not in script and script.count("http:") == script.count("http://www.w3.org/2000/svg")


def test_every_slot_sentence_and_colour_that_is_used_exists_and_every_sentence_is_used():
    code = "".join((Path(race.__file__).parent / name).read_text() for name in ("template.html", "race.js", "live.js"))
    slots = set(re.findall(r'(?:slot|view)\["([\w-]+)"\]', code))
    assert slots and slots <= set(re.findall(r'data-slot="([\w-]+)"', race.TEMPLATE))
    table = strings.table("race")
    built = {"race.state.": ("prefill", "running", "finished"), "race.answers.": ("same", "spacing", "different")}
    quoted = set(re.findall(r'"(race\.[\w.]*\w)"', code))
    used = quoted | {start + end for start, ends in built.items() for end in ends}
    assert used == set(table)
    declared = set(re.findall(r"(--dvl-[\w-]+):", theme.css_variables() + race.CSS)) | {"--dvl-race-at"}
    assert set(re.findall(r"var\((--dvl-[\w-]+)", race.CSS)) <= declared
