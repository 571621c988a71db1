"""The fast paths of training are the same computation as the plain ones: vision, packing, trees, optimizer."""

import json
from copy import deepcopy
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dvl_core import load_model
from dvl_core.models.precision import fast_dtype, without_cudnn_attention
from dvl_core.models.qwen_vl import DiffusionVLQwenVLForConditionalGeneration
from dvl_core.tinyworld import draw, sample
from dvl_core.tinyworld.labels import HEADS, patch_heads
from dvl_core.tinyworld.tokenizer import build_tokenizer
from dvl_core.training import bundled, stages
from dvl_core.training.bundled import (
    bundle_of,
    bundled_config,
    bundled_processor,
    bundled_stages,
    save,
    taken_over,
    view_of,
)
from dvl_core.training.data import StageData, TinyWorldBatches, add_tree_noise, loader, picture_bytes
from dvl_core.training.objective import NoisyBatch, block_diffusion_loss, diffusion_forward
from dvl_core.training.optimizer import MuonAdamW, orthogonalise
from dvl_core.training.packing import IGNORE, Packer
from dvl_core.training.replay import Replay
from dvl_core.training.stages import Log, Stage, Tally, _module, drop_unusable, picture_slice, run_stage
from dvl_core.training.steps import PackedLanguage, PictureReader, VisionWarmup

BLOCK, PICTURE_TOKENS = 8, 144
MASKED_BY = ("positions", "segment", "noisy", "complement")  # what `PackedLanguage.mask` takes


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(samples=300)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = bundled_config(tokenizer)
    config._attn_implementation = "eager"
    return DiffusionVLQwenVLForConditionalGeneration(config).eval()


def messages(picture, turns):
    first = [{"type": "image", "image": draw(picture)}, {"type": "text", "text": turns[0][0]}]
    talk = [{"role": "user", "content": first}]
    for (_, answer), (question, _) in zip(turns[:-1], turns[1:], strict=True):
        talk += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    return talk


def test_vision_fast_path_is_the_stock_tower(model, tokenizer):
    pictures = [sample("train", seed).picture for seed in range(3)]
    inputs = bundled_processor(tokenizer).process_pictures([draw(p) for p in pictures])
    stock = model.get_image_features(
        torch.as_tensor(inputs["pixel_values"]), torch.as_tensor(inputs["image_grid_thw"])
    ).pooler_output
    fast = PictureReader(model)(torch.from_numpy(np.stack([picture_bytes(p, 256)[0] for p in pictures])))
    torch.testing.assert_close(fast.flatten(0, 1), torch.cat(stock), rtol=1e-4, atol=1e-5)


def test_packed_prompts_are_the_processors(tokenizer):
    processor = bundled_processor(tokenizer)
    packer = Packer(tokenizer, PICTURE_TOKENS, BLOCK, 336, diffusion=False)
    for seed in range(5):
        drawn = sample("train", seed)
        for turns in drawn.conversations:
            ids = processor.apply_chat_template(messages(drawn.picture, turns))["input_ids"][0]
            packed = packer.trunk + packer.conversation(turns)[0]
            assert tokenizer.decode(ids) == tokenizer.decode(packed)
            if len(turns) == 1 or '"' not in turns[0][1]:  # what was quoted from a picture is spelt in training
                assert ids.tolist() == packed


def test_next_token_labels_say_the_answer(tokenizer):
    packer = Packer(tokenizer, PICTURE_TOKENS, BLOCK, 336, diffusion=False)
    drawn = sample("train", 1)
    row, used = packer.pack(drawn.conversations)
    for segment, index in enumerate(used, 1):
        learnt = (row["segment"] == segment) & (row["labels"] != IGNORE)
        assert tokenizer.decode(row["labels"][learnt]) == drawn.conversations[index][-1][1] + "<|im_end|>"
        np.testing.assert_array_equal(row["ids"][1:][learnt[:-1]][:-1], row["labels"][learnt][:-1])


@pytest.mark.parametrize("complementary", [False, True])
def test_tree_loss_is_the_published_loss_of_each_conversation(model, tokenizer, complementary):
    data = StageData("diffusion", batch=1, length=528, first_seed=5, complementary=complementary)
    packer = Packer(tokenizer, PICTURE_TOKENS, BLOCK, data.length, True, complementary)
    drawn = next(s for s in (sample("train", i) for i in range(99)) if any(len(t) == 2 for t in s.conversations))
    row, used = packer.pack(drawn.conversations)
    assert len(used) >= 2
    batch = {key: torch.from_numpy(value)[None] for key, value in row.items()}
    noisy = add_tree_noise(batch, data, tokenizer.mask_token_id, torch.Generator().manual_seed(0))
    picture = torch.from_numpy(picture_bytes(drawn.picture, 256)[0])[None]
    step = PackedLanguage(model, packer.picture_at, BLOCK, diffusion=True)
    mask = step.mask(*(noisy[key] for key in MASKED_BY))
    with torch.no_grad():
        tree, _, reading = step(picture, noisy["ids"], noisy["positions"], mask, noisy["labels"], noisy["weight"])
        pixels = bundled_processor(tokenizer).process_pictures([draw(drawn.picture)])
        pixels = {key: torch.as_tensor(value) for key, value in pixels.items()}
        apart = 0.0
        for segment, index in enumerate(used, 1):
            prompt, answer = packer.conversation(drawn.conversations[index])
            ids = packer.trunk + prompt + answer
            ids += [packer.eos] * (-len(ids) % BLOCK)
            ids = torch.tensor([ids])
            start = len(packer.trunk) + len(prompt)
            labels = torch.where(torch.arange(ids.shape[1]) >= start, ids, IGNORE)
            for copy in (False, True)[: 1 + complementary]:
                levels, masked = torch.ones(ids.shape), torch.zeros(ids.shape, dtype=torch.bool)
                mine = (noisy["segment"] == segment) & (noisy["weight"] > 0) & (noisy["complement"] == copy)
                at = noisy["positions"][mine]
                masked[0, at] = True
                levels[0, at] = noisy["share"][mine] / noisy["weight"][mine]  # of a pair: twice it
                noise = NoisyBatch(levels, masked)
                logits = diffusion_forward(model, model.embed_inputs(ids, **pixels), noise, BLOCK)
                apart += block_diffusion_loss(logits, labels, noise)
    torch.testing.assert_close(tree, apart, rtol=1e-4, atol=1e-4)
    assert reading == 0


