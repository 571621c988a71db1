"""Checkpoints: found by the Auto classes, kept in the published layout, refused when they do not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from qwen_tokenizer import qwen_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import IMAGE, tiny_config, tiny_model
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

import dvl_core
from dvl_core.decoding.masks import block_causal_mask
from dvl_core.models import DiffusionVLQwenVLForConditionalGeneration, loading
from dvl_core.models.checkpoint import CheckpointError
from dvl_core.models.loading import check_folder, resolve_device


def stored_keys(folder):
    keys = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            keys |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
    return keys


@pytest.mark.parametrize("name", ["qwenvl_tied", "qwenvl_untied", "qwenlm_untied"])
def test_the_published_layout_loads_and_is_written_back(checkpoint, golden, tmp_path, name):
    model, report = AutoModelForImageTextToText.from_pretrained(checkpoint(name), output_loading_info=True)
    assert not any(report.values())
    model.save_pretrained(tmp_path, max_shard_size="9MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert stored_keys(tmp_path) == golden(f"keys_{name}.json")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)
    assert again.config.model_type == model.config.model_type


def test_dtype_and_device_map(checkpoint):
    folder = checkpoint("qwenvl_tied")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, device_map="auto")
    assert model.dtype == torch.bfloat16
    answer = model.generate(torch.tensor([[1, 2, 3]], device=model.device), max_new_tokens=8).answers[0]
    assert len(answer) <= 8


def test_a_cpu_that_multiplies_bfloat16_gets_it_for_wide_models(checkpoint, monkeypatch):
    """What gains nothing by it, and everything on another CPU, is float32."""
    cpu = torch.device("cpu")
    for fast, width, wanted in ((torch.bfloat16, 2048, "auto"), (torch.bfloat16, 288, torch.float32),
                                (torch.float32, 2048, torch.float32)):  # fmt: skip
        monkeypatch.setattr(loading, "fast_dtype", lambda _, fast=fast: fast)
        assert loading.resolve_dtype("auto", cpu, width) == wanted
        assert loading.resolve_dtype("bfloat16", cpu, 8) == torch.bfloat16
    monkeypatch.setattr(loading, "fast_dtype", lambda _: torch.bfloat16)
    assert loading._Checkpoint(checkpoint("qwenvl_tied"), "cpu", "auto").load().dtype == torch.float32


def test_published_configs_are_read(golden, checkpoint):
    config = AutoConfig.from_pretrained(checkpoint("qwenvl_untied"))
    assert config.model_type == "diffusionvl_qwenvl"
    assert (config.mask_token_id, config.eos_token_id, config.bd3lm_block_size) == (151671, 151645, 8)
    assert (config.min_pixels, config.max_pixels, config.enable_bd3lm) == (147456, 262144, True)
    for field, value in (("bd3lm_block_size", 0), ("mask_token_id", 10**6), ("bd3lm_sampling_eps_min", 1.0)):
        with pytest.raises(Exception, match=field):
            tiny_config(**{field: value})


def test_the_backbone_is_stock(checkpoint):
    """Every module of the model comes out of transformers or torch: nothing is copied or redefined."""
    for model in (tiny_model(), AutoModelForImageTextToText.from_pretrained(checkpoint("qwenlm_untied"))):
        for name, module in model.named_modules():
            if name:
                assert type(module).__module__.split(".")[0] in ("torch", "transformers"), name
    assert issubclass(DiffusionVLQwenVLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration)


def damaged(checkpoint, tmp_path, change):
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint("qwenvl_tied"), folder)
    qwen_tokenizer().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("load", [AutoModelForImageTextToText.from_pretrained, dvl_core.load_model])
def test_tensors_that_do_not_fit_are_named(checkpoint, tmp_path, load):
    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.vision_tower.extra"] = torch.zeros(2)
        tensors["model.norm.weight"] = torch.zeros(3)

    folder = damaged(checkpoint, tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "missing: model.layers.1.mlp.up_proj.weight" in message
    assert "unexpected: model.vision_tower.extra" in message
    assert "model.norm.weight (3,) instead of (64,)" in message


@pytest.mark.parametrize("load", [AutoModelForImageTextToText.from_pretrained, dvl_core.load_model])
def test_weights_that_were_cut_off_are_called_damaged(checkpoint, tmp_path, load):
    folder = damaged(checkpoint, tmp_path, lambda tensors: None)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="The weights of .*damaged are damaged .* download them again"):
        load(folder)


def bundled_config(**changes):
    return json.dumps(json.loads(Path("assets/tinyvl/config.json").read_text()) | changes)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", None, "The tokenizer or processor files of .* can't be read"),
        ("tokenizer.json", "{", "The tokenizer or processor files of .* can't be read"),
        ("processor_config.json", "[]", "The tokenizer or processor files of .* can't be read"),
        ("model.safetensors.index.json", "{}", "The weights of .* can't be read"),
        ("config.json", bundled_config(eos_token_id=None), "eos_token_id must lie in the vocabulary"),
        ("config.json", bundled_config(bd3lm_block_size=10**5), "bd3lm_block_size must be from 1 to 4096"),
    ],
)
def test_a_damaged_folder_is_refused_by_its_file(tmp_path, file, content, says):
    folder = shutil.copytree("assets/tinyvl", tmp_path / "model")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=says):
        dvl_core.load_model(folder)


def test_a_home_folder_is_a_folder(tmp_path, monkeypatch):
    shutil.copytree("assets/tinylm", tmp_path / "tinylm")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dvl_core.load_model("~/tinylm")[0].config.model_type == "diffusionvl_qwen"


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="There is no folder"):
        dvl_core.load_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no config.json"):
        dvl_core.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 8}))
    with pytest.raises(CheckpointError, match="'qwen2' checkpoint, not a DiffusionVL one"):
        dvl_core.load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="can't be loaded"):
        dvl_core.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": "x"}))
    with pytest.raises(CheckpointError, match="config.json can't be loaded: .*'hidden_size' expected int"):
        dvl_core.load_model(tmp_path)


def test_a_folder_that_is_not_there_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_folder("assets/nothing")
    (tmp_path / "assets").mkdir()
    with pytest.raises(CheckpointError, match="There is no folder assets/nothing"):
        check_folder("assets/nothing")


def test_devices_and_dtypes_that_are_not_there(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="device must be"):
        dvl_core.load_model(tmp_path, device="abacus")
    for dtype in ("float3", "int8", "nn"):
        with pytest.raises(ValueError, match="dtype must be"):
            dvl_core.load_model(tmp_path, dtype=dtype)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'mps': torch finds no Apple GPU"):
        resolve_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="the last GPU here is cuda:1"):
        resolve_device("cuda:2")
    assert resolve_device("cuda:1")[0] == torch.device("cuda:1")


def test_pictures_and_placeholders_must_agree():
    model = tiny_model()
    pixels, grid = torch.randn(16, 96), torch.tensor([[1, 4, 4]])
    embeds = model.embed_inputs(torch.tensor([[1, IMAGE, IMAGE, IMAGE, IMAGE, 2]]), pixels, grid)
    assert embeds.shape == (1, 6, 32)
    torch.testing.assert_close(embeds[0, 0], model.get_input_embeddings().weight[1])
    with pytest.raises(ValueError, match="3 picture tokens, but the pictures give 4"):
        model.embed_inputs(torch.tensor([[IMAGE] * 3]), pixels, grid)


def test_masks():
    rows = ["".join("1" if see else "0" for see in row) for row in block_causal_mask(6, 2).tolist()]
    assert rows == ["110000", "110000", "111100", "111100", "111111", "111111"]
    assert torch.equal(block_causal_mask(5, 1), torch.ones(5, 5).tril().bool())
