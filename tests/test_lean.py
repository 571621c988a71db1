"""The lean decoder, and guesses of further steps: the same numbers as the stock modules, in less work."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from test_decoding import KNOBS
from tiny import padded, prompts, tiny_model
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

import dvl_core
from dvl_core import Canvas, DecodingConfig, Observe
from dvl_core.decoding import STRATEGIES
from dvl_core.decoding.cache import BlockCache
from dvl_core.decoding.lean import lean_pass
from dvl_core.decoding.masks import block_causal_mask, hide_padding
from dvl_core.decoding.observe import run_pass


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    """The models here are so small that none of their layers would gain by it."""
    monkeypatch.setattr("dvl_core.decoding.lean.LEAST", 1)


def test_small_layers_are_left_alone(monkeypatch):
    model = tiny_model()
    assert lean_pass(model).ways
    monkeypatch.setattr("dvl_core.decoding.lean.LEAST", 1 + max(weight.numel() for weight in model.parameters()))
    other = tiny_model()
    assert not lean_pass(other).ways and lean_pass(other).head is other.lm_head


def both(model, embeds, mask, positions, prefix=0):
    """Hidden states of the stock pass and of the lean one, behind the same `prefix` positions of a cache."""
    found = []
    for lean in (None, lean_pass(model)):
        cache = BlockCache()
        if prefix:
            before = torch.randn(len(embeds), prefix, embeds.shape[-1], generator=torch.Generator().manual_seed(3))
            run_pass(model, before, None, torch.arange(prefix)[None], cache, None, lean)
            cache.commit(prefix)
        found.append(run_pass(model, embeds, mask, positions, cache, None, lean))
    return found


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwenvl_untied", "qwenlm_untied"])
def test_both_families_give_the_stock_modules_numbers(family, checkpoint_with_tokenizer):
    model, _ = dvl_core.load_model(checkpoint_with_tokenizer(family))
    layers = model.config.get_text_config().num_hidden_layers
    assert len(lean_pass(model).ways) == 7 * layers and lean_pass(model).head is not model.lm_head
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
    before = lean_pass(model)
    assert lean_pass(model) is before
    weight = model.decoder.layers[1].mlp.up_proj.weight
    if change == "in place":
        weight.mul_(1.5)
    elif change == "data":
        weight.data += 0.01
    else:
        weight.data = weight.data.clone()
    assert lean_pass(model) is not before
    stock, ours = both(model, torch.randn(1, 8, 32), None, torch.arange(8)[None])
    assert (stock - ours).abs().max() < 1e-5


class Adapted(nn.Linear):
    """Stands for an adapter's or a quantised layer: its own forward pass must run."""

    def forward(self, x):
        return super().forward(x) + 1


@torch.no_grad()
def test_what_is_not_a_plain_layer_runs_as_it_is():
    model = tiny_model()
    model.decoder.layers[1].self_attn.o_proj = Adapted(32, 32, bias=False)
    model.lm_head = Adapted(32, 260, bias=False)
    calls = []
    model.decoder.layers[0].mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
    wrapped = model.decoder.layers[0].mlp.down_proj  # as accelerate wraps what it moves between devices
    wrapped.forward = lambda x, inner=wrapped.forward: inner(x) * 2
    stock, ours = both(model, torch.randn(1, 8, 32), None, torch.arange(8)[None])
    assert (stock - ours).abs().max() < 1e-5 and len(calls) == 2
    assert lean_pass(model).head is model.lm_head and len(lean_pass(model).ways) == 14 - 2


@torch.no_grad()
def test_the_model_is_as_it_was_after_a_pass_and_after_one_that_failed():
    model = tiny_model()
    linears = [module for module in model.decoder.modules() if isinstance(module, nn.Linear)]
    list(model.denoise({"input_ids": torch.tensor([[1, 2, 3]])}, DecodingConfig(max_new_tokens=8)))
    with pytest.raises(RuntimeError), lean_pass(model).engaged(model):
        assert all("forward" in linear.__dict__ for linear in linears)
        raise RuntimeError
    assert not any("forward" in linear.__dict__ for linear in linears)
    assert model.decoder.config._attn_implementation == "sdpa"


def test_two_threads_may_use_one_model():
    """What changes the modules for a pass keeps others out, and leaves them as they were."""
    model = tiny_model()
    before = model.decoder.config._attn_implementation
    ids = torch.arange(5, 25)[None]
    expected = model.generate(input_ids=ids, max_new_tokens=24).answers
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(model.generate, input_ids=ids, max_new_tokens=24) for _ in range(12)]
    assert all(run.result().answers == expected for run in runs)
    assert model.decoder.config._attn_implementation == before
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_attention_is_observed_where_the_stock_function_is_eager():
    model = AutoModelForImageTextToText.from_pretrained(
        "assets/tinyvl", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    parts = [{"type": "image", "image": "assets/examples/shapes.png"}, {"type": "text", "text": "Describe it."}]
    processor = AutoProcessor.from_pretrained("assets/tinyvl")
    inputs = dict(processor.apply_chat_template([{"role": "user", "content": parts}]))
    config = DecodingConfig(max_new_tokens=8)
    watched = list(model.denoise(inputs, config, Observe(attention_layers=(0,))))
    assert all(0 < float(step.attention[0].sum()) for step in watched)
    plain = list(model.denoise(inputs, config))
    assert [step.proposals.tolist() for step in watched] == [step.proposals.tolist() for step in plain]


def test_the_head_runs_on_masked_cells_alone_and_not_in_the_prefill(model, monkeypatch):
    seen, head = [], lean_pass(model).head
    monkeypatch.setattr(lean_pass(model), "head", lambda x: (seen.append(tuple(x.shape[:2])), head(x))[1])
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
