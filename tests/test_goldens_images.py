"""Pictures against what the published code computed: patches, tower, projector, merged embeddings, answers."""

import hashlib

import numpy as np
import pytest
import torch
from fixtures import VARIANTS, describe
from PIL import Image
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import dvl_core  # noqa: F401  (registers the Auto classes)
from dvl_core.processing import PictureGrid
from dvl_core.processing.anyres import best_canvas, cut_tiles, max_detail_tiles, plan_anyres

VL_PICTURES = {"A_84x112": (84, 112, 0), "B_70x70": (70, 70, 25)}
LM_PICTURES = {"A_84x112": (84, 112, 0), "D_300x500": (300, 500, 75), "E_1100x1500": (1100, 1500, 100)}
PINPOINTS = [[384 * width, 384 * height] for width in range(1, 7) for height in range(1, 7)]
TIGHT = 5e-4  # a decision closer than this may flip on the last digit


def draw(height: int, width: int, start: int) -> Image.Image:
    """The pictures of the recordings: ramps with a chequered step on top."""
    y, x, channel = np.ogrid[:height, :width, :3]
    step = 60 * ((x // 9 + y // 12) % 2)
    return Image.fromarray(((start + 2 * x + 3 * y + 40 * channel + step) % 256).astype(np.uint8))


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def near(found, recorded, tolerance=1e-4) -> bool:
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    return found.shape == recorded.shape and np.abs(found - recorded).max() <= tolerance * np.abs(recorded).max()


def decoding_fields(run: dict) -> dict:
    """A recorded run's settings, as fields of the decoding configuration."""
    fields = {"block_size": run["block_size"], "steps": run["steps"], "max_new_tokens": run["gen_length"]}
    if run["remasking"] == "static":
        return fields | {"strategy": "low_confidence_static"}
    return fields | {"strategy": "low_confidence_dynamic", "threshold": float(run["remasking"].removeprefix("dyn"))}


def check_runs(model, runs: list[dict], inputs_of) -> int:
    """Generate every run that isn't tight and compare ids and forwards; returns how many were compared."""
    compared = 0
    for run in runs:
        gaps = [run[name] for name in ("min_logit_gap", "min_conf_gap", "min_thr_gap") if run[name] is not None]
        if min(gaps) < TIGHT:
            continue
        inputs = inputs_of(run)
        assert inputs["input_ids"].shape[1] == run["prompt_len"]
        output = model.generate(**inputs, **decoding_fields(run), reference_compatible=True)
        answer = output.sequences[0, run["prompt_len"] :].tolist()
        assert (answer, output.forwards) == (run["output"], run["forwards"]), run
        compared += 1
    return compared


def place_pictures(ids: list[int], lengths: list[int], image_token_id: int) -> torch.Tensor:
    """Recorded ids, in which -200 stands for a picture, with a placeholder per picture token."""
    rest = iter(lengths)
    return torch.tensor([[number for i in ids for number in ([image_token_id] * next(rest) if i == -200 else [i])]])


# --- VL family ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vl(checkpoint_with_tokenizer):
    folder = checkpoint_with_tokenizer("qwenvl_untied")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    default = AutoProcessor.from_pretrained(folder)
    small = AutoProcessor.from_pretrained(folder, min_pixels=3136, max_pixels=12845056)
    return model, {"default": default, "small": small}


def vl_features(vl, name: str) -> dict[str, np.ndarray]:
    picture, _, setting = name.rpartition("_")
    return vl[1][setting].process_pictures([draw(*VL_PICTURES[picture])])


@pytest.mark.parametrize("name", ["A_84x112_default", "A_84x112_small", "B_70x70_default", "B_70x70_small"])
def test_vl_pixel_values_are_bit_exact(vl, golden, name):
    recorded = golden("vl_images.json")["images"][name]
    features = vl_features(vl, name)
    assert features["image_grid_thw"].tolist() == [recorded["grid"]]
    assert features["pixel_values"].shape == tuple(recorded["pixel_values_shape"])
    assert sha256(features["pixel_values"].astype(np.float32)) == recorded["pixel_values_sha256_f32"]
    picture, _, setting = name.rpartition("_")
    assert vl[1][setting].picture_lengths(features, []) == [recorded["tokens"]]
    size = draw(*VL_PICTURES[picture]).size
    rows, columns = recorded["grid"][1] // 2, recorded["grid"][2] // 2
    assert vl[1][setting].picture_grids(features, [size]) == [PictureGrid(rows, columns, (0, 0, *size))]


@pytest.mark.parametrize("name", ["A_84x112_default", "A_84x112_small", "B_70x70_small"])
def test_vl_tower_and_projector(vl, golden, name):
    recorded, features = golden(f"vl_{name}.npz"), vl_features(vl, name)
    assert np.array_equal(draw(*VL_PICTURES[name.rpartition("_")[0]]), recorded["image"])
    visual, seen = vl[0].model.visual, {}
    hooks = [visual.patch_embed.register_forward_hook(lambda _, __, out: seen.update(patch_embed=out))]
    for number, block in enumerate(visual.blocks):
        hooks.append(block.register_forward_hook(lambda _, __, out, key=f"block{number}": seen.update({key: out})))
    tensors = {key: torch.from_numpy(value) for key, value in features.items()}
    with torch.no_grad():
        merged = torch.cat(vl[0].get_image_features(**tensors).pooler_output)
    for hook in hooks:
        hook.remove()
    assert near(merged, recorded["features"])
    for key in set(recorded) & {"patch_embed", "block0", "block1", "block2", "block3"}:
        out = seen[key][0] if isinstance(seen[key], tuple) else seen[key]
        assert near(out.reshape(recorded[key].shape), recorded[key]), key


def vl_inputs(vl, run: dict) -> dict[str, torch.Tensor]:
    model, processors = vl
    parts = [vl_features(vl, name) for name in run["images"]]
    lengths = [length for part in parts for length in processors["small"].picture_lengths(part, [])]
    tensors = {key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]}
    return {"input_ids": place_pictures(run["input_ids"], lengths, model.config.image_token_id)} | tensors


@pytest.mark.parametrize("name", ["A_84x112_small", "B_70x70_small", "two_images"])
def test_vl_merged_embeddings(vl, golden, name):
    recorded = golden(f"vl_embeds_{name}.npz")
    images = ["A_84x112_small", "B_70x70_small"] if name == "two_images" else [name]
    inputs = vl_inputs(vl, {"input_ids": recorded["input_ids"].tolist(), "images": images})
    with torch.no_grad():
        assert near(vl[0].embed_inputs(**inputs)[0], recorded["inputs_embeds"])


def test_vl_embeddings_of_every_run(vl, golden):
    for run in golden("vl_images.json")["runs"]:
        with torch.no_grad():
            embeds = vl[0].embed_inputs(**vl_inputs(vl, run))[0]
        assert embeds.norm().item() == pytest.approx(run["embeds_l2"], rel=1e-5)
        sums = run["embeds_row_sums_first"]
        assert embeds.sum(1)[: len(sums)].tolist() == pytest.approx(sums, rel=1e-4, abs=1e-4)


def test_vl_answers(vl, golden):
    runs = golden("vl_images.json")["runs"]
    assert check_runs(vl[0], runs, lambda run: vl_inputs(vl, run)) >= 18


def test_vl_placeholders_and_features_must_agree(vl):
    inputs = vl_inputs(vl, {"input_ids": [5, -200], "images": ["B_70x70_small"]})
    with pytest.raises(ValueError, match="3 picture tokens"):
        vl[0].embed_inputs(**inputs | {"input_ids": inputs["input_ids"][:, :-1]})


# --- second family --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lm(checkpoint_with_tokenizer):
    folder = checkpoint_with_tokenizer("qwenlm_untied")
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def lm_pictures(lm):
    """`lm_pictures(name)`: the processor's tensors of a recorded picture, as torch tensors."""
    made = {}

    def read(name: str) -> dict[str, torch.Tensor]:
        if name not in made:
            features = lm[1].process_pictures([draw(*LM_PICTURES[name])])
            made[name] = {key: torch.from_numpy(value) for key, value in features.items()}
        return made[name]

    return read


@pytest.mark.parametrize("name", LM_PICTURES)
def test_lm_tiles_are_bit_exact(lm, lm_pictures, golden, name):
    recorded = golden("qwenlm_images.json")["images"][name]
    picture = draw(*LM_PICTURES[name])
    plan = lm[1].plan(picture.size)
    assert [plan.tiles[1], plan.tiles[0]] == recorded["grid_w_h"]
    assert (plan.tile_count, plan.tokens) == (recorded["tiles"], recorded["tokens"])
    assert sha256(np.stack(cut_tiles(picture, plan, 384))) == recorded["tiles_u8_sha256"]
    assert sha256(lm_pictures(name)["pixel_values"].numpy()) == recorded["pixel_values_sha256_f32"]
    assert lm_pictures(name)["image_sizes"].tolist() == [recorded["source_hw"]]
    assert lm[0].picture_plan(*recorded["source_hw"]) == plan, "model and processor cut alike"


@pytest.mark.parametrize("name", ["A_84x112", "D_300x500"])
def test_lm_tower_projector_and_merged_features(lm, lm_pictures, golden, name):
    model, recorded, tensors = lm[0], golden(f"qwenlm_{name}.npz"), lm_pictures(name)
    with torch.no_grad():
        patches = model.vision_tower.embeddings(tensors["pixel_values"][:1])
        raw = model.vision_tower.encoder(inputs_embeds=patches).last_hidden_state[0]
        features = model.picture_features(**tensors)[0]
        projected = model.tile_features(tensors["pixel_values"][:1])[0]
    assert near(raw[::27], recorded["raw_tile0_every27"])
    assert near(projected[::27], recorded["proj_tile0_every27"])
    assert near(features[::16], recorded["features_every16"])
    assert near(features.sum(1), recorded["features_row_sums"])


def test_lm_several_pictures_keep_their_features(lm, lm_pictures):
    one, two = lm_pictures("A_84x112"), lm_pictures("D_300x500")
    both = {key: torch.cat([one[key], two[key]]) for key in one}
    with torch.no_grad():
        apart = [lm[0].picture_features(**tensors)[0] for tensors in (one, two)]
        together = lm[0].picture_features(**both)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(apart, together, strict=True))
    with pytest.raises(ValueError, match="5 tiles; got 4"):
        lm[0].picture_features(both["pixel_values"][:-1], both["image_sizes"])


