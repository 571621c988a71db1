"""The command line: one answer, as text or JSON, and a sentence for whatever can't be used."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvl_core import commandline, explore, generate, race
from dvl_core.trace import DenoisingTrace, TraceError
from visualize.explore import protocol as explore_protocol
from visualize.gallery import read_measured
from visualize.race import protocol as race_protocol

MODEL, PARENT = "assets/tinyvl", "assets/tinyvl-ar"


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(np.full((64, 96, 3), 230, np.uint8)).save(file)
    return str(file)


def run(capsys, *arguments):
    status = generate.main(["--model", MODEL, *arguments])
    return status, capsys.readouterr()


def test_one_answer_with_its_trace(capsys, picture, tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    file = tmp_path / "trace.json"
    settings = ("--block-size", "4", "--steps", "2", "--max-new-tokens", "20", "--strategy", "margin", "--seed", "3")
    ask = ("--image", picture, "--prompt", "Describe the picture.", "--candidates", "3")
    status, printed = run(capsys, *ask, *settings, "--trace", str(file), "--json")
    assert status == 0
    result, trace = json.loads(printed.out), DenoisingTrace.load(file)
    assert result["ids"] == trace.answer_ids() and result["text"] == trace.text
    assert result["forwards"] == trace.forwards == trace.steps[-1].forwards
    assert result["tokens_per_forward"] == pytest.approx(trace.tokens_per_forward, abs=1e-3)
    assert result["seconds"] > 0
    assert (trace.settings["block_size"], trace.settings["steps"], trace.settings["strategy"]) == (4, 2, "margin")
    assert all(len(ranking) == 3 for step in trace.steps for ranking in step.candidates)
    assert trace.images[0].width == 96 and trace.prompt["messages"][0]["text"] == "Describe the picture."
    status, printed = run(capsys, *ask[:4], *settings)
    assert (status, printed.out.strip()) == (0, result["text"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--prompt", "Hi", "--steps", "0"), "steps must be a whole number from 1"),
        (("--prompt", "Hi", "--block-size", "0"), "block_size must be"),
        (("--prompt", "Hi", "--temperature", "-1"), "temperature must be"),
        (("--prompt", "Hi", "--strategy", "best"), "strategy must be one of"),
        (("--prompt", ""), "question is empty"),
        (("--prompt", "Hi", "--image", "requirements.txt"), "not a picture"),
        (("--prompt", "Hi", "--image", "nowhere.png"), "nowhere.png"),
        (("--prompt", "Hi", "--model", "tests"), "not a checkpoint folder"),
        (("--prompt", "Hi", "--device", "abacus"), "device must be"),
        (("--prompt", "Hi", "--dtype", "int8"), "dtype must be"),
        (("--prompt", "Hi", "--model", "assets/nothing"), "There is no folder assets/nothing"),
        (("--prompt", "Hi", "--trace", "nowhere/trace.json"), "trace: the folder nowhere does not exist"),
        (("--prompt", "Hi", "--trace", "tests"), "trace: tests is a folder"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(capsys, monkeypatch, request, arguments, says):
    monkeypatch.chdir(request.config.rootpath)
    status, printed = run(capsys, *arguments)
    assert status == 2
    assert printed.err.startswith("error: ") and says in printed.err and len(printed.err.splitlines()) == 1
    assert printed.out == ""


# -- a race, and a sweep --


@pytest.fixture
def at_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_a_race_is_kept_as_the_page_can_show_it(capsys, picture, tmp_path, at_root):
    file = tmp_path / "race.json"
    asked = ["--model", MODEL, "--parent", PARENT, "--image", picture, "--prompt", "Describe the picture."]
    settings = ["--max-new-tokens", "16", "--steps", "2", "--repeats", "1", "--device", "cpu"]
    assert race.main([*asked, *settings, "--out", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert [lane["name"] for lane in kept["lanes"]] == ["block diffusion", "autoregressive"]
    for line, lane in zip(lines, kept["lanes"], strict=True):
        trace = DenoisingTrace.from_json(lane["trace"])
        assert line.endswith(lane["name"]) and f"{trace.forwards} passes" in line and lane["seconds"] == [trace.seconds]
    shown = race_protocol.recorded_message(kept)
    assert shown["recorded"]["model"] == "tinyvl" and shown["recorded"]["question"] == "Describe the picture."
    assert shown["recorded"]["machine"] == kept["machine"]["processor"]
    assert [lane["seconds"] for lane in shown["result"]["lanes"]] == [lane["seconds"] for lane in kept["lanes"]]


@pytest.mark.parametrize("name", ["race", "explore"])
@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"machine": {}, "lanes": [], "events": []}'])
def test_a_damaged_recording_is_named(tmp_path, name, text):
    assert read_measured(tmp_path) == (None, None)
    (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(TraceError, match=f"{name}.json is damaged .*record it again, or remove it"):
        read_measured(tmp_path)


def test_a_sweep_is_kept_as_the_page_can_show_it(capsys, picture, tmp_path, at_root):
    file = tmp_path / "sweep.json"
    asked = ["--model", MODEL, "--image", picture, "--prompt", "Describe the picture.", "--max-new-tokens", "16"]
    settings = ["--steps", "1", "2", "--strategies", "margin", "--repeats", "2", "--device", "cpu"]
    assert explore.main([*asked, *settings, "--out", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    shown = explore_protocol.recorded_message(json.loads(file.read_text(encoding="utf-8")))
    assert [(row["steps"], row["strategy"], row["runs"]) for row in shown["rows"]] == [
        (8, "low_confidence_static", 2), (1, "margin", 2), (2, "margin", 2),
    ]  # fmt: skip
    assert shown["phase"] == "finished" and shown["recorded"]["question"] == "Describe the picture."
    for line, row in zip(lines, shown["rows"], strict=True):
        numbers = [f"{row['seconds']:.3f}", str(row["forwards"])]
        assert line.split()[:5] == ["8", str(row["steps"]), row["strategy"], *numbers]


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (race, ("--parent", "assets/nothing"), "There is no folder assets/nothing"),
        (race, ("--parent", MODEL), "parent: assets/tinyvl is no autoregressive model"),
        (race, ("--parent", PARENT, "--model", PARENT), "model: assets/tinyvl-ar is no block-diffusion model"),
        (race, ("--parent", PARENT, "--repeats", "0"), "repeats must be a whole number from 1 to 15"),
        (race, ("--parent", PARENT, "--steps", "0"), "steps must be a whole number"),
        (race, ("--parent", PARENT, "--factor", "2"), "factor is for the strategy factor: add --strategy factor"),
        (generate, ("--threshold", "0.9"), "threshold is for the strategy low_confidence_dynamic: add --strategy"),
        (generate, ("--entropy",), "candidates, entropy and attention are kept in the trace: add --trace FILE"),
        (race, ("--parent", PARENT, "--out", "nowhere/race.json"), "out: the folder nowhere does not exist"),
        (explore, ("--steps", "9", "--block-sizes", "8"), "every combination has more steps"),
        (explore, ("--block-sizes", "0"), "block_size must be"),
        (explore, ("--out", "/proc/none/sweep.json"), "out: the folder /proc/none does not exist"),
        (explore, ("--repeats", "9"), "repeats must be a whole number from 1 to 5"),
        (explore, ("--model", PARENT), "autoregressive model has neither blocks"),
        (explore, ("--out", "tests"), "out: tests is a folder; name a file"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(capsys, at_root, command, arguments, says):
    assert command.main(["--model", MODEL, "--prompt", "Hi", "--device", "cpu", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and says in printed.err


def test_a_file_that_cannot_be_written_is_refused_and_one_that_can_is_left_alone(tmp_path, monkeypatch):
    commandline.check_file("out", tmp_path / "new.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "old.json").write_text("kept")
    commandline.check_file("out", tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "kept"

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"out: .*new.json can't be written \(Permission denied\)"):
        commandline.check_file("out", tmp_path / "new.json")
