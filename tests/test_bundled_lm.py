"""The language-model family's own pipeline: every stage runs, and training sees what a visitor's picture shows."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, SiglipVisionModel

from dvl_core import load_model
from dvl_core.evaluation import evaluate_task
from dvl_core.tinyworld import draw, render, sample, task_sample
from dvl_core.tinyworld.description import describe
from dvl_core.tinyworld.labels import THIRDS, patch_heads, patch_labels
from dvl_core.tinyworld.tokenizer import build_tokenizer
from dvl_core.training.bundled_lm import (
    SIDE,
    STAGES,
    bundled_stages,
    described_prompt,
    main,
    picture_processor,
    score_words,
    tower_config,
    train,
)
from dvl_core.training.data import StageData, TinyWorldBatches, picture_bytes
from dvl_core.training.optimizer import MuonAdamW
from dvl_core.training.packing import Packer
from dvl_core.training.steps import TileReader, VisionWarmup
from dvl_core.translation import TranslationConfig, translate

ASSETS = Path(__file__).parents[1] / "assets"
PICTURE_TOKENS = 144


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What one step of every stage leaves behind."""
    out = tmp_path_factory.mktemp("run")
    stages = [replace(stage, samples=2, batch=2) for stage in bundled_stages([9, 9, 9, 9])]
    train(out, stages, build_tokenizer(samples=300))
    return out


@pytest.fixture(scope="module")
def tinylm(run):
    return load_model(run / "bundled" / "tinylm", device="cpu")


@pytest.fixture(scope="module")
def parent(run):
    folder = run / "bundled" / "tinylm-ar"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def ask(picture, question):
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]


def test_easy_stages_draw_easy_pictures_alone():
    for large in (False, True):
        assert all(s.only_easy and not s.easy and not s.wild for s in bundled_stages([9, 9, 9, 9], large, easy=True))
    assert not any(stage.only_easy for stage in bundled_stages([9, 9, 9, 9]))


def test_training_sees_what_a_visitors_picture_shows(tinylm):
    model, processor = tinylm
    pictures = [sample("test", seed).picture for seed in range(4)]  # of several shapes
    shown = [render(picture, 256)[0] for picture in pictures]
    inputs = processor.process_pictures(shown)
    assert inputs["pixel_values"].shape == (4, 3, SIDE, SIDE)
    stock = model.picture_features(*(torch.as_tensor(inputs[name]) for name in ("pixel_values", "image_sizes")))
    seen = np.stack([picture_bytes(picture, 256, processor.square_view)[0] for picture in pictures])
    torch.testing.assert_close(TileReader(model)(torch.from_numpy(seen)), torch.stack(stock), rtol=1e-4, atol=1e-5)


def test_packed_prompts_are_the_processors(tinylm):
    _, processor = tinylm
    packer = Packer(processor.tokenizer, PICTURE_TOKENS, 8, 400, diffusion=True)
    for seed in range(5):
        drawn = sample("train", seed)
        for turns in drawn.conversations:
            if len(turns) == 1:
                ids = processor.apply_chat_template(ask(draw(drawn.picture), turns[0][0]))["input_ids"][0].tolist()
                assert ids == packer.trunk + packer.conversation(turns)[0]


def test_one_view_has_one_grid(tinylm):
    _, processor = tinylm
    wide = draw(sample("test", 3).picture, 200).resize((200, 100))
    inputs = processor.process_pictures([wide])
    grid, = processor.picture_grids(inputs, [wide.size])
    assert (grid.rows * grid.columns, grid.box) == (PICTURE_TOKENS, (0.0, -50.0, 200.0, 150.0))


def test_words_stand_where_the_picture_would(parent):
    _, tokenizer = parent
    batch = next(iter(TinyWorldBatches(StageData("words", 2, 256, 7), tokenizer)))
    drawn = sample("train", 7, 6)
    start = tokenizer.decode(batch["ids"][0][batch["segment"][0] == 0])
    assert start.endswith(f"user\n{describe(drawn.picture)}\n") and batch["pictures"].shape == (2, 0)


def test_a_language_model_is_scored_on_descriptions(parent):
    model, tokenizer = parent
    picture, question, wanted = task_sample("place", "test", 0)
    ids = described_prompt(Packer(tokenizer, 0, 1, 1, False), picture, question)
    assert tokenizer.decode(ids).endswith(f"{describe(picture)}\n{question}<|im_end|>\n<|im_start|>assistant\n")
    assert dict(score_words(model, tokenizer, ["place"], samples=2)) == {"place": 0.0}  # it has learnt nothing yet


def test_translation_of_the_parent_keeps_it(run, parent, tmp_path):
    model, tokenizer = parent
    config = TranslationConfig(vision_tower=str(run / "vision"))
    made = translate(run / "bundled" / "tinylm-ar", tmp_path / "made", config)
    assert (made.model_type, made.mask_added) == ("diffusionvl_qwen", False)
    start, processor = load_model(tmp_path / "made", device="cpu", dtype="float32")
    assert len(start.vision_tower.encoder.layers) == tower_config().num_hidden_layers - 1
    ids = tokenizer("What is at the top left?", return_tensors="pt").input_ids
    assert processor.tokenizer("What is at the top left?").input_ids == ids[0].tolist()  # splits words as its parent
    with torch.no_grad():
        torch.testing.assert_close(start(ids, block_size=1).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_every_stage_leaves_what_the_next_one_needs(run, tinylm, parent):
    model, processor = tinylm
    assert model.config.enable_bd3lm and model.config.model_type == "diffusionvl_qwen"
    assert model.config.image_aspect_ratio == processor.image_aspect_ratio == "pad"
    assert parent[0].config.model_type == "qwen2" and parent[1].get_vocab() == processor.tokenizer.get_vocab()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["stage"] for entry in log if entry.get("done")] == list(STAGES)