def test_the_patches_loss_beside_the_language_models_is_the_warmups(model, tokenizer):
    """One pass gives both losses, and the language model's is what it is without the heads."""
    batch = next(iter(TinyWorldBatches(StageData("autoregressive", 2, 336, 0), tokenizer)))
    warmup = VisionWarmup(model, HEADS)
    patches = {name: batch[name] for name in HEADS}
    at = picture_slice(tokenizer)
    plain = PackedLanguage(model, at, BLOCK, diffusion=False)
    both = PackedLanguage(model, at, BLOCK, False, warmup.heads)
    mask = plain.mask(*(batch[key] for key in MASKED_BY))
    given = [batch[key] for key in ("pictures", "ids", "positions")] + [mask, batch["labels"], batch["share"]]
    with torch.no_grad():
        alone, right, _ = plain(*given)
        beside, same, reading = both(*given, patches)
        wanted, shares = warmup(batch["pictures"], patches)
    torch.testing.assert_close(beside, alone)
    assert torch.equal(right, same)
    torch.testing.assert_close(reading, wanted)
    assert reading > 0 and set(shares) == set(HEADS)


def test_noise_hides_only_labelled_answer_tokens(tokenizer):
    data = StageData("diffusion", 8, 432, 0)
    batch = next(iter(TinyWorldBatches(data, tokenizer)))
    generator = torch.Generator().manual_seed(0)
    batch, again = (add_tree_noise(batch, data, tokenizer.mask_token_id, generator) for _ in range(2))
    assert not torch.equal(batch["ids"], again["ids"])  # a batch that is seen again has other noise
    hidden = batch["ids"] == tokenizer.mask_token_id
    assert hidden.any() and (batch["noisy"] & (batch["labels"] != IGNORE))[hidden].all()
    assert torch.equal(hidden, batch["weight"] > 0)
    assert 0.35 < hidden.sum() / (batch["labels"] != IGNORE).sum() < 0.75


def test_the_second_noisy_copy_hides_what_the_first_one_shows(tokenizer):
    data = StageData("diffusion", 8, 528, 0, lowest_noise=0.5, complementary=True)
    drawn = next(iter(TinyWorldBatches(data, tokenizer)))
    batch = add_tree_noise(drawn, data, tokenizer.mask_token_id, torch.Generator().manual_seed(0))
    hidden, learnt = batch["ids"] == tokenizer.mask_token_id, batch["labels"] != IGNORE
    first, second = learnt & ~batch["complement"], learnt & batch["complement"]
    assert first.any() and torch.equal(hidden[first], ~hidden[second])
    assert torch.equal(batch["labels"][first], batch["labels"][second])
    assert torch.equal(batch["positions"][first], batch["positions"][second])
    assert hidden[first].float().mean() > 0.65 > 0.35 > hidden[second].float().mean()  # levels from 0.5 to 1, and 1 - t
    assert torch.equal(hidden, batch["weight"] > 0)


@pytest.mark.parametrize("setting", [{"lowest_noise": 1.0}, {"lowest_noise": 0.0}, {"complementary": True}])
def test_noise_that_cannot_be_is_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        StageData("autoregressive", 8, 448, 0, **setting)


def test_batches_are_deterministic(tokenizer):
    one, two = (next(iter(TinyWorldBatches(StageData("diffusion", 4, 432, 9), tokenizer))) for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_several_workers_draw_the_same_batches(tokenizer):
    data = StageData("autoregressive", 2, 336, 40)
    alone, shared = (iter(loader(data, tokenizer, workers)) for workers in (1, 2))
    for _ in range(3):
        one, two = next(alone), next(shared)
        assert all(torch.equal(one[key], two[key]) for key in one)


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


def test_a_gpu_gets_larger_batches_of_the_same_stages():
    small, large = bundled_stages([1, 2, 3], False), bundled_stages([1, 2, 3], True, skip=5)
    assert [s.stage for s in small] == [s.stage for s in large] == ["vision", "autoregressive", "diffusion"]
    pairs = list(zip(small, large, strict=True))
    assert all(many.batch > few.batch and many.first_seed == few.first_seed + 5 for few, many in pairs)
    assert small[1].easy and not large[1].easy


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
    bundle, stage = bundle_of(64), bundled.polish_stage(1.0, False, 0, 64)
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
    """Complementary masks at a low rate, from an earlier child, and nothing else is trained or written."""
    monkeypatch.setattr(bundled, "build_tokenizer", lambda: tokenizer)
    stage = replace(bundled.polish_stage(1.0, False), samples=4, batch=2)
    assert stage.complementary and stage.vision_scale == 0
    monkeypatch.setattr(bundled, "polish_stage", lambda *_: stage)
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


def test_the_fast_number_format_is_one_that_the_device_has(monkeypatch):
    assert fast_dtype("cuda") == torch.bfloat16
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert fast_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert fast_dtype("cpu") == torch.bfloat16
