"""The loss of training, computed on fewer tokens, and each of its options by itself."""

import math

import numpy as np
import pytest
import torch
from tiny import IMAGE, tiny_model
from transformers import AutoModelForImageTextToText

import dvl_core  # noqa: F401 (registers the families)
from dvl_core.training.answers import masked_token_losses, next_token_losses, noisy_positions, row_mean
from dvl_core.training.config import BetaNoiseConfig, ObjectiveConfig, ScheduleConfig
from dvl_core.training.learner import Learner, by_level
from dvl_core.training.masks import within_turn
from dvl_core.training.noise import noise_levels
from dvl_core.training.objective import IGNORE, NoisyBatch, add_noise, block_diffusion_loss, diffusion_forward
from dvl_core.training.options import (
    annealed_block_size,
    beta_levels,
    complementary,
    effective_mask_ratio_weights,
    inverse_level_weights,
    mixed_loss,
)
from dvl_core.training.rows import Row, draw_noise
from dvl_core.training.schedule import rate_factor


def random_batch(rows=3, length=40, seed=0):
    """Ids, labels (two answers a row, of different place and length) and padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (rows, length), generator=generator)
    labels = torch.full_like(ids, IGNORE)
    real = torch.ones_like(ids, dtype=torch.bool)
    for row in range(rows):
        labels[row, 9 + row : 13 + row] = ids[row, 9 + row : 13 + row]
        labels[row, 30 - row : 38 - 2 * row] = ids[row, 30 - row : 38 - 2 * row]
        real[row, 38 - 2 * row :] = False
    return ids, labels, real


@pytest.fixture(scope="module")
def models(checkpoint):
    """Both families, random, in float64 so that equal means equal."""
    lm = AutoModelForImageTextToText.from_pretrained(checkpoint("qwenlm_untied"), dtype=torch.float64)
    return {"vl": tiny_model().double(), "lm": lm}


@pytest.mark.parametrize("family", ["vl", "lm"])
@pytest.mark.parametrize("block", [3, 8])
def test_noisy_answers_alone_are_the_doubled_sequence(models, family, block):
    model = models[family]
    ids, labels, real = random_batch()
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(3, -(-40 // block), generator=generator), torch.rand(3, 40, generator=generator)
    noise = add_noise(labels, *draws, block, low=0.1)
    gradients = []
    for alone in (False, True):
        model.zero_grad()
        embeds = model.get_input_embeddings()(ids)
        if alone:
            losses = masked_token_losses(model, embeds, labels, noise.masked, block, real)
            loss = row_mean(losses * inverse_level_weights(noise), labels)
        else:
            loss = block_diffusion_loss(diffusion_forward(model, embeds, noise, block, real), labels, noise)
        loss.backward()
        gradients.append([loss.detach()] + [p.grad for p in model.parameters() if p.grad is not None])
    doubled, short = gradients
    assert len(doubled) == len(short) > 20
    # cross entropies are taken in float32 on both sides
    for one, other in zip(doubled, short, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6 * float(one.abs().max()) + 1e-12, check_dtype=False)


@pytest.mark.parametrize(("name", "file"), [("qwenvl_untied", "train_text_untied_L21_b8"),
                                            ("qwenvl_tied", "train_text_tied_L21_b8"),
                                            ("qwenlm_untied", "train_qwenlm_L21_b4")])  # fmt: skip
def test_the_published_objective_is_the_published_loss(checkpoint, golden, name, file):
    """Loss and gradients of the trainer's own module against what the published code computed."""
    data = {key: torch.from_numpy(value) for key, value in golden(f"{file}.npz").items()}
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(name), dtype=torch.float32)
    objective = ObjectiveConfig(spread="published", low=1e-3, beta_noise=BetaNoiseConfig(enabled=False))
    module = Learner(model, objective, {"input_ids": torch.zeros(1, 1).long()})
    batch = {key: data[key] for key in ("input_ids", "labels", "attention_mask")}
    batch |= {"block_uniform": data["rand_block"], "token_uniform": data["rand_token"], "pictures": {}}
    loss = module(batch, int(data["block_size"]), 0.0)["loss"]
    assert float(loss.detach()) == pytest.approx(float(data["loss"]), rel=1e-5)
    loss.backward()
    parameters = dict(model.named_parameters())
    for key in [key for key in data if key.startswith("gradnorm/")]:
        stock = key.removeprefix("gradnorm/")
        if "vl" in name and not stock.startswith("lm_head"):
            stock = stock.replace("model.", "model.language_model.", 1)
        assert float(parameters[stock].grad.norm()) == pytest.approx(float(data[key]), rel=1e-4)


