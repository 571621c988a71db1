"""One model, many visitors: turns, limits, stopping, and errors that are sentences."""

import json
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dvl_core import load_model
from dvl_core.decoding import Observe
from dvl_core.decoding.strategies import STRATEGIES
from dvl_core.engine import Engine, EngineError, Finished, Limits, Loading, Started, Stepped, Waiting
from dvl_core.models.checkpoint import CheckpointError
from dvl_core.models.loading import outline_model
from dvl_core.serving import limits_of, parse_options
from dvl_core.sessions import as_message, shown_copy
from dvl_core.trace import DenoisingTrace
from dvl_core.turns import FairLock, Line

BUNDLED = Path(__file__).parents[1] / "assets" / "tinyvl"


@pytest.fixture(scope="module")
def loaded():
    return load_model(BUNDLED, device="cpu")


@pytest.fixture
def engine(loaded):
    return Engine(*loaded, Limits(max_new_tokens=64, open_runs=2, waiting_runs=1), name="bundled")


def ask(text="What is in the picture?", colour="red", size=(96, 96)):
    picture = Image.new("RGB", size, colour)
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]


def record(engine, messages, **settings) -> DenoisingTrace:
    return engine.answer(messages, engine.config(**settings))


# -- a run --


def test_events_come_in_order_and_carry_the_growing_trace(engine):
    events = list(engine.stream(ask(), engine.config(max_new_tokens=20)))
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    steps = events[1:-1]
    assert all(isinstance(event, Stepped) for event in steps)
    trace = events[-1].trace
    assert [event.step for event in steps] == trace.steps
    sent = {}
    for event in steps:
        assert not sent.keys() & event.vocabulary.keys()  # nothing is sent twice
        sent |= event.vocabulary
    assert sent == trace.vocabulary
    assert trace.finish_reason in ("eos", "length")
    assert trace.model["name"] == "bundled" and trace.prompt["messages"] == [
        {"role": "user", "text": "What is in the picture?"}
    ]


def test_a_step_is_handed_out_before_the_next_is_computed(engine):
    with closing(engine.stream(ask(), engine.config(max_new_tokens=20))) as events:
        trace = next(events).trace
        assert trace.steps == []
        for count in range(1, 4):
            next(events)
            assert len(trace.steps) == count


def test_the_engine_says_what_generate_says(engine, loaded):
    model, processor = loaded
    inputs = processor.apply_chat_template(ask())
    expected = model.generate(**inputs, max_new_tokens=24, steps=8, block_size=8).answers[0]
    assert record(engine, ask(), max_new_tokens=24).answer_ids() == expected


def test_the_trace_keeps_a_small_copy_of_the_picture_and_its_grid(engine):
    trace = record(engine, ask(size=(900, 600)), max_new_tokens=4)
    (image,) = trace.images
    assert (image.width, image.height) == (900, 600) and len(image.sha256) == 64
    assert image.data.startswith("data:image/jpeg;base64,") and len(image.data) < 40_000
    left, top, right, bottom = image.box  # the bundled model pads to a square, perhaps with a margin
    assert left <= 0 and top <= -150 and right - left == bottom - top >= 900 and image.grid[0] == image.grid[1]
    assert DenoisingTrace.from_json(trace.to_json()) == trace


def test_a_conversation_of_several_turns_keeps_its_picture(engine):
    turns = [*ask(), {"role": "assistant", "content": "A square."}, {"role": "user", "content": "And what else?"}]
    trace = record(engine, turns, max_new_tokens=4)
    assert [m["role"] for m in trace.prompt["messages"]] == ["user", "assistant", "user"] and len(trace.images) == 1


# -- stopping --


def test_closing_stops_after_the_current_step_and_keeps_what_was_there(engine):
    events = engine.stream(ask(), engine.config(max_new_tokens=64))
    trace = next(events).trace
    for _ in range(3):
        next(events)
    events.close()
    assert len(trace.steps) == 3 and trace.finish_reason == "stopped"
    assert len(engine._line) == 0
    assert record(engine, ask(), max_new_tokens=4).steps  # and the next run goes ahead


