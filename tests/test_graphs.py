"""Recorded passes: on a CPU they are run where they would be played again, so that all but the recording is tested."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from tiny import prompts, tiny_model
from transformers.integrations.sdpa_attention import repeat_kv

import dvl_core
from dvl_core import Canvas, DecodingConfig, Observe
from dvl_core.benchmark.suites import first_difference
from dvl_core.decoding import graphs, lean
from dvl_core.decoding.cache import BlockCache, StaticCache
from dvl_core.decoding.masks import copies_mask
from dvl_core.decoding.prefix import PrefixCache

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
CONFIG = DecodingConfig(max_new_tokens=37)


@pytest.fixture
def played(monkeypatch):
    """Graphs on the CPU; the shapes (Q) of the passes that were recorded, and of all that were played."""
    recorded, again = [], []

    def capture(work):
        recorded.append(work().shape[1])
        return lambda: (again.append(1), work())[1]

    monkeypatch.setitem(graphs.CAPTURES, "cpu", lambda device: capture)
    monkeypatch.setattr(graphs, "_HELD", weakref.WeakKeyDictionary())
    monkeypatch.delenv("DVL_CUDA_GRAPHS", raising=False)
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    return recorded, again


def said(steps):
    """What steps say, apart from how sure they are."""
    return [(s.block, s.step, s.spans, s.masked.tolist(), s.revealed.tolist(), s.tokens.tolist(), s.ended, s.forwards,
             s.known) for s in steps]  # fmt: skip


def sure(steps):
    return torch.cat([step.confidences[step.masked] for step in steps]).float()


def same(ours, ordinary, within=1e-5):
    assert said(ours) == said(ordinary)
    assert (sure(ours) - sure(ordinary)).abs().max() < within


def both(model, ids, config=CONFIG, **how):
    """The steps of a run with graphs and of one without."""
    inputs = {"input_ids": torch.tensor([ids], device=model.device)}
    ours = list(model.steps(inputs, config, **how))
    with graphs.without_graphs():
        return ours, list(model.steps(inputs, config, **how))


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("steps", [8, 4])
def test_blocks_come_out_the_same(model, played, steps, lookahead):
    recorded, again = played
    for prompt in [*prompts(4), list(range(24)), [3]]:  # whole blocks and begun ones, and nothing to prefill
        ours, ordinary = both(model, prompt, replace(CONFIG, steps=steps, lookahead=lookahead))
        same(ours, ordinary)
        assert len(again) == ours[-1].forwards - (len(prompt) >= 8)
        again.clear()
    assert sorted(set(recorded)) == [8 * copies for copies in range(1, lookahead + 2)]
    assert len(recorded) <= 2 * (lookahead + 1)  # with and without a finished block


def test_a_parent_comes_out_the_same(parent, played):
    for prompt in prompts(3):
        same(*both(parent, prompt))
    assert played[0] == [1] and len(played[1]) > 60


@pytest.mark.parametrize("kind", ["qwen2", "qwen3_vl"])
def test_other_families_come_out_the_same(kind, translated, played):
    model, _ = dvl_core.load_model(translated(kind)[1])
    same(*both(model, list(range(30, 43)), DecodingConfig(max_new_tokens=20, lookahead=1)))
    assert played[1]


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_canvas_with_given_blocks(model, played, lookahead):
    canvas = Canvas(tokens=(None, 65, *[None] * 6, *range(66, 82), None, None, 90, *[None] * 9))
    same(*both(model, [5, 6, 7], replace(CONFIG, lookahead=lookahead), canvas=canvas))
    assert played[1]


@pytest.mark.parametrize("config", [
    DecodingConfig(max_new_tokens=20, temperature=0.8, top_k=20, strategy="random", lookahead=2),
    DecodingConfig(max_new_tokens=20, block_size=4, steps=4, strategy="low_confidence_dynamic", threshold=0.3),
])  # fmt: skip
def test_other_settings_and_observations(model, played, config):
    ours, ordinary = both(model, list(range(50, 63)), config, observe=Observe(candidates=3, entropy=True))
    same(ours, ordinary)
    for mine, other in zip(ours, ordinary, strict=True):
        assert torch.equal(mine.candidate_ids[mine.masked], other.candidate_ids[other.masked])
    assert played[1]


def test_a_conversation_goes_on_with_its_cache(model, played):
    prompt, kept, ordinary = list(range(30, 50)), PrefixCache(), PrefixCache()
    for ids in (prompt, [*prompt, *range(11)], prompt):
        inputs = {"input_ids": torch.tensor([ids])}
        ours = list(model.steps(inputs, CONFIG, prefixes=kept))
        with graphs.without_graphs():
            same(ours, list(model.steps(inputs, CONFIG, prefixes=ordinary)))
    assert ours[0].known == 16 and all(type(entry.cache) is BlockCache for entry in kept._held)


def test_one_run_at_a_time_and_a_stopped_one_gives_them_back(model, played):
    first, second = ({"input_ids": torch.tensor([ids])} for ids in ([1, 2, 3] * 5, [7, 8] * 9))
    with graphs.without_graphs():
        expected = [list(model.steps(inputs, CONFIG)) for inputs in (first, second)]
    one, other = model.steps(first, CONFIG), model.steps(second, CONFIG)
    ours = [[next(one)], [next(other)]]
    taken = len(played[1])
    ours[1].append(next(other))
    assert len(played[1]) == taken == 1
    for steps, rest in zip(ours, (one, other), strict=True):
        steps += rest
    for steps, ordinary in zip(ours, expected, strict=True):
        same(steps, ordinary)
    stopped = model.steps(first, CONFIG)
    next(stopped)
    stopped.close()
    played[1].clear()
    same(list(model.steps(second, CONFIG)), expected[1])
    assert played[1]


def test_what_was_left_in_a_cache_harms_nobody(model, played):
    same(*both(model, [1, 2, 3] * 5))
    (held,) = graphs._HELD.values()
    for cache, _ in held._sizes.values():
        for buffers in cache._layers.values():
            for buffer in buffers:
                buffer.fill_(torch.nan)
    same(*both(model, [4, 5, 6] * 5))


def test_caches_of_several_lengths_and_runs_that_are_too_long(model, played, monkeypatch):
    monkeypatch.setattr(graphs, "SIZES", 2)
    for length in (10, 300, 600, 10):
        same(*both(model, [i % 250 for i in range(length)], DecodingConfig(max_new_tokens=8)))
    (held,) = graphs._HELD.values()
    assert list(held._sizes) == [1024, 256] and len(played[0]) == 7  # the first cache is made anew
    monkeypatch.setattr(graphs, "LONGEST", 256)
    same(*both(model, [i % 250 for i in range(300)], DecodingConfig(max_new_tokens=8)))
    monkeypatch.setattr(graphs, "WIDEST", 4 * 256)
    same(*both(model, [1, 2, 3]))
    assert len(played[0]) == 7


def test_runs_that_take_the_ordinary_way(model, played, monkeypatch):
    ids = {"input_ids": torch.tensor([[1, 2, 3]])}
    picture = {"pixel_values": torch.randn(16, 96), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    list(model.steps({"input_ids": torch.tensor([[1, 2, 3]] * 2)}, CONFIG))
    list(model.steps(ids, replace(CONFIG, reference_compatible=True)))
    list(model.steps({"input_ids": torch.tensor([[1, *[259] * 4, 2]])} | picture, CONFIG,
                     observe=Observe(attention_layers=(0,))))  # fmt: skip
    for variable in ("DVL_CUDA_GRAPHS", "SPACES_ZERO_GPU"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, {"DVL_CUDA_GRAPHS": "0"}.get(variable, "1"))
            list(model.steps(ids, CONFIG))
    hook = model.decoder.layers[0].mlp.register_forward_hook(lambda *_: None)
    list(model.steps(ids, CONFIG))
    hook.remove()
    model.train()
    list(model.steps(ids, CONFIG))
    model.eval()
    with torch.autocast("cpu"), graphs.borrow(model, 64) as held:
        assert held is None
    assert played == ([], [])
    list(model.steps(ids, CONFIG))
    assert played[1]


def test_a_pass_that_can_not_be_recorded(played, monkeypatch):
    def fails(work):
        work()
        raise RuntimeError("not while capturing")

    model = tiny_model()
    monkeypatch.setitem(graphs.CAPTURES, "cpu", lambda device: fails)
    with pytest.warns(RuntimeWarning, match="without CUDA graphs: not while capturing"):
        same(*both(model, [1, 2, 3] * 5))
    same(*both(model, [1, 2, 3] * 5))  # tells nobody again
    assert not graphs._HELD[model]._sizes


def test_new_weights_get_new_graphs_and_changed_ones_are_seen(played):
    model = tiny_model()
    same(*both(model, [1, 2, 3]))
    before, weight = graphs._HELD[model], model.decoder.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight.mul_(1.5)
    same(*both(model, [1, 2, 3]))
    assert graphs._HELD[model] is before
    weight.data = weight.data.clone()
    same(*both(model, [1, 2, 3]))
    assert graphs._HELD[model] is not before


def test_with_and_without_inference_mode_in_turn(model, played):
    ordinary = both(model, [1, 2, 3] * 5)[1]
    graphs._HELD.clear()
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            same(list(model.steps({"input_ids": torch.tensor([[1, 2, 3] * 5])}, CONFIG)), ordinary)
    assert len(played[1]) == 4 * (ordinary[-1].forwards - 1)


def test_a_static_cache_holds_what_it_was_made_for():
    cache, new = StaticCache(4), torch.ones(1, 1, 5, 2)
    with pytest.raises(ValueError, match="holds 4 positions; 5 are too many"):
        cache.update(new, new, 0)


def test_a_copy_sees_finished_blocks_and_itself():
    seen = copies_mask(2, 2, 1)
    assert seen.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]


@pytest.mark.parametrize("rows", [1, 2])
def test_every_way_to_attend_gives_the_same(rows):
    query, keys, values = torch.randn(rows, 6, 5, 8), torch.randn(rows, 2, 11, 8), torch.randn(rows, 2, 11, 8)
    mask = torch.rand(rows, 1, 5, 11) > 0.4
    mask[..., 0] = True
    for seen in (mask, mask[:1]):
        repeated = (repeat_kv(keys, 3), repeat_kv(values, 3))
        expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=seen, scale=0.3)
        assert (lean.attend(query, keys, values, seen, 0.3) - expected).abs().max() < 1e-6
        assert (lean._attend_folded(query, keys, values, seen, 0.3) - expected).abs().max() < 1e-6
        bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
        for asked in (query, query.transpose(1, 2).contiguous().transpose(1, 2)):  # as the decoder lays them out
            assert (lean.attend(asked, keys, values, bias, 0.3) - expected).abs().max() < 1e-6


@torch.no_grad()
def test_fused_norms_are_the_stock_ones_for_the_pass(model):
    norm, hidden = model.decoder.layers[0].input_layernorm, torch.randn(1, 8, 32)
    norm.weight.uniform_(0.5, 2)
    expected, stock = norm(hidden), norm.forward
    with lean.fused_norms(model):
        assert norm.forward != stock and (norm(hidden) - expected).abs().max() < 1e-5
    assert norm.forward == stock


def test_where_two_answers_part():
    assert first_difference((1, 2), (1, 2)) is None
    assert first_difference((1, 2, 3), (1, 5, 3)) == 1 and first_difference((1, 2), (1, 2, 3)) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_gpu(causal, lookahead):
    model = tiny_model(enable_bd3lm=not causal).cuda()
    for prompt in prompts(4):
        same(*both(model, prompt, replace(CONFIG, lookahead=lookahead)), within=1e-4)
    assert not graphs._HELD[model].failed and graphs._HELD[model]._sizes
    left = weakref.ref(graphs._HELD[model])
    del model
    gc.collect()
    assert left() is None
