"""Noise, masks, loss and gradients of training against what the published code computed."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import dvl_core  # noqa: F401 (registers the families)
from dvl_core.training.masks import block_diffusion_mask, doubled_mask
from dvl_core.training.noise import noise_levels
from dvl_core.training.objective import add_noise, align_to_blocks, block_diffusion_loss, diffusion_forward

TEXT = [
    ("qwenvl_untied", "train_text_untied_L21_b4"),
    ("qwenvl_untied", "train_text_untied_L21_b8"),
    ("qwenvl_tied", "train_text_tied_L21_b8"),
    ("qwenlm_untied", "train_qwenlm_L21_b4"),
    ("qwenlm_untied", "train_qwenlm_L21_b8"),
]


def loss_of(model, embeds, labels, data, attention_mask):
    block = int(data["block_size"])
    rand = torch.from_numpy(data["rand_block"]), torch.from_numpy(data["rand_token"])
    noise = add_noise(labels, *rand, block)
    logits = diffusion_forward(model, embeds, noise, block, attention_mask)
    return noise, block_diffusion_loss(logits, labels, noise)


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def stock_name(name):
    """Published tensor name to the name of the stock module."""
    return name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)


@pytest.mark.parametrize(("checkpoint_name", "file"), TEXT)
def test_text_loss_and_gradients(checkpoint, golden, checkpoint_name, file):
    data = golden(f"{file}.npz")
    model = load(checkpoint(checkpoint_name))
    labels = torch.from_numpy(data["labels"])
    embeds = model.get_input_embeddings()(torch.from_numpy(data["input_ids"]))
    noise, loss = loss_of(model, embeds, labels, data, torch.from_numpy(data["attention_mask"]))
    np.testing.assert_allclose(noise.levels.numpy(), data["t"], rtol=1e-6)
    np.testing.assert_array_equal(noise.masked.numpy(), data["move_indices"])
    assert float(loss.detach()) == pytest.approx(float(data["loss"]), rel=1e-5)
    loss.backward()
    parameters = dict(model.named_parameters())
    for name in [n.removeprefix("gradnorm/") for n in data if n.startswith("gradnorm/")]:
        gradient = parameters[stock_name(name) if "vl" in checkpoint_name else name].grad
        assert float(gradient.norm()) == pytest.approx(float(data[f"gradnorm/{name}"]), rel=1e-4), name
        if f"grad/{name}" in data:
            expected = data[f"grad/{name}"]
            np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("aligned", [True, False])
def test_loss_with_pictures(checkpoint, golden, aligned):
    data = golden(f"train_image_aligned_{str(aligned).lower()}.npz")
    folder = checkpoint("qwenvl_untied")
    model = load(folder)
    pictures = [golden(f"vl_{name}_small.npz")["image"] for name in ("A_84x112", "B_70x70")]
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    inputs = processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt")
    counts = (inputs["image_grid_thw"].prod(1) // 4).tolist()
    rows, labels, lengths = [], [], []
    for ids, row_labels, mask, count in zip(
        data["input_ids"], data["input_labels"], data["input_attention_mask"], counts, strict=True
    ):
        place = int(np.flatnonzero(ids == -200)[0])
        spread = lambda x, fill: np.r_[x[:place], [fill] * count, x[place + 1 :]]  # noqa: B023, E731
        rows.append(torch.from_numpy(spread(ids, model.config.image_token_id)))
        labels.append(torch.from_numpy(spread(row_labels, -100)))
        lengths.append(int(mask.sum()) + count - 1)
    pad = torch.nn.utils.rnn.pad_sequence
    ids, labels = pad(rows, True, 0), pad(labels, True, -100)
    embeds = model.embed_inputs(ids, inputs["pixel_values"], inputs["image_grid_thw"])
    lengths = torch.tensor(lengths)
    if aligned:
        eos = model.config.eos_token_id
        eos_embed = model.get_input_embeddings().weight[eos]
        embeds, labels = align_to_blocks(embeds, labels, eos_embed, eos, int(data["block_size"]), lengths)
    else:
        embeds, labels = embeds[:, : lengths.max()], labels[:, : lengths.max()]
    real = torch.arange(labels.shape[1]) < (labels.shape[1] if aligned else lengths[:, None])
    real = real.expand(2, -1)
    np.testing.assert_array_equal(labels.numpy(), data["labels"])
    np.testing.assert_allclose(
        (embeds * real[..., None]).sum(-1).detach().numpy(), data["inputs_embeds_row_sums"], atol=1e-3
    )
    _, loss = loss_of(model, embeds, labels, data, real)
    assert float(loss.detach()) == pytest.approx(float(data["loss"]), rel=1e-5)


@pytest.mark.parametrize("name", ["L12_b4", "L10_b4", "L12_b8"])
def test_mask(golden, name):
    length, block = (int(part[1:]) for part in name.split("_"))
    np.testing.assert_array_equal(doubled_mask(length, block).numpy(), golden("train_mask.npz")[name])


def test_segments_are_separate_conversations():
    """A tree of two conversations attends as each of them would by itself."""
    block = torch.tensor([0, 0, 1, 1, 1, 1])
    noisy = torch.zeros(6, dtype=torch.bool)
    segment = torch.tensor([0, 0, 1, 1, 2, 2])
    mask = block_diffusion_mask(block, noisy, segment)
    assert mask[2].tolist() == [True, True, True, True, False, False]
    assert mask[4].tolist() == [True, True, False, False, True, True]
    assert mask[0].tolist() == [True, True, False, False, False, False]


def test_noise_levels_cover_their_range_evenly():
    levels = noise_levels(torch.rand(4, 25), low=0.1)
    assert levels.min() >= 0.1 and levels.max() <= 1
    counts = torch.histc(levels, bins=10, min=0.1, max=1.0)
    assert counts.min() >= 9 and counts.max() <= 11
