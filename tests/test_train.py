"""Whole training runs of tiny checkpoints in one process: every stage, every family, what is refused."""

import copy
import importlib.util
import json
import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from parents import PARENTS
from safetensors import safe_open
from training_runs import fresh, llava_set, losses, settings, small_checkpoint, start, train, trainer

from dvl_core import load_model
from dvl_core.tinyworld import TASKS
from dvl_core.train import main
from dvl_core.training.ema import WeightAverage
from dvl_core.training.learner import Learner
from dvl_core.training.logs import read_log
from dvl_core.training.muon import Muon
from dvl_core.training.settings import ConfigError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return llava_set(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def vl(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("small"))


def test_accumulation_changes_nothing(vl, data, tmp_path):
    for name, micro in (("small", 1), ("large", 4)):
        train(settings(vl, data, tmp_path / name, micro_batch=micro, schedule={"steps": 2}))
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "large"), rel=1e-5)


@pytest.mark.parametrize("kind", PARENTS)
def test_the_trained_model_loads_and_has_learnt(translated, data, tmp_path, kind):
    source = translated(kind, kind == "qwen2_5_vl")[1]
    values = settings(source, data, tmp_path / "run", batch=2, schedule={"steps": 12}, data={"held_out": 4},
                      objective={"block_size": 4, "low": 0.3}, evaluation={"every": 12, "rows": 4})
    folder = train(values)
    before, after = (e["held_out_loss"] for e in read_log(tmp_path / "run" / "log.jsonl") if "held_out_loss" in e)
    assert after < 0.95 * before
    model, processor = load_model(folder, device="cpu")
    assert model.config.enable_bd3lm and model.config.bd3lm_block_size == 4
    assert model.config.bd3lm_sampling_eps_min == 0.3
    before, _ = load_model(source, device="cpu")
    old, new = before.state_dict(), model.state_dict()
    assert old.keys() == new.keys()
    assert stored_names(folder) == stored_names(source)  # the same layout on disk
    assert any(not torch.equal(old[key], new[key]) for key in old)
    entries = read_log(tmp_path / "run" / "log.jsonl")
    assert any(entry.get("skipped") == "s5" and "5.png" in entry["reason"] for entry in entries)
    assert entries[-2]["skipped_samples"] >= 1 and entries[-2]["samples"] == 24
    assert set(entries[-2]["by_level"]) <= {"t<0.25", "t<0.5", "t<0.75", "t<=1"}
    assert train(values) == folder  # a finished run is finished


def test_skipped_samples_are_named_in_the_log_and_on_the_terminal(vl, tmp_path, capsys):
    pictures = llava_set(tmp_path / "set")
    for number in (1, 2, 3, 4):
        (pictures / f"{number}.png").write_bytes(b"not a picture")
    train(settings(vl, pictures, tmp_path / "run", schedule={"steps": 4}, data={"held_out": 8},
                   evaluation={"every": 2, "rows": 8}, logging={"every": 1, "progress": True}))
    entries = read_log(tmp_path / "run" / "log.jsonl")
    lost = [{e["skipped"] for e in entries if "skipped" in e and e.get("rows") == rows} for rows in ("held out", None)]
    assert all(lost) and not lost[0] & lost[1] and lost[0] | lost[1] <= {"s1", "s2", "s3", "s4", "s5"}
    counts = [entry["held_out_skipped"] for entry in entries if "held_out_loss" in entry]
    assert len(set(counts)) == 1 and len(counts) == 3
    assert counts[0] == sum(entry.get("rows") == "held out" for entry in entries)  # named once, not every time
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped s" in line]
    assert len(said) == len({line.split()[1] for line in said}) == 3  # no sample twice
    assert "picture" in said[0] and "log.jsonl" in said[2]


def stored_names(folder):
    """Names of the tensors in a folder's files."""
    return {name for file in folder.glob("*.safetensors") for name in safe_open(file, "pt").keys()}


