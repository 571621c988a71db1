"""The benchmark compares like with like: the same answers, the right number of passes, turns taken fairly."""

import json
from pathlib import Path

import pytest
import torch
from tiny import MASK, tiny_model

from dvl_core import DecodingConfig
from dvl_core.benchmark.__main__ import main
from dvl_core.benchmark.plain import plain_blocks, whole_answer
from dvl_core.benchmark.sizes import random_model, weight_bytes
from dvl_core.benchmark.suites import app_suite, left_to_right, observe_suite, ours
from dvl_core.benchmark.timing import Measurement, Outcome, copy_bandwidth, interleaved
from visualize.benchmark import main as draw

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
        random_model("9t", CPU, torch.float32)


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
    assert "| plain loop | 16 | 19 |" in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["--suite chess", "--size 9t", "--repeats 0", "--suite growth --answers 8,x"])
def test_what_can_not_be_measured_is_refused(bad, capsys):
    assert main([*bad.split(), "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_observation_and_the_app_are_measured_against_themselves():
    rows = {row["name"]: row for row in observe_suite("1m", CPU, torch.float32, 1)["rows"]}
    assert set(rows) == {"nothing", "candidates", "entropy", "attention"}
    assert len({row["forwards"] for row in rows.values()}) == 1
    app = {row["name"]: row for row in app_suite(Path(__file__).parents[1] / "assets" / "tinyvl", 1)["rows"]}
    assert app["first token"]["forwards"] < app["an answer"]["forwards"] and app["an answer"]["tokens"] > 1
