"""A sweep over decoding settings: what is run in which order, what is measured, what is refused."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from traces import END, made_up_trace, token_table

from dvl_core import DecodingConfig, load_model
from dvl_core.engine import Engine, EngineError
from dvl_core.explore import Plan, Progress, Row, Setting, agreement, event_json, mean_confidence, sweep

BUNDLED = Path(__file__).parents[1] / "assets" / "tinyvl"
BASE = DecodingConfig(block_size=8, steps=2, max_new_tokens=64, strategy="factor", factor=0.7, seed=3)
STATIC = "low_confidence_static"


class FakeEngine:
    """Answers from made-up traces; knows how it was asked, and whether two runs were ever open at once."""

    def __init__(self, kind="block_diffusion"):
        self.kind, self.asked, self.open, self.times = kind, [], 0, {}

    def describe(self):
        return {"kind": self.kind}

    def config(self, **settings):
        if settings["block_size"] > 32:
            raise EngineError("block_size may be at most 32 here.", "settings")
        try:
            return DecodingConfig(**settings)
        except ValueError as error:
            raise EngineError(str(error), "settings") from error

    def answer(self, messages, config, **how):
        assert self.open == 0 and how == {"alone": True}
        self.open += 1
        self.asked.append((messages, config))
        trace = made_up_trace(block_size=config.block_size, steps=config.steps, seed=config.block_size)
        count = self.times[config] = self.times.get(config, 0) + 1
        trace.prefill_milliseconds = 1000.0 * (config.block_size + {1: 0, 2: 5, 3: 1}[count])
        if config.block_size == 4:  # this setting answers something else
            trace.steps[0].proposals = [END if i == 0 else t for i, t in enumerate(trace.steps[0].proposals)]
            trace.steps[0].revealed = trace.steps[0].masked
        self.open -= 1
        return trace


def run(engine, block_sizes=(4, 8, 16), steps=(2, 8), strategies=("factor", STATIC), repeats=1):
    return list(sweep(engine, ["question"], BASE, block_sizes, steps, strategies, repeats))


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_every_combination_is_run_alone_after_the_slow_setting():
    engine = FakeEngine()
    events = run(engine)
    plan = events[0]
    assert plan.settings[0] == Setting(8, 8, STATIC)
    grid = [Setting(b, s, how) for b in (4, 8, 16) for s in (2, 8) for how in ("factor", STATIC)]
    assert set(plan.settings) == {g for g in grid if g.steps <= g.block_size}
    assert len(plan.settings) == len(set(plan.settings)) == 10
    assert plan.skipped == (Setting(4, 8, "factor"), Setting(4, 8, STATIC))
    (_, warm), *asked = engine.asked
    assert warm == replace(asked[0][1], max_new_tokens=8)
    assert all(messages == ["question"] for messages, _ in asked)
    assert [(c.block_size, c.steps, c.strategy) for _, c in asked] == [tuple(vars(s).values()) for s in plan.settings]
    fixed = {"max_new_tokens": 64, "factor": 0.7, "seed": 3}
    assert all(fixed.items() <= config.to_json().items() for _, config in asked)


def test_a_slow_setting_outside_the_combinations_is_run_beside_them():
    plan = run(FakeEngine(), block_sizes=[16], steps=[4, 4], strategies=["random"])[0]
    assert plan.settings == (Setting(8, 8, STATIC), Setting(16, 4, "random")) and plan.total == 2


def test_progress_comes_before_each_run_and_its_row_after_it():
    engine = FakeEngine()
    events = run(engine, repeats=2)
    assert [type(event) for event in events] == [Plan, *[Progress, Row] * 20]
    assert [(p.done, p.total) for p in of(events, Progress)] == [(i, 20) for i in range(20)]
    for progress, row in zip(of(events, Progress), of(events, Row), strict=True):
        assert progress.setting == row.setting == events[0].settings[row.index]


def test_rounds_are_interleaved_and_times_are_medians():
    engine = FakeEngine()
    events = run(engine, repeats=3)
    rows, count = of(events, Row), len(events[0].settings)
    assert [row.index for row in rows] == [*range(count)] * 3
    assert [row.runs for row in rows] == [1] * count + [2] * count + [3] * count
    for first, last in zip(rows[:count], rows[-count:], strict=True):
        assert last.fastest == first.seconds and last.slowest == pytest.approx(first.seconds + 5)
        assert last.seconds == pytest.approx(first.seconds + 1)
        assert replace(last, runs=1, seconds=0, fastest=0, slowest=0) == replace(
            first, runs=1, seconds=0, fastest=0, slowest=0
        )


def test_a_row_says_what_the_trace_says():
    engine = FakeEngine()
    rows = {row.setting: row for row in of(run(engine), Row)}
    ids, _ = token_table()
    slow, other = rows[Setting(8, 8, STATIC)], rows[Setting(4, 2, STATIC)]
    assert slow.slow and slow.same and slow.agreement == 1 and sum(row.slow for row in rows.values()) == 1
    trace = made_up_trace(seed=8)
    assert (slow.text, slow.tokens, slow.forwards) == (trace.text, len(ids), trace.forwards)
    assert slow.tokens_per_forward == len(ids) / len(trace.steps)
    assert not other.same and other.tokens == 0 and other.agreement == 0  # its first token is the end
    assert rows[Setting(16, 8, "factor")].same and not rows[Setting(16, 8, "factor")].slow


def test_agreement_and_confidence():
    assert agreement([1, 2, 3], [1, 9, 3]) == pytest.approx(2 / 3)
    assert agreement([1, 2], [1, 2, 3, 4]) == agreement([1, 2, 3, 4], [1, 2]) == 0.5
    assert agreement([], []) == 1 and agreement([], [1]) == 0 and agreement([2, 1], [1, 2]) == 0
    trace = made_up_trace([" a", " b", " c"], 8)
    sure = {p: c for s in trace.steps for p, c in zip(s.masked, s.confidences, strict=True) if p in s.revealed}
    assert mean_confidence(trace) == pytest.approx(sum(sure[p] for p in range(4)) / 4)  # the end, and nothing after it
    trace.steps = []
    assert mean_confidence(trace) is None


def test_closing_keeps_the_next_run_from_starting():
    engine = FakeEngine()
    with closing(sweep(engine, ["?"], BASE, [8], [2, 4, 8], [STATIC])) as events:
        for event in events:
            if isinstance(event, Progress) and event.done == 2:
                break
    assert len(engine.asked) == 1 + 2 and next(events, None) is None


@pytest.mark.parametrize(
    ("change", "about", "says"),
    [
        ({"block_sizes": range(1, 18), "steps": [1], "strategies": ["factor", "random", "margin", STATIC]}, "settings",
         "These block sizes, steps and strategies make 68 combinations, and at most 64"),
        ({"block_sizes": [2], "steps": [4]}, "settings", "more steps than its block has tokens"),
        ({"strategies": []}, "settings", "nothing was chosen"),
        ({"repeats": 0}, "settings", "repeats must be a whole number from 1 to 5"),
        ({"block_sizes": [64]}, "settings", "at most 32"),
        ({"strategies": ["best"]}, "settings", "strategy must be one of"),
        ({"engine": FakeEngine("autoregressive")}, "model", "neither blocks nor"),
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_at_once(change, about, says):
    engine = change.pop("engine", FakeEngine())
    asked = {"block_sizes": [8], "steps": [4], "strategies": ["factor"], "repeats": 1} | change
    with pytest.raises(EngineError, match=says) as caught:
        sweep(engine, ["?"], BASE, **asked)
    assert caught.value.about == about and engine.asked == []


def test_64_combinations_are_run():
    plan = run(FakeEngine(), range(1, 17), [1], ["factor", "random", "margin", STATIC])[0]
    assert len(plan.settings) == 65


def test_events_as_json():
    events = [json.loads(json.dumps(event_json(event))) for event in run(FakeEngine(), [8, 4], [8], [STATIC])]
    assert events[0]["plan"]["total"] == 1 and events[0]["plan"]["skipped"] == [
        {"block_size": 4, "steps": 8, "strategy": STATIC}
    ]
    assert events[1] == {"progress": {"block_size": 8, "steps": 8, "strategy": STATIC, "done": 0, "total": 1}}
    assert events[2]["row"]["block_size"] == 8 and events[2]["row"]["slow"] is True


def test_the_bundled_model():
    engine = Engine(*load_model(BUNDLED, device="cpu"))
    picture = Image.open(BUNDLED.parent / "examples" / "count.png")
    question = {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]}
    base = engine.config(max_new_tokens=16)
    rows = of(sweep(engine, [question], base, [4, 8], [1, 4], [STATIC, "factor"]), Row)
    assert len(rows) == 9 and rows[0].agreement == 1
    by = {row.setting: row for row in rows}
    slow = engine.answer([question], replace(base, steps=8))
    assert rows[0].text == slow.text and rows[0].forwards == slow.forwards
    assert by[Setting(8, 1, STATIC)].forwards < rows[0].forwards
    assert all(row.seconds > 0 and 0 < row.confidence <= 1 for row in rows)
