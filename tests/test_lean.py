"""The lean decoder, and guesses of further steps: the same numbers as the stock modules, in less work."""

from dataclasses import replace

import pytest
import torch
from tiny import padded, prompts, tiny_model
from torch import nn

import dvl_core
from dvl_core import Canvas, DecodingConfig, Observe
from dvl_core.decoding import STRATEGIES
from dvl_core.decoding.cache import BlockCache
from dvl_core.decoding.lean import lean_decoder
from dvl_core.decoding.masks import block_causal_mask, hide_padding

KNOBS = dict(threshold=0.3, entropy_bound=2.0, factor=2.0, top_p=0.95)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def both(model, embeds, mask, positions, prefix=0):
    """Hidden states of the stock decoder and of the lean one, behind the same `prefix` positions of a cache."""
    found = []
    for run in (model.run_decoder, lean_decoder(model)):
        cache = BlockCache()
        if prefix:
            before = torch.randn(len(embeds), prefix, embeds.shape[-1], generator=torch.Generator().manual_seed(3))
            run(before, None, torch.arange(prefix)[None], cache)
            cache.commit(prefix)
        found.append(run(embeds, mask, positions, cache))
    return found


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwenvl_untied", "qwenlm_untied"])
def test_both_families_give_the_stock_modules_numbers(family, checkpoint_with_tokenizer):
    model, _ = dvl_core.load_model(checkpoint_with_tokenizer(family))
    assert lean_decoder(model) is not None
    embeds = torch.randn(2, 24, model.config.get_text_config().hidden_size)
    for mask in (None, block_causal_mask(24, 8)[None, None]):
        stock, ours = both(model, embeds, mask, torch.arange(24)[None])
        assert (stock - ours).abs().max() < 1e-5 * stock.abs().max()


@torch.no_grad()
def test_a_block_behind_a_cache_and_a_padded_batch(model):
    stock, ours = both(model, torch.randn(1, 8, 32), None, torch.arange(13, 21)[None], prefix=13)
    assert (stock - ours).abs().max() < 1e-5
    valid = torch.tensor([[1] * 16, [1] * 9 + [0] * 7]).bool()
    mask = hide_padding(block_causal_mask(16, 8), valid)
    stock, ours = both(model, torch.randn(2, 16, 32), mask, torch.arange(16)[None])
    assert (stock - ours)[valid].abs().max() < 1e-5


@torch.no_grad()
def test_half_precision_stays_within_its_rounding():
    model = tiny_model().to(torch.bfloat16)
    stock, ours = both(model, torch.randn(1, 16, 32, dtype=torch.bfloat16), None, torch.arange(16)[None])
    assert (stock - ours).float().abs().max() < 0.06 * stock.float().abs().max()


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "data", "replaced"])
def test_changed_weights_are_noticed(change):
    model = tiny_model()
    before = lean_decoder(model)
    assert lean_decoder(model) is before
    weight = model.decoder.layers[1].mlp.up_proj.weight
    if change == "in place":
        weight.mul_(1.5)
    elif change == "data":
        weight.data += 0.01
    else:
        weight.data = weight.data.clone()
    assert lean_decoder(model) is not before
    stock, ours = both(model, torch.randn(1, 8, 32), None, torch.arange(8)[None])
    assert (stock - ours).abs().max() < 1e-5


class Adapted(nn.Linear):
    """Stands for an adapter's or a quantised layer."""


@pytest.mark.parametrize("change", ["hook", "adapter", "head", "layer"])
def test_a_model_that_is_not_plain_keeps_its_own_modules(change):
    model = tiny_model()
    if change == "hook":
        model.decoder.layers[0].mlp.register_forward_hook(lambda *_: None)
    elif change == "adapter":
        model.decoder.layers[1].self_attn.o_proj = Adapted(32, 32, bias=False)
    elif change == "head":
        model.lm_head = Adapted(32, 260, bias=False)
    else:
        model.decoder.layers[0].__class__ = type("Other", (type(model.decoder.layers[0]),), {})
    assert lean_decoder(model) is None
    assert model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=8).answers


def test_the_head_runs_on_masked_cells_alone_and_not_in_the_prefill(model, monkeypatch):
    seen, head = [], lean_decoder(model).head
    monkeypatch.setattr(lean_decoder(model), "head", lambda x: (seen.append(tuple(x.shape[:2])), head(x))[1])
    steps = list(model.denoise({"input_ids": torch.tensor([list(range(16))])}, DecodingConfig(max_new_tokens=16)))
    assert seen == [(1, int(step.masked.sum())) for step in steps]
    assert {count for _, count in seen} >= {1, 4, 8}


def run(model, prompt, config, canvas=None):
    """What every step says, and the number of passes."""
    steps = list(model.denoise({"input_ids": torch.tensor([prompt])}, config, None, canvas))
    said = [(s.block, s.step, s.masked.tolist(), s.revealed.tolist(), s.tokens.tolist(), s.ended) for s in steps]
    sure = torch.cat([s.confidences[s.masked] for s in steps])
    return said, sure, steps[-1].forwards


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_looking_ahead_changes_nothing_but_the_passes(model, strategy, temperature):
    for prompt in prompts(4):
        config = DecodingConfig(strategy=strategy, temperature=temperature, max_new_tokens=37, steps=6, **KNOBS)
        said, sure, passes = run(model, prompt, config)
        for depth in (1, 3):
            ahead, sure_ahead, fewer = run(model, prompt, replace(config, lookahead=depth))
            assert ahead == said and fewer <= passes
            assert (sure_ahead - sure).abs().max() < 1e-5


def test_right_guesses_save_passes(model):
    """In reading order the positions of the next step are never in doubt, so only its tokens can be guessed wrong."""
    config = DecodingConfig(strategy="left_to_right", max_new_tokens=64)
    alone = sum(run(model, prompt, config)[2] for prompt in prompts(6))
    ahead = sum(run(model, prompt, replace(config, lookahead=2))[2] for prompt in prompts(6))
    assert ahead < 0.95 * alone


def test_looking_ahead_with_holes_and_given_tokens(model):
    canvas = Canvas(tokens=(None, 65, None, None, 66, None, None, None, None, 67, None, None))
    said, _, _ = run(model, [5, 6, 7], DecodingConfig(), canvas)
    assert run(model, [5, 6, 7], DecodingConfig(lookahead=2), canvas)[0] == said


def test_a_batch_and_observed_attention_are_computed_without_guesses(model):
    rows, config = padded(prompts(3)), DecodingConfig(max_new_tokens=16)
    plain, ahead = (model.generate(**rows, config=c) for c in (config, replace(config, lookahead=2)))
    assert ahead.answers == plain.answers and ahead.forwards == plain.forwards
    observed = model.generate(torch.tensor([[1, 2, 3]]), config=replace(config, lookahead=2),
                              observe=Observe(candidates=3, entropy=True))
    assert observed.answers == model.generate(torch.tensor([[1, 2, 3]]), config=config).answers


@pytest.mark.parametrize("depth", [-1, 9, 1.5, True])
def test_a_bad_depth_is_named(depth):
    with pytest.raises(ValueError, match="lookahead must be a whole number from 0 to 8"):
        DecodingConfig(lookahead=depth)
