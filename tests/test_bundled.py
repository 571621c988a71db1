"""The pipeline of the bundled vision-language model: its stages, how it takes over an earlier one, its options."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tiny import random_bundled

from dvl_core import load_model
from dvl_core.models.qwen_vl import DiffusionVLQwenVLForConditionalGeneration
from dvl_core.tinyworld.labels import HEADS
from dvl_core.tinyworld.tokenizer import build_tokenizer
from dvl_core.training import bundled
from dvl_core.training.bundled import bundle_of, bundled_config, bundled_stages, save, taken_over, view_of
from dvl_core.training.data import TinyWorldBatches
from dvl_core.training.stages import _module
from dvl_core.training.steps import VisionWarmup


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_bundled(tokenizer)


def test_a_gpu_gets_larger_batches_of_the_same_stages():
    small, large = bundled_stages([1, 2, 3], False), bundled_stages([1, 2, 3], True, skip=5)
    assert [s.stage for s in small] == [s.stage for s in large] == ["vision", "autoregressive", "diffusion"]
    pairs = list(zip(small, large, strict=True))
    assert all(many.batch > few.batch and many.first_seed == few.first_seed + 5 for few, many in pairs)
    assert small[1].easy and not large[1].easy


def test_an_earlier_model_is_taken_over_word_by_word(model, tokenizer, tmp_path):
    """What both tokenizers know keeps its embedding; a new word begins as the mean of what it was spelt with."""
    earlier = build_tokenizer(samples=10)
    config = bundled_config(earlier)
    old = DiffusionVLQwenVLForConditionalGeneration(config)
    save(old, earlier, tmp_path / "old", diffusion=False)
    new = taken_over(tokenizer, tmp_path / "old")

    assert torch.equal(new.model.visual.merger.mlp[0].weight, old.model.visual.merger.mlp[0].weight)
    of_old, of_new = old.get_input_embeddings().weight, new.get_input_embeddings().weight
    known, all_words = earlier.get_vocab(), tokenizer.get_vocab()
    assert torch.equal(of_new[all_words["<|mask|>"]], of_old[known["<|mask|>"]])
    word = next(token for token in all_words if token.startswith("Ġ") and len(token) > 3 and token not in known)
    spelt = earlier(tokenizer.convert_tokens_to_string([word])).input_ids
    assert len(spelt) == len(word)
    torch.testing.assert_close(of_new[all_words[word]], of_old[spelt].mean(0))

    flat = DiffusionVLQwenVLForConditionalGeneration(bundled_config(earlier, vision_depth=3))
    save(flat, earlier, tmp_path / "flat", diffusion=False)
    with pytest.raises(ValueError, match="blocks.3"):
        taken_over(tokenizer, tmp_path / "flat")


def test_an_earlier_model_keeps_its_view_or_gets_another(tokenizer, tmp_path):
    """So do the processor beside it and what its stages draw."""
    old = DiffusionVLQwenVLForConditionalGeneration(bundled_config(tokenizer, vision_depth=4, view=64))
    save(old, tokenizer, tmp_path, diffusion=True)
    processor = load_model(tmp_path, device="cpu")[1]
    assert (processor.fixed_size, processor.margin) == (64, 1)
    assert view_of(taken_over(tokenizer, tmp_path).config) == 64
    wider = taken_over(tokenizer, tmp_path, 128)
    assert view_of(wider.config) == wider.config.vision_config.window_size == 128
    bundle, stage = bundle_of(64), bundled.polish_stages(1.0, False, 0, 64)[0]
    batch = next(iter(TinyWorldBatches(replace(stage, batch=1, view=bundle.view, cells=bundle.cells), tokenizer)))
    assert batch["pictures"].shape == (1, 64, 64, 3) and batch["shape"].shape == (1, 16)


def test_training_goes_on_with_the_heads_that_lie_beside_a_model(model, tokenizer, tmp_path, monkeypatch):
    """The first stage then begins with them; without them it begins with new ones."""
    start, stages = tmp_path / "start", []
    save(model, tokenizer, start, diffusion=False)
    monkeypatch.setattr(bundled, "build_tokenizer", lambda: tokenizer)

    def stop(_, __, stage, *rest):
        stages.append(stage)
        raise KeyboardInterrupt

    monkeypatch.setattr(bundled, "run_stage", stop)
    for name, heads in (("new", None), ("kept", VisionWarmup(model, HEADS).heads)):
        if heads is not None:
            save_file(heads.state_dict(), start / bundled.HEADS_FILE)
        with pytest.raises(KeyboardInterrupt):
            bundled.main(["--out", str(tmp_path / name), "--start", str(start), "--minutes", "1,1,1"])
    new, kept = stages
    assert (new.stage, new.reading) == ("vision", 0) and kept.reading == 1
    module = _module(model, tokenizer, kept, tmp_path / "kept")
    assert all(torch.equal(value, heads.state_dict()[name]) for name, value in module.heads.state_dict().items())


def test_bad_options_are_named(model, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundled, "build_tokenizer", lambda: tokenizer)
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("")
    save(model, tokenizer, other, diffusion=False)
    (other / "config.json").write_text('{"model_type": "qwen2"}')
    for options, said in (
        (["--minutes", "1"], "--minutes='1': give 3 numbers"), (["--minutes", "a,b,c"], "--minutes='a,b,c': give"),
        (["--minutes", "0,1,1"], "--minutes='0,1,1': give"), (["--minutes", "1,nan,1"], "--minutes='1,nan,1': give"),
        (["--device", "foo"], "device must be"), (["--workers", "-1"], "--workers=-1: must be at least 1"),
        (["--skip", "-1"], "--skip=-1: must be 0 or more"), (["--brief", "x"], "--brief='x': give shares"),
        (["--brief", "0.1", "--from", "diffusion"], "--brief='0.1': needs a parent from this run"),
        (["--from", "diffusion"], "--from='diffusion': goes on from the stage before it: "),
        (["--from", "diffusion", "--start", "x"], "--start='x': is not where diffusion begins"),
        (["--view", "100"], "--view=100: must be a multiple of 64"),
        (["--from", "polish"], "--polish=0.0: give its minutes"), (["--polish", "-1"], "--polish=-1.0: give its"),
        (["--start", "/nope"], "--start='/nope': is no earlier bundled model: /nope is no folder of a diffusionvl"),
        (["--start", str(other)], f"--start='{other}': is no earlier bundled model: {other} holds a qwen2 model"),
        (["--out", str(file)], f"out: the folder {file} can't be made (File exists)"),
    ):  # fmt: skip
        assert bundled.main(["--out", str(tmp_path / "out"), "--device", "cpu", *options]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"bundled: {said}")


def test_the_whole_pipeline_and_brief_conversions(tokenizer, tmp_path, monkeypatch):
    """One update of every stage; a brief conversion sees its share of the parent's samples."""
    stages = [replace(stage, samples=4, batch=2, reading=0) for stage in bundled_stages([9, 9, 9], False)]
    monkeypatch.setattr(bundled, "build_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(bundled, "bundled_stages", lambda *_: stages)
    assert bundled.main(["--out", str(tmp_path), "--device", "cpu", "--no-compile", "--brief", "0.5,1"]) == 0
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    seen = {entry["stage"]: entry["samples"] for entry in log if entry.get("done")}
    assert seen == {"vision": 4, "autoregressive": 4, "brief-0.5": 2, "brief-1": 4, "diffusion": 4}
    folders = (tmp_path / "bundled" / name for name in ("autoregressive", "diffusion"))
    parent, child = (load_model(folder, device="cpu")[0] for folder in folders)
    assert child.config.enable_bd3lm and not parent.config.enable_bd3lm
    same = [torch.equal(a, b) for a, b in zip(parent.parameters(), child.parameters(), strict=True)]
    assert any(same) and not all(same)  # the tower stays, the decoder has moved


def test_a_conversion_is_polished(model, tokenizer, tmp_path, monkeypatch):
    """As it was made but slower, from an earlier child; nothing else is trained or written."""
    monkeypatch.setattr(bundled, "build_tokenizer", lambda: tokenizer)
    stages = [replace(stage, samples=4, batch=2, tables=2) for stage in bundled.polish_stages(1.0, False)]
    for large in (False, True):
        conversion = bundled.bundled_stages([1.0] * 3, large)[2]
        for part in bundled.polish_stages(1.0, large):
            assert (part.shares, part.length, part.vision_scale) == (conversion.shares, conversion.length, 0)
            assert part.muon_lr < conversion.muon_lr and part.adam_lr < conversion.adam_lr
    assert sum(stage.minutes for stage in stages) == 1.0
    monkeypatch.setattr(bundled, "polish_stages", lambda *_: stages)
    save(model, tokenizer, tmp_path / "child", diffusion=True)
    save_file(VisionWarmup(model, HEADS).heads.state_dict(), tmp_path / "child" / bundled.HEADS_FILE)  # of no use here
    options = ["--start", str(tmp_path / "child"), "--from", "polish", "--polish", "1", "--no-compile"]
    assert bundled.main(["--out", str(tmp_path / "out"), "--device", "cpu", *options]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"polish", "bundled", "log.jsonl"}
    polished = load_model(tmp_path / "out" / "bundled" / "diffusion", device="cpu")[0].state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, polished[name].float())}
    assert any("layers" in name for name in moved)
    assert all(torch.equal(value.bfloat16(), polished[name].bfloat16())
               for name, value in model.state_dict().items() if "visual" in name)
