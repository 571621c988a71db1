"""The command line: one answer, as text or JSON, and a sentence for whatever can't be used."""

import json

import numpy as np
import pytest
from PIL import Image

from dvl_core.generate import main
from dvl_core.trace import DenoisingTrace

MODEL = "assets/tinyvl"


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(np.full((64, 96, 3), 230, np.uint8)).save(file)
    return str(file)


def run(capsys, *arguments):
    status = main(["--model", MODEL, *arguments])
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
