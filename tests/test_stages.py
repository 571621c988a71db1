"""One stage of a bundled model's training: its loop, its optimizer, its log, and what survives a bad batch."""

import json
from copy import deepcopy
from dataclasses import replace
from threading import Event

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny import random_bundled

from dvl_core.models.precision import fast_dtype, without_cudnn_attention
from dvl_core.tinyworld.labels import patch_heads
from dvl_core.training import bundled, stages
from dvl_core.training.bundled import bundle_of
from dvl_core.training.data import StageData
from dvl_core.training.optimizer import MuonAdamW, orthogonalise
from dvl_core.training.replay import Replay
from dvl_core.training.stages import Log, Stage, Tally, _module, drop_unusable, run_stage
from dvl_core.training.steps import VisionWarmup


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_bundled(tokenizer)


def test_a_device_that_is_faster_sees_earlier_batches_again():
    """New ones first; what fails where they are made is raised where they are used."""
    go_on = Event()

    def slow():
        yield {"ids": torch.tensor(0)}
        go_on.wait(10)
        yield {"ids": torch.tensor(1)}
        raise ValueError("no more paper")

    replay = Replay(slow(), torch.device("cpu"))
    batches = iter(replay)
    assert [int(next(batches)["ids"]) for _ in range(5)] == [0] * 5 and replay.drawn == 1
    go_on.set()
    with pytest.raises(ValueError, match="no more paper"):
        for batch in batches:
            assert int(batch["ids"]) in (0, 1)
    with pytest.raises(ValueError, match="keep=0"):
        Replay([], torch.device("cpu"), keep=0)


def test_tally_counts_conversations_that_are_right_throughout():
    batch = {"tasks": torch.tensor([[-1, 3, 3, 5]]), "segment": torch.tensor([[0, 1, 1, 2, 2, 3, -1]])}
    right = torch.tensor([[False, True, True, True, False, False, False]])
    counted = torch.tensor([[False, True, True, True, True, False, False]])
    tally = Tally()
    tally.add(torch.tensor(3.0), reading=torch.tensor(1.0))
    tally.add(torch.tensor(1.0), {"shape": torch.tensor(0.5)})
    tally.add_conversations(batch, right, counted)
    entry = tally.take()
    assert entry["loss"] == 2 and entry["reading_loss"] == 0.5
    assert entry["right"] == {"shape": 0.25, "exists": 0.5, "colour": 1.0}
    assert tally.take()["right"] == {}


def test_orthogonalised_matrices_have_singular_values_near_one():
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 32, 64)).float())
    assert values.min() > 0.5 and values.max() < 1.5


