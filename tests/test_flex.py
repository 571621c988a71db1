"""FlexAttention is the dense mask computed another way: the same rule, the same losses, chosen in one place."""

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from dvl_core.benchmark.sizes import random_model
from dvl_core.training import flex
from dvl_core.training.answers import masked_token_losses, next_token_losses
from dvl_core.training.flex import TILE, block_mask, pad_tokens, takes_flex
from dvl_core.training.masks import Tokens, block_diffusion_mask, dense_mask
from dvl_core.training.objective import IGNORE

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # on a CPU, on purpose


def layout(seed, rows=2, length=300, segments=False):
    """A row of scattered noisy copies, then the clean tokens; turns, padding and, on request, segments."""
    draw = torch.Generator().manual_seed(seed)
    block_size = int(torch.randint(1, 40, (1,), generator=draw))
    copies = length // 3
    position = torch.stack([
        torch.cat([torch.randperm(length, generator=draw)[:copies].sort().values, torch.arange(length)])
        for _ in range(rows)
    ])  # fmt: skip
    real = torch.rand(position.shape, generator=draw) < 0.9
    return Tokens(
        position // block_size,
        (torch.arange(length + copies) < copies).expand(rows, -1),
        (position * 3 // length) if segments else None,
        turn=(position * 4 // length),
        padding=torch.arange(1, length + copies + 1).masked_fill(real, 0),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("segments", [False, True])
def test_the_tiles_and_the_rule_are_the_dense_mask(seed, segments):
    tokens = layout(seed, length=300 + 900 * (seed == 3), segments=segments)
    length = tokens.block.shape[1]
    padded = pad_tokens(tokens, -length % TILE)
    dense, blocks = dense_mask(padded), block_mask(padded)
    assert blocks.shape == (2, 1, *dense.shape[1:])
    torch.testing.assert_close(dense[:, :length, :length], dense_mask(tokens))
    assert not dense[:, :length, length:].any() and dense.diagonal(dim1=1, dim2=2).all()  # no empty row
    total = dense.shape[1]
    torch.testing.assert_close(create_mask(blocks.mask_mod, 2, None, total, total, device="cpu")[:, 0], dense)
    # tiles: seen is what holds an allowed pair, whole is what holds nothing else
    pairs = dense.unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE)).sum((2, 4))
    whole = BlockMask.from_kv_blocks(blocks.full_kv_num_blocks, blocks.full_kv_indices, BLOCK_SIZE=TILE)
    torch.testing.assert_close(whole.to_dense()[:, 0] > 0, pairs == TILE * TILE)
    torch.testing.assert_close((blocks.to_dense()[:, 0] > 0) | (pairs == TILE * TILE), pairs > 0)


def test_the_rule_ends_blocks_with_their_answer():
    tokens = layout(0)
    plain = block_diffusion_mask(tokens.block, tokens.noisy)
    turned = block_diffusion_mask(tokens.block, tokens.noisy, turn=tokens.turn)
    later = tokens.turn[:, None, :] > tokens.turn[:, :, None]
    both = tokens.noisy[:, :, None] & tokens.noisy[:, None, :]
    torch.testing.assert_close(turned, plain & ~(both & later))


def batch(model, rows=2, prompt=70, answer=60):
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 500, (rows, prompt + answer), generator=draw)
    labels, real = ids.clone(), torch.ones_like(ids, dtype=torch.bool)
    labels[:, :prompt], labels[1, -20:], real[1, -20:] = IGNORE, IGNORE, False
    masked = (torch.rand(ids.shape, generator=draw) < 0.5) & (labels != IGNORE)
    turn = (torch.arange(prompt + answer) > prompt + 11).long().expand(rows, -1)
    ids, labels, masked, real, turn = (x.to(model.device) for x in (ids, labels, masked, real, turn))
    return ids, labels, masked, real, turn


def both_losses(model, attention, inputs):
    ids, labels, masked, real, turn = inputs
    embeds = model.token_embeds(ids)
    diffusion = masked_token_losses(model, embeds, labels, masked, 8, real, turn, attention)
    return diffusion, next_token_losses(model, embeds, labels, real, attention)


@pytest.fixture
def watched(monkeypatch):
    """The kernel's calls, counted."""
    calls = []

    def kernel(device_type, real=flex._kernel):
        calls.append(device_type)
        return real(device_type)

    monkeypatch.setattr(flex, "_kernel", kernel)
    return calls