def test_only_blocks_with_labels_are_copied():
    _, labels, _ = random_batch()
    index, real = noisy_positions(labels, 8)
    assert index[0][real[0]].tolist() == [*range(8, 16), *range(24, 40)]
    assert index.shape[1] < labels.shape[1]


def test_next_token_loss_is_the_models_own(models):
    model = models["vl"]
    ids, labels, real = random_batch()
    embeds = model.get_input_embeddings()(ids)
    model.config.enable_bd3lm = False
    logits = model(input_ids=ids, attention_mask=real).logits.float()
    model.config.enable_bd3lm = True
    wanted = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none", ignore_index=IGNORE
    ).view(3, -1)
    torch.testing.assert_close(next_token_losses(model, embeds, labels, real)[:, 1:], wanted, rtol=1e-5, atol=1e-6)


def test_effective_mask_ratio_counts_what_was_masked():
    labels = torch.tensor([[IGNORE, IGNORE, 5, 6, 7, 8, 9]])
    masked = torch.tensor([[False, False, True, False, True, True, False]])
    weights = effective_mask_ratio_weights(NoisyBatch(torch.full((1, 7), 0.3), masked), labels, 4)
    assert weights.tolist() == [[0, 0, 2.0, 0, 1.5, 1.5, 0]]
    # whatever the masking, a block's weights add up to its labelled tokens
    assert float(weights[0, :4].sum()) == 2 and float(weights[0, 4:].sum()) == 3


def test_a_narrow_beta_is_narrow():
    levels = beta_levels(torch.rand(1000), 1.0, (0.5, 0.8), (4.0, 1e5))
    assert (levels - 0.8).abs().max() < 0.01


def test_beta_levels_have_the_mean_and_spread_asked_for():
    uniform = noise_levels(torch.rand(1, 20000), 0.0)
    early, late = (beta_levels(uniform, progress, (0.5, 0.8), (4.0, 50.0)) for progress in (0.0, 1.0))
    assert float(early.mean()) == pytest.approx(0.5, abs=5e-3) and float(late.mean()) == pytest.approx(0.8, abs=5e-3)
    for levels, mean, concentration in ((early, 0.5, 4.0), (late, 0.8, 50.0)):
        assert float(levels.var()) == pytest.approx(mean * (1 - mean) / (concentration + 1), rel=0.03)
    assert torch.equal(beta_levels(uniform, 0.5, (0.5, 0.8), (4, 50), until=0.5), late)
    assert (late.diff(dim=1) >= 0).all()  # an even spread stays even


def test_block_size_grows_to_the_final_one():
    assert [annealed_block_size(p, 8) for p in (0, 0.3, 0.34, 0.7, 1.0)] == [2, 2, 4, 8, 8]
    assert {annealed_block_size(p / 10, 12) for p in range(11)} == {2, 4, 8, 12}
    assert annealed_block_size(0.0, 1) == 1 and annealed_block_size(0.0, 2) == 2


def test_truncated_blocks_do_not_see_the_next_question(models):
    turn = torch.tensor([[0, 0, 1, 1]])
    assert within_turn(turn[0, :, None], turn[0]).tolist() == [[True, True, False, False]] * 2 + [[True] * 4] * 2
    model = models["vl"]
    ids, labels, _ = random_batch(rows=1)
    turn = (torch.arange(40) >= 13).long()[None]  # the first answer ends inside the block 8…15
    masked = labels != IGNORE
    changed = ids.clone()
    changed[0, 14] += 1  # a token of the next question, in the same block
    with torch.no_grad():
        seen, hidden = [], []
        for tokens in (ids, changed):
            embeds = model.get_input_embeddings()(tokens)
            seen.append(masked_token_losses(model, embeds, labels, masked, 8)[0, 9:13])
            hidden.append(masked_token_losses(model, embeds, labels, masked, 8, turn=turn)[0, 9:13])
    assert not torch.allclose(seen[0], seen[1])
    torch.testing.assert_close(hidden[0], hidden[1])


def test_complementary_masks_cover_every_answer_token():
    _, labels, _ = random_batch()
    noise = add_noise(labels, torch.rand(3, 5), torch.rand(3, 40), 8)
    other = complementary(noise, labels, 1e-3)
    assert torch.equal(noise.masked | other.masked, labels != IGNORE) and not (noise.masked & other.masked).any()
    torch.testing.assert_close(other.levels, (1 - noise.levels).clamp(min=1e-3))


