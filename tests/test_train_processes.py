"""Training in processes of its own: killed and resumed, on two of them, with sharded weights."""

import random
import shutil
import socket
import time

import pytest
import torch
from tiny import IMAGE, tiny_model
from training_runs import llava_set, losses, settings, small_checkpoint, start, train

from dvl_core.training.checkpoints import latest
from dvl_core.training.config import ObjectiveConfig
from dvl_core.training.learner import Learner
from dvl_core.training.logs import read_log
from dvl_core.training.objective import IGNORE


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return llava_set(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def vl(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("small"))


def test_a_killed_run_goes_on_exactly(vl, data, tmp_path):
    fields = {"schedule": {"steps": 40}, "ema_decay": 0.5, "evaluation": {"every": 20, "rows": 2},
              "checkpoints": {"every": 3}, "data": {"held_out": 2, "workers": 1}}  # fmt: skip
    whole, killed = (settings(vl, data, tmp_path / name, **fields) for name in ("whole", "killed"))
    moment = random.SystemRandom().randint(4, 25)
    process = start(killed, tmp_path / "killed.json")
    log = tmp_path / "killed" / "log.jsonl"
    while process.poll() is None and sum("loss" in entry for entry in read_log(log)) < moment:
        time.sleep(0.01)
    process.kill()  # SIGKILL: no handler, no farewell
    process.wait()
    assert process.returncode == -9, process.stderr.read()
    assert not (tmp_path / "killed" / "model").exists()
    point = latest(tmp_path / "killed" / "checkpoints")
    assert point is not None
    resumed = train(killed)
    straight = train(whole)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole"), f"killed at {moment}, resumed from {point.name}"
    assert set(losses(tmp_path / "whole")) == set(range(1, 41))
    held_out = [[e["held_out_loss"] for e in read_log(folder.parent / "log.jsonl") if "held_out_loss" in e]
                for folder in (resumed, straight)]
    assert held_out[0] == held_out[1] and len(held_out[0]) == 3
    assert (resumed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert [path.name for path in sorted((tmp_path / "killed" / "checkpoints").iterdir())] == [
        "step-000039", "step-000040"]  # fmt: skip


def test_dropout_goes_on_where_it_was(vl, data, tmp_path):
    pytest.importorskip("peft")
    values = settings(vl, data, tmp_path, lora={"rank": 2, "dropout": 0.5}, objective={"kind": "autoregressive"},
                      evaluation={"every": 4, "rows": 2}, data={"held_out": 2})
    finished = train(values)
    straight, model = losses(tmp_path), (finished / "model.safetensors").read_bytes()
    for folder in (finished, tmp_path / "checkpoints" / "step-000006"):
        shutil.rmtree(folder)  # as if the run had been killed before the last update
    train(values)
    assert losses(tmp_path) == straight and (finished / "model.safetensors").read_bytes() == model


@pytest.mark.parametrize("family", ["vl", "lm"])
def test_two_processes_give_the_loss_of_one(translated, vl, data, tmp_path, family):
    source = vl if family == "vl" else translated("qwen2")[1]
    fields = {"batch": 8, "schedule": {"steps": 3}, "evaluation": {"every": 3, "rows": 4}, "data": {"held_out": 4}}
    pair = settings(source, data, tmp_path / "two", **fields)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = start(pair, tmp_path / "two.json", *launcher, ACCELERATE_USE_CPU="true")
    train(settings(source, data, tmp_path / "one", **fields))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert [next(e["processes"] for e in read_log(tmp_path / name / "log.jsonl")) for name in ("one", "two")] == [1, 2]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert set(one) == {1, 2, 3} and two == pytest.approx(one, rel=1e-5)
    first, second = ([e for e in read_log(tmp_path / name / "log.jsonl") if "held_out_loss" in e]
                     for name in ("one", "two"))
    for alone, together in zip(first, second, strict=True):
        assert together["held_out_loss"] == pytest.approx(alone["held_out_loss"], rel=1e-4)
    norms = [[e["gradient_norm"] for e in read_log(tmp_path / n / "log.jsonl") if "loss" in e] for n in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def _sharded_loss(rank, port, batch, found):
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    learner = tiny_learner()
    for module in learner.modules():
        if type(module).__name__ in learner._no_split_modules:
            fully_shard(module)
    fully_shard(learner)
    loss = learner(batch, 8, 0.0)["loss"]
    loss.backward()
    gradients = {n: p.grad.full_tensor() for n, p in learner.named_parameters() if p.grad is not None}
    if rank == 0:
        torch.save({"loss": loss.detach(), "gradients": gradients}, found)
    distributed.destroy_process_group()


def tiny_learner():
    model = tiny_model().double()
    dummy = {"input_ids": torch.full((1, 1), IMAGE), "pixel_values": torch.zeros(4, 96).double(),
             "image_grid_thw": torch.tensor([[1, 2, 2]])}  # fmt: skip
    return Learner(model, ObjectiveConfig(), dummy)


def test_sharded_weights_give_the_same_loss_and_gradients(tmp_path):
    """FSDP over two processes, as accelerate applies it; on a GPU that is accelerate's own business."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.manual_seed(0)
    labels = torch.full((2, 24), IGNORE)
    labels[:, 10:20] = 5
    batch = {
        "input_ids": torch.randint(0, 256, (2, 24)), "labels": labels, "turn": torch.zeros(2, 24, dtype=torch.long),
        "attention_mask": torch.ones(2, 24, dtype=torch.bool), "block_uniform": torch.rand(2, 3),
        "token_uniform": torch.rand(2, 24), "lengths": torch.tensor([20, 20]), "pictures": {},
    }  # fmt: skip
    torch.multiprocessing.spawn(_sharded_loss, (port, batch, tmp_path / "found.pt"), nprocs=2)
    sharded = torch.load(tmp_path / "found.pt")
    learner = tiny_learner()
    loss = learner(batch, 8, 0.0)["loss"]
    loss.backward()
    gradients = {n: p.grad for n, p in learner.named_parameters() if p.grad is not None}
    torch.testing.assert_close(sharded["loss"], loss.detach())
    assert sharded["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(sharded["gradients"][name], gradient)
