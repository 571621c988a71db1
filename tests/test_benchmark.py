"""The benchmark compares like with like: the same answers, the right number of passes, turns taken fairly."""

import json
from pathlib import Path

import pytest
import torch
from tiny import MASK, tiny_model

from dvl_core import DecodingConfig
from dvl_core.benchmark.__main__ import main
from dvl_core.benchmark.plain import plain_blocks, whole_answer
from dvl_core.benchmark.sizes import random_ids, random_model, sized_model, weight_bytes
from dvl_core.benchmark.suites import app_suite, left_to_right, observe_suite, ours
from dvl_core.benchmark.timing import Measurement, Outcome, copy_bandwidth, interleaved
from visualize.benchmark import main as draw

BUNDLED = Path(__file__).parents[1] / "assets" / "tinyvl"
CPU = torch.device("cpu")


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_plain_loop_gives_our_ids_and_needs_a_pass_more_per_block(steps):
    model = random_model("1m", CPU, torch.float32)
    ids = torch.randint(1, 400, (1, 16))
    config = DecodingConfig(block_size=8, steps=steps, max_new_tokens=32)
    plain, fast = plain_blocks(model, ids, config), ours(model, ids, config)
    assert plain.ids == fast.ids and plain.tokens == fast.tokens == 32
    assert plain.forwards == 1 + 4 * (steps + 1) and fast.forwards == 1 + 4 * steps


def test_the_plain_loop_ends_where_ours_ends():
    for seed in range(4):
        model = tiny_model(seed)
        ids = torch.randint(0, 250, (1, 16), generator=torch.Generator().manual_seed(seed))
        config = DecodingConfig(block_size=8, steps=8, max_new_tokens=48)
        assert plain_blocks(model, ids, config).ids == ours(model, ids, config).ids
    with pytest.raises(ValueError, match="whole blocks of 8"):
        plain_blocks(model, ids[:, :5], config)


def test_the_other_ways_write_an_answer_of_the_same_length():
    model = random_model("1m", CPU, torch.float32)
    ids = torch.randint(1, 400, (1, 16))
    config = DecodingConfig(block_size=8, steps=4, max_new_tokens=16)
    whole, causal = whole_answer(model, ids, config), left_to_right(model, ids, config)
    assert (whole.tokens, whole.forwards) == (16, 8) and (causal.tokens, causal.forwards) == (16, 16)
    assert MASK not in whole.ids and model.config.mask_token_id not in whole.ids


def test_variants_take_turns_and_must_do_the_same_every_time():
    order = []

    def variant(name):
        return lambda: order.append(name) or Outcome(4, 2, (1, 2, 3, 4))

    measured = interleaved({"a": variant("a"), "b": variant("b")}, 3, CPU)
    assert order == ["a", "b"] * 4 and len(measured["a"].seconds) == 3  # the first of each is not counted
    fickle = iter(range(9))
    with pytest.raises(ValueError, match="another answer"):
        interleaved({"fickle": lambda: Outcome(1, 1, (next(fickle),))}, 2, CPU)
    row = Measurement("x", Outcome(10, 5, ()), (1.0, 4.0, 2.0)).to_json()
    assert (row["seconds"], row["fastest"], row["slowest"]) == (2.0, 1.0, 4.0)
    assert row["tokens_per_second"] == 5.0 and row["milliseconds_per_forward"] == 400.0


def test_sizes_are_what_they_are_called():
    model = random_model("58m", torch.device("meta"), torch.bfloat16)
    assert 55e6 < sum(p.numel() for p in model.parameters()) < 61e6
    assert weight_bytes(random_model("1m", CPU, torch.float32)) > 3e6
    assert copy_bandwidth(CPU, megabytes=8, repeats=3) > 1e8
    with pytest.raises(ValueError, match="size must be one of"):
        sized_model("9t", CPU, torch.float32)