def test_losses_through_the_kernel_are_the_dense_ones(watched):
    model = random_model("1m", CPU, torch.float32)
    model.decoder.layers = model.decoder.layers[:2]
    inputs = batch(model)
    with torch.no_grad():
        dense = both_losses(model, "dense", inputs)
        assert not watched
        flexed = both_losses(model, "flex", inputs)
        assert len(watched) == 4
        with torch.autocast("cpu", torch.bfloat16):  # queries, keys and values differ in dtype there
            rounded = both_losses(model, "flex", inputs)
    for one, other, rough in zip(dense, flexed, rounded, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rough, one, rtol=0.05, atol=0.05)
    # what is left behind is the stock function for every other mask, and is not written into checkpoints
    again = both_losses(model, "auto", inputs)
    for one, other in zip(dense, again, strict=True):
        assert torch.equal(one, other.detach())
    assert "dvl_flex" not in str(model.config.to_dict()) and len(watched) == 8


def test_one_place_chooses(monkeypatch):
    model = random_model("1m", CPU, torch.float32)
    embeds = torch.zeros(1, 4, 128)
    with torch.no_grad():
        assert takes_flex(model, embeds, "flex")
        assert not takes_flex(model, embeds, "auto") and not takes_flex(model, embeds, "dense")
        assert not takes_flex(model, embeds.double(), "flex")
        with monkeypatch.context() as patch:  # as on CUDA
            patch.setattr(flex, "_has_kernels", lambda *_: True)
            assert takes_flex(model, embeds, "flex") and takes_flex(model, embeds.bfloat16(), "auto")
            assert not takes_flex(model, embeds, "auto")  # slow in float32
            with torch.autocast("cpu", torch.bfloat16):
                assert takes_flex(model, embeds, "auto")
        for name, value in (("attention_dropout", 0.1), ("head_dim", 48), ("head_dim", 8)):
            config, before = model.decoder.config, getattr(model.decoder.config, name, None)
            setattr(config, name, value)
            assert not takes_flex(model.train(), embeds, "flex")
            setattr(config, name, before)
        model.set_attn_implementation("eager")
        assert not takes_flex(model, embeds, "flex")
        model.set_attn_implementation("sdpa")
        assert takes_flex(model, embeds, "flex")
    assert not takes_flex(model, embeds, "flex")  # a CPU's kernel has no gradient


def test_new_masks_and_lengths_do_not_compile_a_kernel_each():
    """What is traced does not depend on what the rule looks at, and lengths become dynamic."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(flex_attention, backend=backend)
    with torch.no_grad():
        for seed, tiles in enumerate((4, 4, 5, 7, 4, 6, 8)):
            tokens = layout(seed, length=96 * tiles)
            query, key = (torch.randn(2, heads, TILE * tiles, 16) for heads in (4, 2))
            blocks = block_mask(pad_tokens(tokens, 0))
            compiled(query, key, key, block_mask=blocks, enable_gqa=True)
    torch._dynamo.reset()
    assert len(graphs) == 2


def standing_in(query, key, value, block_mask, scale, enable_gqa):
    """FlexAttention's interface with a gradient on a CPU: the rule of its mask, evaluated for all pairs."""
    mask = create_mask(block_mask.mask_mod, len(query), None, query.shape[2], key.shape[2], device="cpu")
    return scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=enable_gqa)


@pytest.mark.parametrize("device", [
    "cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")),
])  # fmt: skip
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_dense_ones(monkeypatch, watched, device, checkpointing):
    """On CUDA through the kernel. On a CPU, whose kernel has none, through all but it; layers called again included."""
    if device == "cpu":
        monkeypatch.setattr(flex, "_has_kernels", lambda *_: True)
        monkeypatch.setattr(flex, "_kernel", lambda kind: watched.append(kind) or standing_in)
    model = random_model("1m", torch.device(device), torch.float32).train()
    if checkpointing:
        older = model.gradient_checkpointing_enable
        getattr(model, "activation_checkpointing_enable", older)({"use_reentrant": False})
    inputs, seen = batch(model), {}
    for attention in ("dense", "flex"):
        model.zero_grad()
        loss = sum(losses.sum() for losses in both_losses(model, attention, inputs))
        loss.backward()
        seen[attention] = (loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert len(watched) == len(model.decoder.layers) * 2 * (1 + checkpointing)
    torch.testing.assert_close(seen["flex"][0], seen["dense"][0], rtol=1e-5, atol=0)
    for name, gradient in seen["dense"][1].items():
        torch.testing.assert_close(seen["flex"][1][name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))
