"""The bundled model answers unseen pictures, its examples included, and the benchmark counts right."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dvl_core import DecodingConfig, load_model
from dvl_core.evaluate import main
from dvl_core.evaluation import TaskScore, evaluate, evaluate_task, mean_exact
from dvl_core.evaluation.tinyworld import ask_model
from dvl_core.tinyworld import TASKS, draw, sample
from dvl_core.tinyworld.examples import EXAMPLES, answer_of

ASSETS = Path(__file__).parents[1] / "assets"
FLOORS = {"caption": 0.4, "word": 0.6, "table": 0.7, "tallest": 0.7, "place": 0.7, "copy": 0.7, "sudoku": 0.5}
SETTINGS = DecodingConfig(max_new_tokens=96)


@pytest.fixture(scope="module")
def bundled():
    return load_model(ASSETS / "tinyvl", device="cpu")


@pytest.fixture(scope="module")
def parent():
    return load_model(ASSETS / "tinyvl-ar", device="cpu")


@pytest.mark.parametrize("task", FLOORS)
def test_bundled_model_answers_unseen_pictures(bundled, task):
    score = evaluate_task(*bundled, task, samples=10, seed=4, batch=10)
    assert score.exact >= FLOORS[task], score.mistakes


def test_parent_answers_unseen_pictures(parent):
    score = evaluate_task(*parent, "tallest", samples=10, seed=4, batch=10)
    assert score.exact >= 0.7, score.mistakes
    assert score.steps == pytest.approx(score.tokens_per_step * score.steps)  # one token per step


def test_every_example_is_answered_right(bundled):
    entries = json.loads((ASSETS / "examples" / "examples.json").read_text())
    assert [entry["image"] for entry in entries] == [example.file for example in EXAMPLES]
    items = [(Image.open(ASSETS / "examples" / e["image"]), e["question"]) for e in entries]
    given = [text for text, _, _ in ask_model(*bundled, items, SETTINGS)]
    assert given == [entry["answer"] for entry in entries] == [answer_of(example) for example in EXAMPLES]


def text(question):
    return {"type": "text", "text": question}


def test_second_turn_is_answered(bundled):
    model, processor = bundled
    right = total = 0
    talks = [(s.picture, t) for s in (sample("test", i) for i in range(40)) for t in s.conversations if len(t) == 2]
    for picture, (first, second) in talks[:8]:
        inputs = processor.apply_chat_template([
            {"role": "user", "content": [{"type": "image", "image": draw(picture)}, text(first[0])]},
            {"role": "assistant", "content": first[1]},
            {"role": "user", "content": second[0]},
        ])
        output = model.generate(**inputs, max_new_tokens=96)
        total += 1
        right += processor.tokenizer.decode(output.answers[0], skip_special_tokens=True) == second[1]
    assert right / total >= 0.6


def test_command_line(bundled, capsys):
    path = str(ASSETS / "tinyvl")
    assert main(["--model", path, "--tasks", "word,place", "--samples", "4", "--steps", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["tasks"]) == {"word", "place"} and report["config"]["steps"] == 2
    assert report["mean_exact"] == pytest.approx(sum(t["exact"] for t in report["tasks"].values()) / 2)


@pytest.mark.parametrize("extra", [["--tasks", "chess"], ["--steps", "0"], ["--samples", "0"], ["--batch", "0"]])
def test_command_line_refuses(extra, capsys):
    assert main(["--model", str(ASSETS / "tinyvl"), *extra]) == 2
    assert capsys.readouterr().err.startswith("evaluate: ")


def test_a_missing_model_is_refused(capsys):
    assert main(["--model", "/no/such/folder"]) == 2
    assert "/no/such/folder" in capsys.readouterr().err


def test_mean_is_over_tasks():
    scores = [TaskScore("a", 10, 1.0, 1, 1, 1, ()), TaskScore("b", 1, 0.5, 1, 1, 1, ())]
    assert mean_exact(scores) == 0.75
    with pytest.raises(ValueError, match="chess"):
        list(evaluate(None, None, ["chess"]))
    assert set(FLOORS) <= set(TASKS)