def changed(source, folder):
    """Which tensors a run has changed."""
    old, new = (load_model(path, device="cpu")[0].state_dict() for path in (source, folder))
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("family", ["vl", "lm"])
def test_the_projector_alone(translated, vl, data, tmp_path, family):
    """With what is frozen in bfloat16, as the first stage of the second family is trained."""
    source = vl if family == "vl" else translated("qwen2")[1]
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
    run = trainer(values)
    folder = run.run()
    names = changed(vl, folder)
    assert names and all(name.endswith(("q_proj.weight", "down_proj.weight")) for name in names)
    assert all("language_model" in name for name in names)
    trained, (loaded, _) = run.learner.model.eval(), load_model(folder, device="cpu")
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


def test_passes_leave_cudnns_attention_out(vl, data, tmp_path, monkeypatch):
    """Its backward pass can make gradients that are no numbers; see `without_cudnn_attention`."""
    seen, forward = [], Learner.forward

    def watched(self, *arguments):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return forward(self, *arguments)

    monkeypatch.setattr(Learner, "forward", watched)
    train(settings(vl, data, tmp_path / "run", schedule={"steps": 2}))
    assert seen and not any(seen) and torch.backends.cuda.cudnn_sdp_enabled()


def test_the_benchmark_and_a_tracker_beside_the_log(vl, data, tmp_path):
    tracker = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
    values = settings(vl, data, tmp_path / "run", schedule={"steps": 2}, logging={"every": 2, "tracker": tracker},
                      evaluation={"every": 2, "rows": 0, "tasks": [next(iter(TASKS))], "samples": 1})
    train(values)
    entries = [entry for entry in read_log(tmp_path / "run" / "log.jsonl") if "exact" in entry]
    assert [entry["step"] for entry in entries] == [0, 2]
    assert all(entry["exact"].keys() == {next(iter(TASKS))} for entry in entries)
    assert tracker == "none" or list((tmp_path / "run").rglob("events.out*"))


def test_bad_runs_are_refused_by_name(vl, data, tmp_path, monkeypatch):
    def refused(said, **fields):
        with pytest.raises(ConfigError, match=said):
            train(settings(vl, data, tmp_path / "bad", **fields))

    refused("evaluation.tasks='juggling': must be all", evaluation={"every": 1, "tasks": ["juggling"]})
    if importlib.util.find_spec("trackio") is None:
        refused("logging.tracker='trackio': is not installed", logging={"tracker": "trackio"})
    refused("data.files=.*can't be read", data={"files": ["nothing.json"]})
    refused("weights='bfloat16': needs precision", weights="bfloat16")
    refused("lora.targets=.*no linear layers", lora={"rank": 2, "targets": ["w_proj"]})
    with pytest.raises(ValueError, match="in a row can't be used, .*data.image_folder"):
        train(settings(vl, data, tmp_path / "bad", data={"image_folder": str(tmp_path)}))
    values = settings(vl, data, tmp_path / "run", schedule={"steps": 1})
    with monkeypatch.context() as environment, pytest.raises(ValueError, match="2 processes .* ACCELERATE_USE_CPU"):
        environment.setenv("WORLD_SIZE", "2")
        train(values)
    train(values)
    with pytest.raises(ConfigError, match="output=.*seed is 0 there and 1 here"):
        train(values | {"seed": 1})
    bad = start(values | {"model": str(tmp_path)}, tmp_path / "bad.json")
    assert bad.wait() == 2 and bad.stderr.read().startswith("train: output=")
    shutil.rmtree(tmp_path / "run" / "model")  # or there would be nothing left to do
    state = tmp_path / "run" / "checkpoints" / "step-000001" / "run.json"
    for file, text in ((state, "{}"), (state, None), (state.parents[2] / "run.json", '{"a')):
        file.unlink() if text is None else file.write_text(text)
        with pytest.raises(ConfigError, match=f"output='{file.parent}': its run.json can't be used"):
            train(values)