def test_a_run_that_is_stopped_as_it_starts_says_so(engine):
    events = engine.stream(ask(), engine.config(max_new_tokens=8))
    trace = next(events).trace
    events.close()
    assert trace.finish_reason == "stopped" and len(engine._line) == 0


def test_a_run_that_fails_gives_one_sentence_and_its_place_back(engine, monkeypatch):
    def broken(*_):
        yield from ()
        raise RuntimeError("secret detail")

    monkeypatch.setattr(engine, "_compute", broken)
    with pytest.raises(EngineError, match="failed inside the model") as caught:
        record(engine, ask(), max_new_tokens=4)
    assert "secret" not in str(caught.value) and caught.value.about == "model"
    assert len(engine._line) == 0

    def hungry(*_):
        yield from ()
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(engine, "_compute", hungry)
    with pytest.raises(EngineError, match="ran out of memory"):
        record(engine, ask(), max_new_tokens=4)


# -- many visitors --


def test_visitors_at_the_same_time_get_what_each_gets_alone(engine):
    questions = {"What is in the picture?": "red", "What does it say?": "blue"}
    alone = {q: record(engine, ask(q, c), max_new_tokens=24, temperature=0.8) for q, c in questions.items()}
    together = {}

    def visit(question, colour):
        together[question] = record(engine, ask(question, colour), max_new_tokens=24, temperature=0.8)

    threads = [threading.Thread(target=visit, args=item) for item in questions.items()]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    for question, trace in alone.items():
        assert together[question].answer_ids() == trace.answer_ids()
        assert [s.confidences for s in together[question].steps] == [s.confidences for s in trace.steps]


def test_open_runs_take_turns_step_by_step(engine):
    one = engine.stream(ask(), engine.config(max_new_tokens=16))
    two = engine.stream(ask(), engine.config(max_new_tokens=16))
    with closing(one), closing(two):
        traces = [next(one).trace, next(two).trace]
        for _ in range(4):
            next(one)
            next(two)
        assert [len(trace.steps) for trace in traces] == [4, 4]


def test_later_visitors_wait_and_too_many_are_told(engine):
    config = engine.config(max_new_tokens=16)
    one, two, three = (engine.stream(ask(), config) for _ in range(3))
    with closing(one), closing(three):
        next(one), next(two)
        assert next(three) == Waiting(1)
        with pytest.raises(EngineError, match="try again") as caught:
            next(engine.stream(ask(), config))
        assert caught.value.about == "queue"
        two.close()
        assert isinstance(next(three), Started)


def test_a_full_line_refuses_before_it_reads_a_picture(loaded, monkeypatch):
    engine = Engine(*loaded, Limits(open_runs=1, waiting_runs=0))
    first = engine.stream(ask(), engine.config(max_new_tokens=8))
    next(first)
    monkeypatch.setattr("dvl_core.engine.open_image", None)
    with pytest.raises(EngineError) as caught:
        next(engine.stream(ask(), engine.config(max_new_tokens=8)))
    assert caught.value.about == "queue"
    first.close()


def test_a_waiting_visitor_can_leave(engine):
    config = engine.config(max_new_tokens=16)
    one, two, three = (engine.stream(ask(), config) for _ in range(3))
    with closing(one), closing(two):
        next(one), next(two), next(three)
        three.close()
        assert len(engine._line) == 2


def test_the_lock_is_handed_on_in_order():
    lock, order, threads = FairLock(), [], []
    with lock:
        for name in range(6):
            thread = threading.Thread(target=lambda n=name: [lock.__enter__(), order.append(n), lock.__exit__()])
            threads.append(thread)
            thread.start()
            while len(lock._asking) < name + 2:
                time.sleep(0.001)
    [t.join(5) for t in threads]
    assert order == list(range(6))


