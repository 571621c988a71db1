"""Whole blocks are learnt by the published objective and without bias, beside the conversion."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import random_bundled

from dvl_core.training import stages
from dvl_core.training.bundled import bundle_of, polish_stages
from dvl_core.training.data import StageData, loader
from dvl_core.training.objective import NoisyBatch, diffusion_forward
from dvl_core.training.stages import Hardware, Log, Stage, picture_slice, run_stage
from dvl_core.training.steps import PictureReader
from dvl_core.training.whole import BLOCKS, TABLE_SHARES, Pool, TableBatches, WholeBlocks

BLOCK, PICTURE_TOKENS = 8, 144
DATA = StageData("diffusion", batch=2, shares=TABLE_SHARES, first_seed=500, wild=0.5)


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_bundled(tokenizer)


@pytest.fixture(scope="module")
def batch(tokenizer):
    return next(iter(TableBatches(DATA, tokenizer)))


def whole_blocks(model, tokenizer, batches=()):
    at = picture_slice(tokenizer)
    return WholeBlocks(model, PictureReader(model), at, batches, tokenizer.mask_token_id, BLOCK)


def test_the_loss_is_the_published_one_of_blocks_masked_whole(model, tokenizer, batch):
    """Gradients too, but for those through the clean copy, whose keys and values are taken as given."""
    whole = whole_blocks(model, tokenizer)
    places = torch.arange(batch["ids"].shape[1])
    real = places < batch["length"][:, None]
    masked = (places[:, None] // BLOCK * BLOCK == batch["starts"][:, None]).any(-1)
    embeds = model.token_embeds(batch["ids"]).clone()
    embeds[:, whole.picture_at] = whole.reader(batch["pictures"])
    noise = NoisyBatch(torch.ones_like(masked).float(), masked)
    logits = diffusion_forward(model, embeds.detach(), noise, BLOCK, real)
    published = F.cross_entropy(logits[masked], batch["ids"][masked])
    loss = whole.loss(batch)
    torch.testing.assert_close(loss, published, atol=1e-5, rtol=1e-5)
    head = model.get_input_embeddings().weight  # tied
    wanted, given = (torch.autograd.grad(value, head)[0] for value in (published, loss))
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-3)
    assert model.decoder.config._attn_implementation == "eager"


def test_layers_that_are_compiled_for_packed_rows_are_not_compiled_anew(tokenizer, batch):
    """A cache and other lengths would make every one of them another program."""
    model, compiled = random_bundled(tokenizer), []
    plain = whole_blocks(model, tokenizer).loss(batch)
    for layer in model.get_decoder().layers:
        layer.compile(backend=lambda graph, _: compiled.append(graph) or graph.forward)
    torch.testing.assert_close(whole_blocks(model, tokenizer).loss(batch), plain)
    assert not compiled


def test_tables_are_kept_and_gone_through_again(model, tokenizer, batch):
    reader = PictureReader(model)
    pool = iter(Pool(TableBatches(DATA, tokenizer), reader, size=2))
    first, second = next(pool), next(pool)
    assert torch.equal(first["ids"], batch["ids"]) and not torch.equal(first["ids"], second["ids"])
    for _ in range(2):
        assert {id(next(pool)), id(next(pool))} == {id(first), id(second)}
    assert first["features"].shape == (2, PICTURE_TOKENS, 288) and not first["features"].requires_grad
    losses = whole_blocks(model, tokenizer, [first, batch])
    torch.testing.assert_close(losses.next(), losses.next())  # pictures are read where there are no features


def test_several_processes_draw_the_same_tables(tokenizer):
    """Each its share of them."""
    data = replace(DATA, batch=1)
    shared, alone = (loader(data, tokenizer, workers, TableBatches) for workers in (2, 1))
    drawn, known = ([batch["ids"] for batch, _ in zip(some, range(8), strict=False)] for some in (shared, alone))
    assert all(any(torch.equal(ids, other) for other in known) for ids in drawn[:4])
    assert not any(torch.equal(ids, other) for i, ids in enumerate(drawn) for other in drawn[:i])


def test_a_fast_device_has_tables_drawn_by_a_third_of_the_processes(model, tokenizer, monkeypatch):
    """And learns them once more where none is new."""
    asked = []
    monkeypatch.setattr(stages, "loader", lambda data, *rest: asked.append((data.batch, data.shares, rest)) or [])
    monkeypatch.setattr(stages, "Replay", lambda *_, **__: iter(["replayed"]))
    stage = replace(polish_stages(1.0, True)[0], tables=3)
    module = stages._module(model, tokenizer, stage, None)
    whole = stages._whole_blocks(model, module, stage, tokenizer, Hardware(torch.device("meta"), 15))
    assert asked == [(3, TABLE_SHARES, (tokenizer, 5, TableBatches))]
    assert whole.reader is module.reader and next(whole.batches) == "replayed"


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
    ({"tables": -1}, "tables=-1"), ({"tables": 2, "vision_scale": 1.0}, "tables=2"),
    ({"muon_lr": -1.0}, "muon_lr=-1.0"),
    ({"digits": True}, "digits=True chooses blocks of tables: give tables"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(setting, named):
    with pytest.raises(ValueError, match=named):
        Stage("diffusion", minutes=1, samples=1, **setting)
    with pytest.raises(ValueError, match="tables=3: only the diffusion stage"):
        Stage("autoregressive", minutes=1, samples=1, vision_scale=0, tables=3)


def test_a_stage_of_tables_moves_the_decoder_alone(tokenizer, tmp_path):
    stage = replace(polish_stages(60.0, False)[1], samples=4, batch=2, tables=2, conversations=1)
    model, log = random_bundled(tokenizer), Log(tmp_path / "log.jsonl")
    begun = {name: value.clone() for name, value in model.state_dict().items()}
    run_stage(model, tokenizer, stage, log, tmp_path, bundle_of(192))
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, begun[name])]
    assert any("layers" in name for name in moved) and not any("visual" in name for name in moved)
    assert json.loads(log.path.read_text()) | {"minutes": 0} == {"stage": "diffusion", "done": True, "samples": 4,
                                                                 "minutes": 0}