def lm_inputs(lm, lm_pictures, run: dict) -> dict[str, torch.Tensor]:
    tokens = lm[0].picture_plan(*lm_pictures(run["image"])["image_sizes"][0].tolist()).tokens
    ids = place_pictures(run["input_ids"], [tokens], lm[0].config.image_token_id)
    return {"input_ids": ids} | lm_pictures(run["image"])


def test_lm_answers(lm, lm_pictures, golden):
    runs = golden("qwenlm_images.json")["runs"]
    assert check_runs(lm[0], runs, lambda run: lm_inputs(lm, lm_pictures, run)) >= 8


def test_lm_placeholders_and_features_must_agree(lm, lm_pictures):
    with pytest.raises(ValueError, match="1 picture tokens"):
        lm[0].embed_inputs(torch.tensor([[lm[0].config.image_token_id]]), **lm_pictures("A_84x112"))


def test_lm_saves_the_published_layout(lm, tmp_path):
    lm[0].save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    assert shapes == {name: list(shape) for name, (shape, _, _) in describe(VARIANTS["qwenlm_untied"])[0].items()}
    again, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    before, after = lm[0].state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_lm_tower_is_read_off_the_weights_or_known(checkpoint):
    tower = AutoConfig.from_pretrained(checkpoint("qwenlm_untied")).vision_config
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size")
    assert [getattr(tower, name) for name in sizes] == [32, 64, 2, 2, 14] and not tower.vision_use_head
    published = AutoConfig.for_model("diffusionvl_qwen").vision_config
    assert [getattr(published, name) for name in sizes] == [1152, 4304, 26, 16, 14]
    for wrong in ({"mm_projector_type": "linear"}, {"mm_patch_merge_type": "flat"}, {"bd3lm_block_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AutoConfig.for_model("diffusionvl_qwen", **wrong)


def test_a_new_lm_model_can_be_drawn(lm):
    torch.manual_seed(0)
    fresh = type(lm[0])(lm[0].config)
    assert fresh.image_newline.std() > 0 and torch.isfinite(fresh.mm_projector[0].weight).all()


# --- anyres, beyond the recordings ----------------------------------------------------------------------------


def test_canvases_keep_most_pixels_and_waste_least():
    assert best_canvas((384, 384), PINPOINTS) == (384, 384)
    assert best_canvas((768, 384), PINPOINTS) == (768, 384)
    assert best_canvas((10, 2000), PINPOINTS) == (384, 2304)
    assert best_canvas((5000, 5000), PINPOINTS) == (2304, 2304)


def test_every_shape_of_picture_has_tokens():
    for size in ((1, 1), (2000, 10), (10, 2000), (383, 385), (7000, 8000), (2304, 100)):
        for limit in (1, 4, None):
            plan = plan_anyres(size, PINPOINTS, 384, 27, limit)
            assert min(plan.detail) >= 1 and plan.tokens > 729
            assert plan.cropped[0] <= plan.tiles[0] * 27 and plan.cropped[1] <= plan.tiles[1] * 27
            assert limit is None or plan.detail[0] * plan.detail[1] <= 1.21 * limit * 729
            assert len(cut_tiles(Image.new("RGB", (8, 8)), plan_anyres((8, 8), PINPOINTS, 384, 27, limit), 384)) == 2


def test_anyres_names():
    assert (max_detail_tiles("anyres_max_4"), max_detail_tiles("anyres_max_12"), max_detail_tiles("anyres")) == (
        4,
        12,
        None,
    )
    for wrong in ("pad", "anyres_max_0", "anyres_max_", "anyres_4"):
        with pytest.raises(ValueError, match="image_aspect_ratio"):
            max_detail_tiles(wrong)
