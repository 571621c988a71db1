"""The bundled model answers the page's examples, the one in training answers unseen pictures, and the benchmark counts
right."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dvl_core import DecodingConfig, load_model
from dvl_core.evaluate import main
from dvl_core.evaluation import TaskScore, evaluate, evaluate_task, mean_exact
from dvl_core.evaluation.tinyworld import ask_model
from dvl_core.tinyworld import TASKS

ASSETS = Path(__file__).parents[1] / "assets"
FLOORS = {"copy": 0.4, "other": 0.8}  # of the model in training
SETTINGS = DecodingConfig(max_new_tokens=96)


@pytest.fixture(scope="module")
def bundled():
    return load_model(ASSETS / "tinyvl", device="cpu")


@pytest.fixture(scope="module")
def entries():
    return json.loads((ASSETS / "examples" / "examples.json").read_text())


@pytest.mark.parametrize("task", FLOORS)
def test_the_model_in_training_answers_unseen_pictures(task):
    model, processor = load_model(ASSETS / "tinyvl-next", device="cpu")
    score = evaluate_task(model, processor, task, samples=10, seed=4, batch=10)
    assert score.exact >= FLOORS[task], score.mistakes
    assert score.tokens_per_step == 1  # autoregressive: one token per step


def test_every_example_is_answered_right(bundled, entries):
    items = [(Image.open(ASSETS / "examples" / e["image"]), e["question"]) for e in entries]
    given = [text for text, _, _ in ask_model(*bundled, items, SETTINGS)]
    assert given == [entry["answer"] for entry in entries]


def test_second_turn_is_answered(bundled, entries):
    """A question about the chart after its table: the answer is the table's largest value."""
    model, processor = bundled
    chart = next(entry for entry in entries if entry["image"] == "chart.png")
    rows = dict(line.strip("| ").split(" | ") for line in chart["answer"].splitlines()[2:])
    label = max(rows, key=lambda name: int(rows[name]))
    picture = {"type": "image", "image": Image.open(ASSETS / "examples" / "chart.png")}
    inputs = processor.apply_chat_template([
        {"role": "user", "content": [picture, {"type": "text", "text": chart["question"]}]},
        {"role": "assistant", "content": chart["answer"]},
        {"role": "user", "content": "Which bar is the tallest?"},
    ])
    output = model.generate(**inputs, max_new_tokens=96)
    given = processor.tokenizer.decode(output.answers[0], skip_special_tokens=True)
    assert given == f"Bar {label} is the tallest, with the value {rows[label]}."


def test_command_line(bundled, capsys):
    path = str(ASSETS / "tinyvl")
    assert main(["--model", path, "--tasks", "read,place", "--samples", "4", "--steps", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["tasks"]) == {"read", "place"} and report["config"]["steps"] == 2
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
