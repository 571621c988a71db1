"""What visitors may ask for beside an answer: branches, observation, occlusion, templates."""

from pathlib import Path

import pytest
from PIL import Image

from dvl_core import load_model
from dvl_core.desk import Desk
from dvl_core.engine import Engine, EngineError, Limits
from dvl_core.sessions import Run, Sessions

ROOT = Path(__file__).parents[1]
VISITOR = "somebody"


@pytest.fixture(scope="module")
def desk():
    model, processor = load_model(ROOT / "assets" / "tinyvl", device="cpu")
    return Desk(Engine(model, processor, Limits(max_new_tokens=64)), Sessions(), ROOT / "assets" / "examples")


@pytest.fixture
def question(tmp_path):
    file = tmp_path / "picture.png"
    Image.new("RGB", (96, 96), "red").save(file)
    return {"role": "user", "text": "Describe the picture.", "picture": str(file)}


def over(events) -> Run:
    """The run that was watched to its end."""
    *_, (run, _) = events
    return run


def asked(desk, question, **how) -> Run:
    return over(desk.ask(VISITOR, question, [], {"max_new_tokens": 24}, **how))


def test_a_question_is_answered_and_its_picture_shown_from_a_copy(desk, question):
    run = asked(desk, question)
    assert run.over and run.trace.finish_reason in ("eos", "length") and desk.sessions.trace(run.id) is run.trace
    assert run.asked[0]["shown"] != question["picture"] and Path(run.asked[0]["shown"]).exists()
    assert all(step.candidates is None and step.attention is None for step in run.trace.steps)


def test_records_are_kept_when_they_are_asked_for(desk, question):
    run = asked(desk, question, records=("candidates", "attention"))
    step = run.trace.steps[0]
    patches = run.trace.images[0].grid[0] * run.trace.images[0].grid[1]
    assert len(step.candidates[0]) == 5 and len(step.entropies) == len(step.masked)
    assert len(step.attention) == 3 and all(len(rows[0]) == patches for rows in step.attention.values())


def test_observing_a_run_gives_the_same_run_with_more(desk, question):
    run = asked(desk, question)
    again = over(desk.observe(VISITOR, run.id))
    assert again.id != run.id and again.trace.canvas() == run.trace.canvas()
    assert all(step.candidates for step in again.trace.steps)
    settled = run.trace.steps[0].revealed[0]
    branch = over(desk.branch(VISITOR, run.id, 3, [[settled, None]], {"max_new_tokens": 24}))
    seen = over(desk.observe(VISITOR, branch.id))
    assert seen.trace.canvas() == branch.trace.canvas() and seen.trace.changes == branch.trace.changes
    assert all(step.candidates for step in seen.trace.steps[3:])


def test_a_branch_is_not_checked_by_painting_over(desk, question):
    run = asked(desk, question)
    branch = over(desk.branch(VISITOR, run.id, 3, [], {"max_new_tokens": 24}))
    with pytest.raises(EngineError, match="first steps were made with the picture"):
        over(desk.occlude(VISITOR, branch.id, [0.0, 0.0, 0.5, 0.5]))


def test_painted_pictures_go_with_the_runs_that_show_them(question):
    model, processor = load_model(ROOT / "assets" / "tinyvl", device="cpu")
    few = Desk(Engine(model, processor, Limits(max_new_tokens=8)), Sessions(capacity=2))
    settings = {"max_new_tokens": 4}
    files = []
    for _ in range(4):
        run = over(few.ask(VISITOR, question, [], settings))
        files.append(Path(over(few.occlude(VISITOR, run.id, [0.0, 0.0, 0.5, 0.5])).asked[0]["picture"]))
    assert [file.exists() for file in files] == [False, False, True, True]


def test_an_occluded_picture_is_another_and_the_region_is_noted(desk, question):
    run = asked(desk, question)
    again = over(desk.occlude(VISITOR, run.id, [0.0, 0.0, 0.5, 0.5]))
    assert again.trace.prompt["occluded"] == [0.0, 0.0, 0.5, 0.5]
    assert again.asked[0]["picture"] != question["picture"] and run.asked[0]["picture"] == question["picture"]
    assert again.trace.settings == run.trace.settings
    seen = over(desk.observe(VISITOR, again.id))
    assert seen.trace.prompt["occluded"] == again.trace.prompt["occluded"]


def test_a_branch_of_a_template_keeps_the_template(desk, question):
    run = asked(desk, question, template="There is a ___ at the top, and a __3__ below.")
    assert run.trace.text.startswith("There is a ") and run.trace.text.endswith(" below.")
    hole = run.canvas.tokens.index(None)
    branch = over(desk.branch(VISITOR, run.id, 0, [[hole, None]], {"max_new_tokens": 24, "temperature": 1.5}))
    assert branch.trace.text.startswith("There is a ") and branch.trace.text.endswith(" below.")
    assert branch.canvas is run.canvas
    for position, token in enumerate(run.canvas.tokens):
        assert token is None or branch.trace.canvas()[position] == token


TEXT = {"role": "user", "text": "x"}


@pytest.mark.parametrize(
    ("ask", "about", "words"),
    [
        (lambda d, run: d.branch(VISITOR, "unknown", 0, [], {}), "question", "not kept"),
        (lambda d, run: d.branch(VISITOR, run.id, 99, [], {}), "settings", "step must be"),
        (lambda d, run: d.branch(VISITOR, run.id, 1, [[0, 10**9]], {}), "model", "id lies between"),
        (lambda d, run: d.branch(VISITOR, run.id, 1, [["a", 1]], {}), "model", "A change is"),
        (lambda d, run: d.branch(VISITOR, run.id, 1, [[float("inf"), 1]], {}), "model", "A change is"),
        (lambda d, run: d.occlude(VISITOR, run.id, [0.9, 0, 0.1, 1]), "picture", "region must be"),
        (lambda d, run: d.ask(VISITOR, TEXT, [], {}, template="none"), "template", "no hole"),
        (lambda d, run: d.ask(VISITOR, TEXT, [], {}, template="__9__ " * 9), "template", "long"),
    ],
)
def test_what_can_not_be_had_is_said_in_a_sentence(desk, question, ask, about, words):
    run = asked(desk, question)
    with pytest.raises(EngineError, match=words) as raised:
        over(ask(desk, run))
    assert raised.value.about == about and desk.sessions.trace(run.id) is run.trace


def test_a_question_without_a_picture_has_nothing_to_paint_over(desk):
    run = asked(desk, {"role": "user", "text": "Hello", "picture": None})
    with pytest.raises(EngineError, match="no picture"):
        over(desk.occlude(VISITOR, run.id, [0, 0, 1, 1]))


def test_typed_text_becomes_tokens_of_plain_text(desk):
    tokens = desk.tokenize(" <|im_end|> green")
    assert b"".join(raw for _, raw in tokens) == b" <|im_end|> green"
    assert not {token for token, _ in tokens} & set(desk.engine.model.eos_token_ids)
