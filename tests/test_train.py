"""Whole training runs of tiny checkpoints: killed and resumed, on two processes, every stage, every family."""

import copy
import random
import socket
import time

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from tiny import IMAGE, tiny_model
from training_runs import llava_set, losses, settings, small_checkpoint, start

from dvl_core import load_model
from dvl_core.training.checkpoints import latest
from dvl_core.training.config import ObjectiveConfig, TrainConfig
from dvl_core.training.ema import WeightAverage
from dvl_core.training.learner import Learner
from dvl_core.training.logs import read_log
from dvl_core.training.muon import Muon
from dvl_core.training.objective import IGNORE
from dvl_core.training.settings import ConfigError, build
from dvl_core.training.trainer import Trainer


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, as in the processes that the tests start; and no state left from the run before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    _forget()


def _forget():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return llava_set(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def vl(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("small"))


def train(values):
    """A run in this process; returns its finished model's folder."""
    _forget()
    return Trainer(build(TrainConfig, values)).run()


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


def test_two_processes_give_the_loss_of_one(vl, data, tmp_path):
    fields = {"batch": 8, "schedule": {"steps": 3}, "evaluation": {"every": 3, "rows": 4}, "data": {"held_out": 4}}
    pair = settings(vl, data, tmp_path / "two", **fields)
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip
    process = start(pair, tmp_path / "two.json", *launcher)
    train(settings(vl, data, tmp_path / "one", **fields))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert set(one) == {1, 2, 3} and two == pytest.approx(one, rel=1e-5)
    first, second = ([e for e in read_log(tmp_path / name / "log.jsonl") if "held_out_loss" in e]
                     for name in ("one", "two"))
    for alone, together in zip(first, second, strict=True):
        assert together["held_out_loss"] == pytest.approx(alone["held_out_loss"], rel=1e-4)
    norms = [[e["gradient_norm"] for e in read_log(tmp_path / n / "log.jsonl") if "loss" in e] for n in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_accumulation_changes_nothing(vl, data, tmp_path):
    for name, micro in (("small", 1), ("large", 4)):
        train(settings(vl, data, tmp_path / name, micro_batch=micro, schedule={"steps": 2}))
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "large"), rel=1e-5)


@pytest.mark.parametrize("name", ["qwenvl_tied", "qwenlm_untied"])
def test_the_trained_model_loads_and_has_learnt(checkpoint_with_tokenizer, data, tmp_path, name):
    source = checkpoint_with_tokenizer(name)
    values = settings(source, data, tmp_path / "run", batch=2, schedule={"steps": 5, "decay": "constant"},
                      objective={"block_size": 4, "low": 0.3})
    folder = train(values)
    found = losses(tmp_path / "run")
    assert found[5] < found[1]
    model, processor = load_model(folder, device="cpu")
    assert model.config.enable_bd3lm and model.config.bd3lm_block_size == 4
    assert model.config.bd3lm_sampling_eps_min == 0.3
    before, _ = load_model(source, device="cpu")
    old, new = before.state_dict(), model.state_dict()
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[key], new[key]) for key in old)
    entries = read_log(tmp_path / "run" / "log.jsonl")
    assert any(entry.get("skipped") == "s5" and "5.png" in entry["reason"] for entry in entries)
    assert entries[-1]["skipped_samples"] >= 1 and entries[-1]["samples"] == 10
    assert set(entries[-1]["by_level"]) <= {"t<0.25", "t<0.5", "t<0.75", "t<=1"}
    assert train(values) == folder  # a finished run is finished


def changed(source, folder):
    """Which tensors a run has changed."""
    old, new = (load_model(path, device="cpu")[0].state_dict() for path in (source, folder))
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("family", ["vl", "lm"])
def test_the_projector_alone(checkpoint_with_tokenizer, vl, data, tmp_path, family):
    """With what is frozen in bfloat16, as the first stage of the second family is trained."""
    source = vl if family == "vl" else checkpoint_with_tokenizer("qwenlm_untied")
    rates = {"vision": 0, "projector": 1e-3, "language": 0}
    folder = train(settings(source, data, tmp_path / "run", optimizer={"lr": rates}, schedule={"steps": 2}, batch=2,
                            objective={"kind": "autoregressive"}, precision="bfloat16", weights="bfloat16"))
    (old, _), (new, _) = (load_model(path, device="cpu", dtype="bfloat16") for path in (source, folder))
    new = new.state_dict()
    names = {name for name, value in old.state_dict().items() if not torch.equal(value, new[name])}
    assert names and all("merger" in name or "mm_projector" in name or "newline" in name for name in names)