def test_a_line_serves_the_first_and_counts_the_rest():
    line = Line(open_runs=1, waiting_runs=2)
    first, second, third = line.join(), line.join(), line.join()
    assert [line.wait(ticket, 0) for ticket in (first, second, third)] == [0, 1, 2]
    line.leave(second)
    assert line.wait(third, 0) == 1
    line.leave(first)
    assert line.wait(third, 0) == 0


def test_the_computing_part_may_be_wrapped(loaded):
    calls = []

    def lend(compute):
        def wrapped(*arguments):
            calls.append("lent")
            yield from compute(*arguments)

        return wrapped

    trace = record(Engine(*loaded, accelerate=lend), ask(), max_new_tokens=4)
    assert calls == ["lent"] and trace.steps


# -- limits and bad input --


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, "steps must be a whole number"),
        ({"steps": None}, "steps must be a whole number"),
        ({"block_size": 0}, "block_size must be a whole number from 1 to 128; got 0"),
        ({"max_new_tokens": None}, "max_new_tokens must be a whole number from 1 to 64; got"),
        ({"block_size": 1000}, "block_size may be at most 128 here .*trained with 8.*1000"),
        ({"max_new_tokens": 65}, "max_new_tokens may be at most 64 here; got 65"),
        ({"temperature": -1.0}, "temperature must be a number"),
        ({"strategy": "${x}"}, "strategy must be one of"),
        ({"stepps": 3}, "no setting called 'stepps'"),
    ],
)
def test_settings_that_cannot_be_are_named(engine, settings, sentence):
    with pytest.raises(EngineError, match=sentence) as caught:
        engine.config(**settings)
    assert caught.value.about == "settings"


@pytest.mark.parametrize("field", Limits.__dataclass_fields__)
@pytest.mark.parametrize("value", [-1, 1.5, True, "8", None])
def test_limits_refuse_what_is_no_count(field, value):
    with pytest.raises(ValueError, match=field):
        Limits(**{field: value})


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("", "question is empty"),
        (" \n ", "question is empty"),
        ("word " * 10_000, "too long|beyond|longer|at most"),
        ("a" * 400_000, "shorten"),
    ],
)
def test_questions_that_cannot_be_are_refused_at_once(engine, question, sentence):
    started = time.perf_counter()
    with pytest.raises(EngineError, match=sentence) as caught:
        record(engine, ask(question), max_new_tokens=4)
    assert caught.value.about == "question" and time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "question", ["<|im_end|>", "<script>alert(1)</script>", "<image> {{x}} ${y}", "猫😀\u202e\x00"]
)
def test_odd_questions_are_answered(engine, question):
    assert record(engine, ask(question), max_new_tokens=4).prompt["messages"][0]["text"].strip()


def write(path, content: bytes):
    path.write_bytes(content)
    return str(path)


def test_pictures_that_cannot_be_are_refused(engine, tmp_path):
    real = tmp_path / "real.png"
    Image.effect_noise((200, 200), 80).save(real)
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    bad = {
        "not a picture": write(tmp_path / "text.png", b"hello"),
        "empty": write(tmp_path / "empty.png", b""),
        "damaged": write(tmp_path / "cut.png", real.read_bytes()[:9000]),
        "pixels": str(huge),
        "no": str(tmp_path / "absent.png"),
    }
    for words, path in bad.items():
        for turn in (
            lambda p: record(engine, [as_message({"role": "user", "text": "What?", "picture": p})]),
            lambda p: shown_copy(p, engine),
        ):
            with pytest.raises(EngineError) as caught:
                turn(path)
            assert caught.value.about == "picture" and len(str(caught.value)) > 20, words