def test_muon_and_adamw_lower_a_loss():
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)])})
    optimizer = MuonAdamW(list(net.named_parameters()), muon_lr=0.05, adam_lr=0.01)
    x, target = torch.randn(64, 8), torch.randn(64, 8)
    losses = []
    for _ in range(40):
        loss = (net["layers"][1](net["layers"][0](x).tanh()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(1.0)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_heads_of_another_view_are_taken_where_they_fit(model, tokenizer, tmp_path):
    """Characters are characters; what counts rows and columns begins anew."""
    earlier = VisionWarmup(model, patch_heads(8)).heads
    (tmp_path / "vision").mkdir()
    save_file(earlier.state_dict(), tmp_path / "vision" / bundled.HEADS_FILE)
    stage = Stage("vision", minutes=1, samples=1, reading=1.0)
    taken = _module(model, tokenizer, stage, tmp_path).heads
    assert torch.equal(taken["left_glyph"].weight, earlier["left_glyph"].weight)
    assert len(taken["row"].weight) == 13 != len(earlier["row"].weight)


def test_a_gradient_that_is_no_number_moves_nothing():
    """One bad batch is passed over, on the device; the next one counts."""
    net = torch.nn.Linear(2, 2)
    for bad in (True, False):
        net.zero_grad()
        (net(torch.ones(1, 2)).sum() * (float("nan") if bad else 1.0)).backward()
        assert float(drop_unusable(list(net.parameters()))) == bad
        assert bool(net.weight.grad.any()) == (not bad) and net.weight.grad.isfinite().all()


def test_a_stage_is_saved_whole(tmp_path):
    """What lies there stays until all of the new one is written; the heads of the warm-up stay in any case."""
    place = tmp_path / "vision"
    place.mkdir()
    (place / "model").write_text("old")
    (place / bundled.HEADS_FILE).write_text("heads")

    def fails(model, tokenizer, folder, diffusion):
        (folder / "model").write_text("half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages._save(replace(bundle_of(), save=fails), None, None, place, False)
    assert (place / "model").read_text() == "old"
    whole = replace(bundle_of(), save=lambda m, t, folder, d: (folder / "model").write_text("new"))
    stages._save(whole, None, None, place, False)
    assert (place / "model").read_text() == "new" and (place / bundled.HEADS_FILE).read_text() == "heads"
    assert [path.name for path in tmp_path.iterdir()] == ["vision"]


def test_a_stage_whose_loss_is_no_number_stops_and_keeps_what_was_saved(model, tokenizer, tmp_path, monkeypatch):
    stage = Stage("autoregressive", batch=1, length=336, minutes=9, samples=200)
    monkeypatch.setattr(stages, "_loss", lambda module, *_: module.lm_head.weight.sum() * float("nan"))
    with pytest.raises(ValueError, match="autoregressive: most gradients"):
        run_stage(deepcopy(model), tokenizer, stage, Log(tmp_path / "log.jsonl"), tmp_path, bundle_of())
    entry = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert entry["passed_over"] == 50 and entry["loss"] == 0


@pytest.mark.parametrize("length, usable", [(320, False), (336, True)])
def test_a_stage_trains_without_cudnns_attention_where_that_fails(model, tokenizer, tmp_path, monkeypatch, length,
                                                                  usable):
    """Where its rows have one of the lengths; another library in this process may want it afterwards."""
    seen, loss = [], stages._loss

    def watched(*arguments):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return loss(*arguments)

    monkeypatch.setattr(stages, "_loss", watched)
    stage = Stage("autoregressive", batch=1, length=length, minutes=9, samples=1)
    run_stage(deepcopy(model), tokenizer, stage, Log(tmp_path / "log.jsonl"), tmp_path, bundle_of())
    assert seen == [usable] and torch.backends.cuda.cudnn_sdp_enabled()


def test_cudnns_attention_comes_back_whatever_happens():
    with pytest.raises(KeyError), without_cudnn_attention():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        raise KeyError
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_gradients_of_low_scores_are_numbers_on_cuda():
    """The length and the scores at which cuDNN's backward pass fails, in training rows of 192-pixel pictures too."""
    length, width = 576, 32
    query, key, value = torch.randn(3, 1, 1, length, width, device="cuda", dtype=torch.bfloat16)
    query[..., 0], key[..., 0] = 1.0, -120 * width**0.5
    query.requires_grad_()
    mask = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()[None, None]
    with without_cudnn_attention():
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask).sum().backward()
    assert query.grad.isfinite().all()


def test_learning_rate_follows_the_clock():
    stage = Stage("diffusion", minutes=1, samples=100, decay_from=0.5)
    assert stage.factor(0.0, 0) < 0.1
    assert stage.factor(0.4, 100) == 1.0
    assert stage.factor(0.75, 100) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="minutes=0"):
        Stage("diffusion", minutes=0, samples=1)


def test_bad_stage_names_are_refused():
    with pytest.raises(ValueError, match="stage='fun'"):
        StageData("fun", 1, 1, 0)


def test_the_fast_number_format_is_one_that_the_device_has(monkeypatch):
    assert fast_dtype("cuda") == torch.bfloat16
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert fast_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert fast_dtype("cpu") == torch.bfloat16
