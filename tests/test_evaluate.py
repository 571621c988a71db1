"""The bundled model answers the page's examples and unseen pictures, and the benchmark counts right."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dvl_core import DecodingConfig, load_model
from dvl_core.evaluate import main
from dvl_core.evaluation import TaskScore, evaluate, evaluate_task, mean_exact, tinyworld
from dvl_core.evaluation.asking import ask_model
from dvl_core.tinyworld import TASKS

ASSETS = Path(__file__).parents[1] / "assets"
FLOORS = {  # well below what its card says
    "copy": 0.9, "other": 0.9, "caption": 0.9, "colour": 0.9, "title": 0.9, "table": 0.85, "sudoku": 0.75,
    "count": 0.8, "value": 0.8, "cell": 0.8, "sum": 0.8,
}  # fmt: skip
SETTINGS = DecodingConfig(max_new_tokens=96)
QUICK = DecodingConfig(strategy="low_confidence_dynamic", threshold=0.9, max_new_tokens=96)


@pytest.fixture(scope="module")
def bundled():
    return load_model(ASSETS / "tinyvl", device="cpu")


@pytest.fixture(scope="module")
def entries():
    return json.loads((ASSETS / "examples" / "examples.json").read_text())


@pytest.mark.parametrize("task", FLOORS)
def test_the_bundled_model_answers_unseen_pictures(bundled, task):
    score = evaluate_task(*bundled, task, samples=15, seed=4, config=QUICK, batch=15)
    assert score.exact >= FLOORS[task], score.mistakes


def test_the_parent_decodes_a_token_a_step():
    parent = load_model(ASSETS / "tinyvl-ar", device="cpu")
    score = evaluate_task(*parent, "copy", samples=10, seed=4, batch=10)
    assert score.exact >= FLOORS["copy"] and score.tokens_per_step == 1


@pytest.mark.parametrize(("model", "folder"), [("tinyvl", "examples"), ("tinylm", "tinylm/examples")])
def test_every_example_is_answered_right(model, folder):
    entries = json.loads((ASSETS / folder / "examples.json").read_text())
    items = [(Image.open(ASSETS / folder / e["image"]), e["question"]) for e in entries]
    given = [text for text, _, _ in ask_model(*load_model(ASSETS / model, device="cpu"), items, SETTINGS)]
    assert given == [entry["answer"] for entry in entries]


def test_second_turn_is_answered(bundled, entries):
    """A question about the same picture again, after one that could not be answered."""
    model, processor = bundled
    chart = next(entry for entry in entries if entry["image"] == "chart.png")
    picture = {"type": "image", "image": Image.open(ASSETS / "examples" / chart["image"])}
    inputs = processor.apply_chat_template([
        {"role": "user", "content": [picture, {"type": "text", "text": "Solve the sudoku."}]},
        {"role": "assistant", "content": "There is no sudoku in this picture."},
        {"role": "user", "content": chart["question"]},
    ])
    output = model.generate(**inputs, max_new_tokens=32)
    assert processor.tokenizer.decode(output.answers[0], skip_special_tokens=True) == chart["answer"]


def test_command_line(bundled, capsys):
    path = str(ASSETS / "tinyvl")
    assert main(["--model", path, "--tasks", "read,place", "--samples", "4", "--steps", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["tasks"]) == {"read", "place"} and report["config"]["steps"] == 2
    assert report["mean_exact"] == pytest.approx(sum(t["exact"] for t in report["tasks"].values()) / 2)


@pytest.mark.parametrize("extra", [["--tasks", "chess"], ["--steps", "0"], ["--samples", "0"], ["--batch", "0"],
                                   ["--threshold", "0.5"]])
def test_command_line_refuses(extra, capsys):
    assert main(["--model", str(ASSETS / "tinyvl"), *extra]) == 2
    assert capsys.readouterr().err.startswith("evaluate: ")


def test_a_missing_model_is_refused(capsys):
    assert main(["--model", "/no/such/folder"]) == 2
    assert "/no/such/folder" in capsys.readouterr().err
    assert main(["--model", str(ASSETS / "tinyvl"), "--parent", "/no/such/parent"]) == 2
    shown = capsys.readouterr()
    assert "/no/such/parent" in shown.err and not shown.out  # before the child is asked anything
    assert main(["--model", str(ASSETS / "tinyvl"), "--parent", str(ASSETS / "tinylm")]) == 2
    shown = capsys.readouterr()
    assert "tinylm is a block-diffusion model. Give an autoregressive one" in shown.err and not shown.out


def test_easy_is_about_tinyworld(capsys):
    folder = str(ASSETS.parent / "tests" / "data" / "foreign")
    assert main(["--model", str(ASSETS / "tinyvl"), "--pictures", folder, "--easy"]) == 2
    assert "leave it out with --pictures" in capsys.readouterr().err


def test_without_settings_a_model_decodes_as_it_was_trained(bundled, monkeypatch):
    model, processor = bundled
    seen = []
    monkeypatch.setattr(model.config, "bd3lm_block_size", 4)
    monkeypatch.setattr(tinyworld, "ask_model", lambda model, processor, asked, config: (
        seen.append(config) or [("", 1, 1)] * len(asked)))
    list(evaluate(model, processor, ["copy"], 1))
    assert (seen[0].block_size, seen[0].steps) == (4, 4)


def test_mean_is_over_tasks():
    scores = [TaskScore("a", 10, 1.0, 1, 1, 1, ()), TaskScore("b", 1, 0.5, 1, 1, 1, ())]
    assert mean_exact(scores) == 0.75
    with pytest.raises(ValueError, match="chess"):
        list(evaluate(None, None, ["chess"]))
    assert set(FLOORS) <= set(TASKS)