def test_adapters_are_merged_into_the_model(vl, data, tmp_path):
    pytest.importorskip("peft")
    rates = {"vision": 0, "projector": 0, "language": 1e-2}
    values = settings(vl, data, tmp_path / "run", optimizer={"lr": rates}, schedule={"steps": 2},
                      lora={"rank": 2, "targets": ["q_proj", "down_proj"]}, objective={"kind": "autoregressive"})
    _forget()
    trainer = Trainer(build(TrainConfig, values))
    folder = trainer.run()
    names = changed(vl, folder)
    assert names and all(name.endswith(("q_proj.weight", "down_proj.weight")) for name in names)
    assert all("language_model" in name for name in names)
    trained, (loaded, _) = trainer.learner.model.eval(), load_model(folder, device="cpu")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, trained(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    assert loaded.config.enable_bd3lm is False


def test_everything_at_once_runs(vl, data, tmp_path):
    """Muon, bfloat16, gradient checkpointing and all options together; the end is a model."""
    values = settings(
        vl, data, tmp_path / "run", schedule={"steps": 3, "decay": "linear"}, precision="bfloat16",
        gradient_checkpointing=True, ema_decay=0.9,
        objective={"weighting": "effective_mask_ratio", "beta_noise": {"enabled": True}, "block_annealing": True,
                   "auto_truncation": True, "complementary": True, "ar_weight": 0.5},
    )  # fmt: skip
    values["optimizer"] = {"name": "muon", "lr": {"vision": 1e-4, "projector": 1e-4, "language": 1e-4}}
    folder = train(values)
    entries = [entry for entry in read_log(tmp_path / "run" / "log.jsonl") if "loss" in entry]
    assert [entry["block_size"] for entry in entries] == [2, 4, 8]
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in entries)
    assert load_model(folder, device="cpu", dtype="auto")[0].config.enable_bd3lm


def test_bad_runs_are_refused_by_name(vl, data, tmp_path):
    def refused(said, **fields):
        with pytest.raises(ConfigError, match=said):
            train(settings(vl, data, tmp_path / "bad", **fields))

    refused("evaluation.tasks='juggling': must be all", evaluation={"every": 1, "tasks": ["juggling"]})
    refused("data.files=.*can't be read", data={"files": ["nothing.json"]})
    refused("weights='bfloat16': needs precision", weights="bfloat16")
    refused("lora.targets=.*no linear layers", lora={"rank": 2, "targets": ["w_proj"]})
    values = settings(vl, data, tmp_path / "run", schedule={"steps": 1})
    train(values)
    with pytest.raises(ConfigError, match="output=.*seed is 0 there and 1 here"):
        train(values | {"seed": 1})
    bad = start(values | {"model": str(tmp_path)}, tmp_path / "bad.json")
    assert bad.wait() == 2 and bad.stderr.read().startswith("train: output=")


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


def test_average_of_weights():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 0.0)
    average = WeightAverage(list(layer.named_parameters()), 0.75)
    torch.nn.init.constant_(layer.weight, 4.0)
    average.update()
    with average.in_place():
        assert layer.weight.item() == 1.0
    assert layer.weight.item() == 4.0
    again = WeightAverage(list(layer.named_parameters()), 0.75)
    again.load_state_dict(average.state_dict())
    assert again.average["weight"].item() == 1.0


def test_muon_moves_matrices_by_orthogonal_steps_and_resumes():
    torch.manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(8, 16)) for _ in range(2)]
    vector = torch.nn.Parameter(torch.randn(8))

    def optimizer():
        groups = [{"params": matrices, "muon": True, "lr": 0.1}, {"params": [vector], "muon": False, "lr": 0.01}]
        return Muon(groups, weight_decay=0.0)

    def gradients(seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in (*matrices, vector):
            parameter.grad = torch.randn(parameter.shape, generator=generator)

    first, before = optimizer(), matrices[0].detach().clone()
    gradients(1)
    first.step()
    values = torch.linalg.svdvals((matrices[0].detach() - before) / 0.1)
    assert values.min() > 0.5 and values.max() < 1.5
    assert matrices[0].grad is not None
    second = optimizer()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    kept = [p.detach().clone() for p in (*matrices, vector)]
    results = []
    for one in (first, second):
        with torch.no_grad():
            for parameter, value in zip((*matrices, vector), kept, strict=True):
                parameter.copy_(value)
        gradients(2)
        one.step()
        results.append([p.detach().clone() for p in (*matrices, vector)])
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)