def test_a_gradient_that_is_no_number_stops_the_run_before_it_costs_the_weights(vl, data, tmp_path, monkeypatch):
    """The last resume point stays what it was, and the run goes on from there."""
    values = settings(vl, data, tmp_path / "run", schedule={"steps": 5}, checkpoints={"every": 2, "keep": 1})
    backward, calls = Accelerator.backward, []

    def spoilt(self, loss, **how):
        backward(self, loss, **how)
        calls.append(loss)
        if len(calls) == 6:  # two passes an update: in the third
            next(p for p in torch.nn.ModuleList(self._models).parameters() if p.grad is not None).grad[0] = math.nan

    for clip in (1.0, 0.0):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        calls.clear()
        with monkeypatch.context() as patched, pytest.raises(ValueError, match="gradient became nan at update 3"):
            patched.setattr(Accelerator, "backward", spoilt)
            train(values | {"optimizer": values["optimizer"] | {"clip": clip}})
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    folder = train(values | {"optimizer": values["optimizer"] | {"clip": 0.0}})
    assert all(weight.isfinite().all() for weight in load_model(folder, device="cpu")[0].state_dict().values())


def test_a_finished_run_is_told_from_another_without_its_resume_points(vl, data, tmp_path):
    values = settings(vl, data, tmp_path / "run", schedule={"steps": 2})
    folder = train(values)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ConfigError, match="seed is 0 there and 1 here"):
        train(values | {"seed": 1})
    assert train(values) == folder and (folder / "model.safetensors").stat().st_mtime_ns == written


def test_the_held_out_loss_does_not_depend_on_the_rows_of_a_pass(vl, data, tmp_path):
    found = []
    for micro in (1, 2, 4):
        values = settings(vl, data, tmp_path / str(micro), micro_batch=micro, schedule={"steps": 1},
                          data={"held_out": 5}, evaluation={"every": 1, "rows": 5})
        train(values)
        found.append(next(e for e in read_log(tmp_path / str(micro) / "log.jsonl") if "held_out_loss" in e))
    losses = [entry["held_out_loss"] for entry in found]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    levels = [entry["held_out_by_level"] for entry in found]
    assert all(levels[0][name] == pytest.approx(other[name], rel=1e-3) for other in levels for name in levels[0])


def test_turns_that_do_not_fit_are_counted(vl, data, tmp_path):
    train(settings(vl, data, tmp_path / "run", schedule={"steps": 2}, data={"max_length": 70}))
    entries = [entry for entry in read_log(tmp_path / "run" / "log.jsonl") if "loss" in entry]
    assert entries[-1]["dropped_turns"] == 8  # one of two, in each of eight rows


def test_an_adapter_on_a_shared_embedding_is_refused(vl, data, tmp_path):
    values = settings(vl, data, tmp_path / "run", lora={"rank": 2, "targets": ["lm_head"]})
    with pytest.raises(ConfigError, match="lm_head is this model's input embedding, too"):
        train(values)


def test_the_command_says_in_one_line_why_it_stops(vl, data, tmp_path, monkeypatch, capsys):
    file = tmp_path / "run.json"

    def said(*assignments, status=2, **fields):
        file.write_text(json.dumps(settings(vl, data, tmp_path / "run", schedule={"steps": 1}, **fields)))
        fresh()
        assert main(["--config", str(file), *(part for text in assignments for part in ("--set", text))]) == status
        printed = capsys.readouterr()
        last = (printed.err if status else printed.out).splitlines()[-1]
        assert last.startswith("train: " if status else "the trained")
        return last

    assert "--set='batch=[1': its value is not valid YAML: expected" in said("batch=[1")
    assert f"output: the folder {file} can't be made (File exists)" in said(f"output={file}")
    assert f"output: the folder {file}/run can't be made (Not a directory)" in said(f"output={file}/run")
    assert "takes at most 17: raise data.max_length." in said("data.max_length=17")
    assert said(status=0).endswith(f"the trained model is in {tmp_path / 'run' / 'model'}")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dvl_core.training.trainer.Trainer.run", interrupted)
    assert said(status=130).startswith("train: stopped; the same command goes on")


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