def test_a_stage_goes_on_with_its_own_checkpoint_and_other_samples(run, tmp_path):
    shutil.copytree(run / "vision", tmp_path / "vision")
    stage = replace(bundled_stages([9, 9, 9, 9])[0], samples=2, batch=2, muon_lr=1e-9, adam_lr=1e-9)
    train(tmp_path, [stage], build_tokenizer(samples=300), go_on=1)
    for name in ("heads.safetensors", "model.safetensors"):
        before, after = (load_file(folder / "vision" / name) for folder in (run, tmp_path))
        assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_the_warm_up_leaves_the_dropped_layer_alone():
    tower = SiglipVisionModel._from_config(tower_config())
    trained = {id(p) for p in VisionWarmup(tower, {"row": 9}).parameters()}
    assert not trained & {id(p) for p in tower.encoder.layers[-1].parameters()}
    pixels = picture_processor()
    assert (*pixels.image_mean, *pixels.image_std) == (0.5,) * 6  # what `TileReader` does


def test_muon_takes_the_patch_embedding_as_a_matrix():
    weight = torch.nn.Parameter(torch.zeros(4, 3, 2, 2))
    named = [("patch_embedding.weight", weight), ("patch_embedding.bias", torch.nn.Parameter(torch.zeros(4)))]
    optimizer = MuonAdamW(named, muon_lr=0.1, adam_lr=0.1)
    weight.grad = torch.randn(4, 3, 2, 2)
    optimizer.step(1.0)
    values = torch.linalg.svdvals(weight.detach().flatten(1))
    assert weight.shape == (4, 3, 2, 2) and values.min() > 0.05 and values.max() < 0.15  # about the rate, all of them


def test_labels_on_a_finer_grid_lie_at_the_same_place():
    marks = next(m for m in (render(sample("train", seed).picture, 128)[1] for seed in range(9)) if len(m) > 3)
    coarse, fine = (patch_labels(marks, 0, cells) for cells in (6, 12))
    glyphs = sum(fine[name] for name in THIRDS).reshape(6, 2, 6, 2).any((1, 3))
    assert (glyphs == (sum(coarse[name] for name in THIRDS) > 0).reshape(6, 6)).all()
    assert fine["row"].max() == fine["column"].max() == 12 == patch_heads(12)["row"] - 1


@pytest.mark.parametrize("options", (
    ["--minutes", "1,2"], ["--minutes", "a,b,c,d"], ["--minutes", "1,1,0,1"], ["--stages", "vision,smell"],
    ["--stages", ""], ["--go-on", "-1"], ["--workers", "0"],
))  # fmt: skip
def test_bad_options_are_named(options, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "out"), *options]) == 2
    assert capsys.readouterr().err.startswith(f"bundled_lm: {options[0]}=")
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_are_not_there_are_named(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dvl_core.training.bundled_lm.build_tokenizer", lambda: build_tokenizer(samples=10))
    for options, said in (
        (["--score", str(tmp_path / "no")], "--score=.*There is no folder"),
        (["--score", str(run / "vision")], "--score=.*is no language model that can be loaded"),
        (["--out", str(tmp_path), "--stages", "diffusion"], "projector is no folder of a diffusionvl_qwen model"),
        (["--out", str(tmp_path), "--stages", "vision,diffusion"], "leaves out words,projector, which is not in --out"),
        (["--out", str(tmp_path), "--stages", "words", "--go-on", "1"], "words is no folder of a qwen2 model"),
        (["--out", str(run / "log.jsonl")], "out: the folder .* can't be made"),
    ):
        assert main(options) == 2
        assert re.search(said, capsys.readouterr().err.splitlines()[-1])


def test_bundled_weights_are_small():
    files = list(ASSETS.glob("tiny*/*.safetensors"))
    assert max(file.stat().st_size for file in files) < 10e6
    assert sum(file.stat().st_size for file in files) < 60e6


def test_the_shipped_pair_answers_about_easy_pictures():
    """What its card says that it can do: eight questions of some tasks each, the parent's on pictures in words."""
    model, processor = load_model(ASSETS / "tinylm", device="cpu")
    for task in ("caption", "chart", "where", "colour"):
        assert evaluate_task(model, processor, task, 8, seed=1, batch=8, easy=True).exact > 0.8
    folder = ASSETS / "tinylm-ar"
    words = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert all(right > 0.8 for _, right in score_words(words, tokenizer, ("caption", "chart"), 8, seed=1, easy=True))
    assert model.get_input_embeddings().weight.shape == words.get_input_embeddings().weight.shape  # one vocabulary