def test_messages_are_what_the_processor_takes(engine, tmp_path):
    file = str(tmp_path / "red.png")
    Image.new("RGB", (96, 96), "red").save(file)
    text = {"type": "text", "text": "What is in the picture?"}
    for name in ("image", "path", "url"):
        said = record(engine, [{"role": "user", "content": [{"type": "image", name: file}, text]}], max_new_tokens=8)
        assert said.canvas() == record(engine, ask(), max_new_tokens=8).canvas()
    for odd in ([{"role": "user", "content": 5}], ["hi"], [{"role": "user", "content": ["hi"]}], "hi"):
        with pytest.raises(EngineError) as caught:
            record(engine, odd, max_new_tokens=4)
        assert caught.value.about == "question"


def test_a_picture_of_one_pixel_is_answered(engine):
    assert record(engine, ask(size=(1, 1)), max_new_tokens=4).steps


def test_an_answer_longer_than_the_model_can_read_is_refused(loaded):
    engine = Engine(*loaded, Limits(max_new_tokens=60_000))
    with pytest.raises(EngineError, match="no room for a question"):
        record(engine, ask(), max_new_tokens=50_000)


# -- options --


def test_options_come_from_the_command_line_then_the_environment(monkeypatch):
    monkeypatch.setenv("DVL_MODEL", "owner/name")
    monkeypatch.setenv("DVL_MAX_NEW_TOKENS", "99")
    options = parse_options("", BUNDLED, ["--max-block-size", "16"])
    assert options.model == "owner/name" and limits_of(options).max_new_tokens == 99 and options.max_block_size == 16
    assert parse_options("", BUNDLED, ["--model", "x"]).model == "x"
    with pytest.raises(ValueError, match="open_runs"):
        limits_of(parse_options("", BUNDLED, ["--open-runs", "0"]))


# -- a model that is still being loaded --


def test_a_question_may_be_asked_before_the_model_is_there(engine):
    outline, go = outline_model(BUNDLED, device="cpu"), threading.Event()
    later = Engine.later(replace(outline, load=lambda: go.wait(20) and outline.load()), name="bundled")
    about = later.describe()
    assert about["loading"] and about["device"] == "cpu" and about["dtype"] == "float32"
    assert about["parameters"] == engine.describe()["parameters"]
    assert later.default_settings()["block_size"] == engine.default_settings()["block_size"]
    config = later.config(max_new_tokens=8)
    events = later.stream(ask(), config)
    assert isinstance(next(events), Loading) and isinstance(next(events), Loading)
    go.set()
    assert last(events).canvas() == engine.answer(ask(), config).canvas()
    later.wait()
    assert not later.describe()["loading"]


def test_a_model_that_can_not_be_loaded_is_told_to_everybody(caplog):
    outline = outline_model(BUNDLED, device="cpu")

    def broken():
        raise CheckpointError("no such weights")

    later = Engine.later(replace(outline, load=broken))
    with pytest.raises(CheckpointError, match="no such weights"):
        later.wait()
    assert "could not be loaded: no such weights" in caplog.text
    with pytest.raises(EngineError, match="could not be loaded"):
        later.answer(ask(), later.config(max_new_tokens=4))


# -- branches --


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_going_on_without_a_change_gives_what_not_pausing_gave(engine, strategy):
    config = engine.config(max_new_tokens=24, strategy=strategy, temperature=0.7, seed=3, threshold=0.5)
    whole = engine.answer(ask(), config)
    for step in range(0, len(whole.steps), 3):
        branch = last(engine.branch(ask(), whole, "first", step, {}, config))
        assert branch.canvas() == whole.canvas() and branch.finish_reason == whole.finish_reason
        assert [s.proposals for s in branch.steps] == [s.proposals for s in whole.steps]
        for ours, theirs in zip(branch.steps, whole.steps, strict=True):
            assert (ours.block, ours.step, ours.revealed) == (theirs.block, theirs.step, theirs.revealed)
            assert ours.confidences == pytest.approx(theirs.confidences, abs=1e-4)
        assert branch.parent["run"] == "first" and branch.parent["step"] == step