def test_a_checkpoint_is_measured_like_a_random_model(capsys):
    short = "--prompt 8 --answer 16 --repeats 1 --device cpu --json".split()
    assert main(["--suite", "decode,train", "--size", str(BUNDLED), *short]) == 0
    shown = capsys.readouterr()
    decode, train = json.loads(shown.out)
    assert decode["size"] == "tinyvl" and decode["same_ids_as_plain"] and train["same_loss"]
    assert {row["tokens"] for row in decode["rows"]} == {16}  # it does not end by itself
    assert "decode: warming up" in shown.err and "train: turn 1 of 1" in shown.err
    model = sized_model(str(BUNDLED), CPU, torch.float32)
    assert not (random_ids(model, 50, 50) == model.config.image_token_id).any()
    with pytest.raises(ValueError, match="autoregressive checkpoint"):
        sized_model(str(BUNDLED.with_name("tinyvl-ar")), CPU, torch.float32)


def test_the_command_measures_keeps_and_draws(tmp_path, capsys):
    short = "--size 1m --prompt 16 --answer 16 --answers 8,264 --pictures 4,6 --batches 1,3 --repeats 1 --device cpu"
    short = short.split()
    assert main(["--suite", "decode,growth,train", "--json", "--out", str(tmp_path), *short]) == 0
    decode, growth, train = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in decode["rows"]}
    assert decode["same_ids_as_plain"] and rows["plain loop"]["ratio"] == 1.0
    assert rows["ours"]["forwards"] == 17 and rows["plain loop"]["forwards"] == 19
    assert rows["ours"]["ratio"] == pytest.approx(rows["plain loop"]["seconds"] / rows["ours"]["seconds"], rel=0.01)
    ahead = rows["ours, looking ahead"]
    assert ahead["tokens"] == 16 and ahead["forwards"] <= 17
    grown = [(row["name"], row["grows"], row["at"], row["tokens"]) for row in growth["rows"]]
    assert grown == [
        ("ours", "answer", 8, 8), ("whole answer, no cache", "answer", 8, 8), ("ours", "answer", 264, 264),
        *(("ours", "picture", at, 32) for at in (4, 6)), ("ours", "batch", 1, 32), ("ours", "batch", 3, 96),
    ]  # fmt: skip
    assert train["same_loss"] and [row["name"] for row in train["rows"]] == ["doubled sequence", "ours", "next token"]
    assert decode["machine"]["torch"] == torch.__version__
    assert draw([str(tmp_path)]) == 0
    assert all(file.stat().st_size > 5000 for file in tmp_path.glob("*.png")) and len(list(tmp_path.glob("*.png"))) == 3
    assert draw([str(tmp_path / "nothing")]) == 2
    assert main(["--suite", "decode", *short]) == 0
    shown = capsys.readouterr().out
    assert "| plain loop | 16 | 19 |" in shown and f"threads, torch {torch.__version__}." in shown
    (tmp_path / "foreign.json").write_text('{"rows": [{}]}')
    assert draw([str(tmp_path)]) == 2
    assert "foreign.json does not hold numbers of the benchmark" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("--suite chess", "suite must be"), ("--size 9t", "size must be"), ("--size tests", "has no config.json"),
        ("--repeats 0", "repeats must be"), ("--suite growth --answers 8,x", "answers must be"),
        ("--prompt 0", "prompt must be"), ("--prompt -8", "prompt must be"), ("--answer 12", "answer must be whole"),
        ("--suite train --answer 0", "answer must be"), ("--suite train --dtype float16", "dtype must be"),
        ("--dtype int8", "dtype must be"), ("--suite app --model nowhere", "no folder nowhere"),
        (f"--out {__file__}", "out: the folder"),
    ],
)  # fmt: skip
def test_what_can_not_be_measured_is_refused(bad, says, capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    assert main([*bad.split(), "--device", "cpu"]) == 2
    said = capsys.readouterr().err  # and nothing was measured before it
    assert said.startswith("error: ") and says in said and len(said.splitlines()) == 1


def test_observation_and_the_app_are_measured_against_themselves():
    rows = {row["name"]: row for row in observe_suite("1m", CPU, torch.float32, 1)["rows"]}
    assert set(rows) == {"nothing", "candidates", "entropy", "attention"}
    assert len({row["forwards"] for row in rows.values()}) == 1
    app = {row["name"]: row for row in app_suite(BUNDLED, CPU, torch.float32, 1)["rows"]}
    assert app["first token"]["forwards"] < app["an answer"]["forwards"] and app["an answer"]["tokens"] > 1
