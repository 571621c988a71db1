"""Whole blocks are learnt by the published objective and without bias, and all else stays as it was said before."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import random_bundled

from dvl_core.training.bundled import HARD_SHARES, bundle_of, polish_stages
from dvl_core.training.data import StageData, TinyWorldBatches, add_tree_noise
from dvl_core.training.objective import NoisyBatch, diffusion_forward
from dvl_core.training.stages import Log, Stage, picture_slice, run_stage
from dvl_core.training.steps import PackedLanguage, PictureReader
from dvl_core.training.whole import BLOCKS, TABLES, TableBatches, WholeBlocks

BLOCK, PICTURE_TOKENS = 8, 144
DATA = StageData("diffusion", batch=2, shares=TABLES, first_seed=500, wild=0.5)


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_bundled(tokenizer)


@pytest.fixture(scope="module")
def whole(model, tokenizer):
    return WholeBlocks(model, PictureReader(model), picture_slice(tokenizer), DATA, tokenizer, pool=4)


def test_the_loss_is_the_published_one_of_blocks_masked_whole(model, whole):
    """Gradients too, but for those through the clean copy, whose keys and values are taken as given."""
    batch = whole.next()
    places = torch.arange(batch["ids"].shape[1])
    real = places < batch["length"][:, None]
    masked = (places[:, None] // BLOCK * BLOCK == batch["starts"][:, None]).any(-1)
    embeds = model.token_embeds(batch["ids"]).clone()
    embeds[:, whole.picture_at] = batch["features"]
    noise = NoisyBatch(torch.ones_like(masked).float(), masked)
    logits = diffusion_forward(model, embeds.detach(), noise, BLOCK, real)
    published = F.cross_entropy(logits[masked], batch["ids"][masked])
    loss = whole.loss(batch)
    torch.testing.assert_close(loss, published, atol=1e-5, rtol=1e-5)
    head = model.get_input_embeddings().weight  # tied
    wanted, given = (torch.autograd.grad(value, head)[0] for value in (published, loss))
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-3)
    assert model.decoder.config._attn_implementation == "eager"


def test_tables_are_kept_and_gone_through_again(model, tokenizer):
    whole = WholeBlocks(model, PictureReader(model), picture_slice(tokenizer), DATA, tokenizer, pool=4)
    first, second = whole.next(), whole.next()
    assert not torch.equal(first["ids"], second["ids"])
    for _ in range(2):
        assert {id(whole.next()), id(whole.next())} == {id(first), id(second)}
    assert first["features"].shape == (2, PICTURE_TOKENS, 288) and not first["features"].requires_grad


def test_every_block_of_an_answer_can_be_drawn(tokenizer):
    """Those that end with a digit and the others; none that begins with the end of the question."""
    batches, ends, counts = iter(TableBatches(replace(DATA, batch=8), tokenizer)), [], set()
    turn = tokenizer("<|im_start|>assistant\n").input_ids
    for _ in range(4):
        batch = next(batches)
        for ids, length, starts in zip(batch["ids"].tolist(), batch["length"], batch["starts"].tolist(), strict=True):
            begins = next(i for i in range(len(ids)) if ids[i : i + len(turn)] == turn) + len(turn)
            starts = [start for start in starts if start >= 0]
            assert len(set(starts)) == len(starts) and starts
            assert all(start % BLOCK == 0 and begins <= start <= length - BLOCK for start in starts)
            ends += [tokenizer.decode(ids[start + BLOCK - 1]).strip().isdigit() for start in starts]
            counts.add(len(starts))
    assert 0.05 < sum(ends) / len(ends) < 0.9
    assert max(counts) == BLOCKS


def test_only_blocks_that_end_with_a_digit_where_that_is_asked_for(tokenizer):
    """Tables that have none are left out."""
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    batch = next(iter(TableBatches(replace(DATA, batch=24, digits=True), tokenizer)))
    ends = [row[start + BLOCK - 1] in digits for row, starts in zip(batch["ids"].tolist(), batch["starts"], strict=True)
            for start in starts if start >= 0]
    assert len(ends) > 24 and all(ends)
    assert all((starts >= 0).any() for starts in batch["starts"])


@pytest.mark.parametrize("setting, named", [
    ({"tables": -1}, "tables=-1"), ({"tables": 2, "vision_scale": 1.0}, "tables=2"), ({"keep": -1.0}, "keep=-1.0"),
    ({"keep": 1.0}, "keep=1.0 alone teaches nothing"), ({"muon_lr": -1.0}, "muon_lr=-1.0"),
    ({"blend": 0.0}, "blend=0.0 must be above 0"), ({"blend": 1.5}, "blend=1.5"),
    ({"digits": True}, "digits=True chooses blocks of tables: give tables"),
    ({"answers": 0.5}, "answers=0.5 weighs them against what is kept"), ({"answers": -1.0}, "answers=-1.0 must be"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(setting, named):
    with pytest.raises(ValueError, match=named):
        Stage("diffusion", minutes=1, samples=1, **setting)
    with pytest.raises(ValueError, match="tables=3: only the diffusion stage"):
        Stage("autoregressive", minutes=1, samples=1, vision_scale=0, tables=3)


def test_what_is_kept_is_what_was_said_before(model, tokenizer):
    """No loss where nothing has changed, else the divergence from what was said, weighted as the answers were."""
    data = replace(DATA, batch=1, length=432 + PICTURE_TOKENS, shares=HARD_SHARES, conversations=2)
    batch = add_tree_noise(next(iter(TinyWorldBatches(data, tokenizer))), data, tokenizer.mask_token_id,
                           torch.Generator().manual_seed(3))
    module = PackedLanguage(model, picture_slice(tokenizer), BLOCK, diffusion=True)
    mask = module.mask(*(batch[name] for name in ("positions", "segment", "noisy", "complement")))
    seen = batch["pictures"], batch["ids"], batch["positions"], mask
    with torch.no_grad():
        before = module.log_probabilities(*seen)
        loss, right, _ = module(*seen, batch["labels"], batch["weight"], None, before)
        assert abs(float(loss)) < 1e-6 and right.shape == batch["labels"].shape
        other = random_bundled(tokenizer)
        other.lm_head.weight.mul_(1.5)
        changed = PackedLanguage(other, picture_slice(tokenizer), BLOCK, diffusion=True)
        loss, _, _ = changed(*seen, batch["labels"], batch["weight"], None, before)
        after = changed.log_probabilities(*seen)
    divergence = (before.exp() * (before - after)).sum(-1)
    torch.testing.assert_close(loss, (divergence * batch["weight"]).sum(), atol=1e-4, rtol=1e-4)
    assert float(loss) > 0
    with torch.no_grad():
        answers, _, _ = changed(*seen, batch["labels"], batch["weight"], None)
        both, _, _ = changed(*seen, batch["labels"], batch["weight"], None, before, (0.5, 2.0))
    torch.testing.assert_close(both, 0.5 * answers + 2 * loss, atol=1e-4, rtol=1e-4)


def test_a_stage_of_tables_moves_the_decoder_alone(tokenizer, tmp_path):
    """By AdamW, beside what the model keeps to."""
    stage = replace(polish_stages(60.0, False)[1], keep=2.0, samples=4, batch=2, tables=2, conversations=1)
    model, log = random_bundled(tokenizer), Log(tmp_path / "log.jsonl")
    begun = {name: value.clone() for name, value in model.state_dict().items()}
    run_stage(model, tokenizer, stage, log, tmp_path, bundle_of(192))
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, begun[name])]
    assert any("layers" in name for name in moved) and not any("visual" in name for name in moved)
    assert json.loads(log.path.read_text()) | {"minutes": 0} == {"stage": "diffusion", "done": True, "samples": 4,
                                                                 "minutes": 0}


def test_a_blended_stage_goes_a_share_of_the_way(tokenizer, tmp_path):
    stage = replace(polish_stages(60.0, False)[0], samples=2, batch=2, tables=2, conversations=1, blend=1.0)
    ends = {}
    for blend in (1.0, 0.25):
        model, log = random_bundled(tokenizer), Log(tmp_path / "log.jsonl")
        begun = {name: value.clone() for name, value in model.state_dict().items()}
        run_stage(model, tokenizer, replace(stage, blend=blend), log, tmp_path, bundle_of(192))
        ends[blend] = model.state_dict()
    assert any(not torch.equal(value, ends[1.0][name]) for name, value in begun.items())
    for name, value in begun.items():
        torch.testing.assert_close(ends[0.25][name], value + 0.25 * (ends[1.0][name] - value))