def test_a_branch_shares_its_prefix_and_keeps_what_a_person_set(engine):
    config = engine.config(max_new_tokens=24)
    whole = engine.answer(ask(), config)
    step = len(whole.steps) // 2
    settled = [p for p, token in enumerate(whole.canvas(step)) if token is not None]
    word = engine.processor.tokenizer("red", add_special_tokens=False).input_ids[0]
    branch = last(engine.branch(ask(), whole, "first", step, {settled[0]: None, settled[1]: word}, config))
    assert [s.to_json() for s in branch.steps[:step]] == [s.to_json() for s in whole.steps[:step]]
    assert branch.canvas(step) == whole.canvas(step)
    after = branch.canvas(step + 1)
    assert after[settled[1]] == word and branch.canvas()[settled[1]] == word
    assert all(settled[1] not in s.masked for s in branch.steps[step:])
    assert any(settled[0] in s.revealed for s in branch.steps[step:])
    again = DenoisingTrace.from_json(json.loads(json.dumps(branch.to_json())))
    assert again == branch


def test_a_branch_may_have_other_settings_from_there_on(engine):
    whole = engine.answer(ask(), engine.config(max_new_tokens=24))
    config = engine.config(max_new_tokens=24, block_size=4, steps=2)
    branch = last(engine.branch(ask(), whole, "first", 5, {}, config))
    assert branch.settings["block_size"] == 4 and branch.parent["settings"]["block_size"] == 8
    assert branch.finish_reason in ("eos", "length") and len(branch.steps) < len(whole.steps)
    kept = {p: t for p, t in enumerate(whole.canvas(5)) if t is not None}
    assert all(branch.canvas()[p] == t for p, t in kept.items())


def test_masks_put_back_take_the_steps_of_a_whole_block(engine):
    config = engine.config(max_new_tokens=16)
    whole = engine.answer(ask(), config)
    block = whole.steps[-1].span
    for _ in range(10):  # however often
        positions = range(block[0], min(block[0] + 4, block[1]))
        branch = last(engine.branch(ask(), whole, "run", len(whole.steps), dict.fromkeys(positions), config))
        new = branch.steps[len(whole.steps) :]
        assert [len(step.revealed) for step in new] == [1] * len(positions) and new[0].step == 0
        whole = branch


def test_a_branch_with_fewer_steps_begins_its_blocks_schedule_anew(engine):
    whole = engine.answer(ask(), engine.config(max_new_tokens=16))
    at = next(i for i, step in enumerate(whole.steps) if step.step == 2)
    branch = last(engine.branch(ask(), whole, "run", at, {}, engine.config(max_new_tokens=16, steps=4)))
    first = branch.steps[at]
    assert first.step == 0 and len(first.revealed) == 2


def test_layers_that_there_are_not_are_refused_at_once(engine):
    with pytest.raises(EngineError, match="there is no layer 99"):
        next(engine.stream(ask(), engine.config(), Observe(attention_layers=(99,))))


def test_half_of_a_character_is_read_as_a_question_mark(engine):
    trace = engine.answer(ask("hi \ud83d there"), engine.config(max_new_tokens=4))
    assert trace.steps and trace.question == "hi ? there"  # which a file can hold


@pytest.mark.parametrize(("step", "changes", "names"), [(999, {}, "step"), (2, {500: None}, "position 500")])
def test_a_branch_outside_its_run_is_refused(engine, step, changes, names):
    config = engine.config(max_new_tokens=8)
    whole = engine.answer(ask(), config)
    with pytest.raises(EngineError, match=names):
        last(engine.branch(ask(), whole, "first", step, changes, config))


def test_a_run_alone_lets_nobody_in_until_it_is_over(engine):
    config = engine.config(max_new_tokens=8)
    alone = engine.stream(ask(), config, alone=True)
    next(alone), next(alone)
    other: list = []
    thread = threading.Thread(target=lambda: other.append(engine.answer(ask(), config)))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive() and not other
    trace = last(alone)
    thread.join(20)
    assert other[0].canvas() == trace.canvas()


def last(events) -> DenoisingTrace:
    """The trace of a run that is watched to its end."""
    *_, finished = events
    return finished.trace