def batch_of(ids, labels, real, block=8):
    return {
        "input_ids": ids, "labels": labels, "attention_mask": real, "turn": torch.zeros_like(ids),
        "block_uniform": torch.rand(len(ids), -(-ids.shape[1] // block)), "token_uniform": torch.rand(ids.shape),
        "lengths": real.sum(1), "pictures": {},
    }  # fmt: skip


def learner(model, **fields):
    dummy = {"input_ids": torch.full((1, 1), IMAGE), "pixel_values": torch.zeros(4, 96).double(),
             "image_grid_thw": torch.tensor([[1, 2, 2]])}  # fmt: skip
    return Learner(model, ObjectiveConfig(**fields), dummy)


def test_options_reach_the_loss(models):
    model = models["vl"]
    torch.manual_seed(3)
    batch = batch_of(*random_batch())
    losses = {}
    for name, fields in {
        "plain": {}, "weighting": {"weighting": "effective_mask_ratio"}, "complementary": {"complementary": True},
        "mixed": {"ar_weight": 0.5}, "uniform": {"beta_noise": BetaNoiseConfig(enabled=False)},
        "published": {"spread": "published"}, "high": {"low": 0.5, "beta_noise": BetaNoiseConfig(enabled=False)},
        "ar": {"kind": "autoregressive"},
    }.items():  # fmt: skip
        result = learner(model, **fields)(batch, 8, 0.5)
        losses[name] = float(result["loss"].detach())
        answers = int((batch["labels"] != IGNORE).sum())
        if name in ("complementary", "ar"):
            assert int(result["levels"][:, 1].sum()) == (answers if name == "complementary" else 0)
    assert len({round(loss, 6) for loss in losses.values()}) == len(losses)
    assert losses["mixed"] == pytest.approx((losses["plain"] + losses["ar"]) / 2, rel=1e-6)
    assert ObjectiveConfig().beta_noise.enabled and not ObjectiveConfig(kind="autoregressive").beta_noise.enabled
    assert float(mixed_loss(torch.tensor(1.0), torch.tensor(3.0), 0.25)) == 1.5


def test_a_batch_without_pictures_still_uses_the_vision_tower(models):
    model = models["vl"]
    model.zero_grad()
    learner(model)(batch_of(*random_batch()), 8, 0.0)["loss"].backward()
    gradient = model.model.visual.patch_embed.proj.weight.grad
    assert gradient is not None and not gradient.any()


def test_losses_by_level():
    table = by_level(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[True, True, False, True]]),
                     torch.tensor([[0.1, 0.2, 0.3, 1.0]]))
    assert table.tolist() == [[3, 2], [0, 0], [0, 0], [4, 1]]


def test_even_spread_is_stratified_over_a_batch_and_uniform_by_itself():
    def levels(slot, batch, blocks=4):
        labels = torch.full((blocks * 8,), 5)
        row = Row(labels, labels, torch.zeros_like(labels), len(labels), {})
        draw_noise(row, 8, "even", 0, slot, batch)
        return row.block_uniform.numpy()

    update = np.stack([levels(slot, 16) for slot in range(32, 48)])
    # every row covers the range evenly, and so does every update
    assert np.allclose(np.diff(np.sort(update, 1)), 0.25, atol=1e-6)
    assert np.histogram(update, 16, (0, 1))[0].tolist() == [4] * 16
    many = np.stack([levels(slot, 16) for slot in range(1600)])
    assert np.abs(many.mean(0) - 0.5).max() < 0.03 and np.abs((many**2).mean(0) - 1 / 3).max() < 0.03
    assert np.array_equal(levels(7, 16), levels(7, 16))


def test_rate_rises_holds_and_falls():
    cosine = ScheduleConfig(steps=100, warmup=0.1)
    assert 0 < rate_factor(0, 100, cosine) < 0.1 and rate_factor(10, 100, cosine) == 1
    assert rate_factor(55, 100, cosine) == pytest.approx(0.5) and 0 < rate_factor(99, 100, cosine) < 1e-3
    linear = ScheduleConfig(steps=100, warmup=0, hold=0.5, decay="linear", floor=0.2)
    assert rate_factor(50, 100, linear) == 1 and rate_factor(75, 100, linear) == pytest.approx(0.6)
    assert math.isclose(rate_factor(90, 100, ScheduleConfig(steps=100, decay="constant")), 1)
