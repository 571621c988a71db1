"""The fast paths of training are the same computation as the plain ones: vision, packed rows, noise, batches."""

import numpy as np
import pytest
import torch
from tiny import random_bundled

from dvl_core.tinyworld import draw, sample
from dvl_core.tinyworld.labels import HEADS
from dvl_core.training.bundled import bundled_processor
from dvl_core.training.data import StageData, TinyWorldBatches, add_tree_noise, loader, picture_bytes
from dvl_core.training.objective import NoisyBatch, block_diffusion_loss, diffusion_forward
from dvl_core.training.packing import IGNORE, Packer
from dvl_core.training.stages import picture_slice
from dvl_core.training.steps import PackedLanguage, PictureReader, VisionWarmup

BLOCK, PICTURE_TOKENS = 8, 144
MASKED_BY = ("positions", "segment", "noisy", "complement")  # what `PackedLanguage.mask` takes


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_bundled(tokenizer)


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
