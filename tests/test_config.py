"""Decoding settings and strategies, against numbers worked out by hand."""

import math

import pytest
import torch

from dvl_core import DecodingConfig, Observe
from dvl_core.decoding.sampling import keep_likely
from dvl_core.decoding.strategies import STRATEGIES, STRATEGY_PARAMETERS, Proposal


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_size", 0), ("block_size", 5000), ("block_size", 8.0), ("block_size", True), ("steps", 0), ("steps", -1),
        ("max_new_tokens", 0), ("threshold", 1.1), ("threshold", math.nan), ("entropy_bound", -1.0), ("factor", 0.0),
        ("temperature", -0.1), ("temperature", math.inf), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5), ("seed", -1),
        ("strategy", "best"), ("strategy", None), ("reference_compatible", "yes"), ("steps", "8"),
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*got"):
        DecodingConfig(**{field: value})


def test_the_config_is_frozen_and_says_itself():
    config = DecodingConfig(block_size=4, steps=2)
    with pytest.raises(AttributeError):
        config.steps = 3
    assert DecodingConfig(**config.to_json()) == config


@pytest.mark.parametrize(
    ("block", "steps", "shares"),
    [(8, 8, [1] * 8), (8, 3, [3, 3, 2]), (8, 5, [2, 2, 2, 1, 1]), (4, 6, [1, 1, 1, 1, 0, 0]), (8, 1, [8])],
)
def test_the_schedule_shares_out_the_block(block, steps, shares):
    assert DecodingConfig(block_size=block, steps=steps).transfers() == shares


def proposal(confidences, vocabulary=5):
    """Positions whose likeliest token has the given probability, the rest spread evenly."""
    p = torch.tensor([confidences])
    probs = ((1 - p) / (vocabulary - 1)).unsqueeze(-1).repeat(1, 1, vocabulary)
    probs[..., 2] = p
    return Proposal(torch.full(p.shape, 2), p, probs.log())


MASKED = torch.tensor([[True, True, False, True, True]])
MADE = proposal([0.90, 0.50, 0.99, 0.80, 0.60])


def revealed(name, quota, noise=None, **settings):
    config = DecodingConfig(strategy=name, **settings)
    cells = STRATEGIES[name](MADE, MASKED, quota, config, noise or (lambda: torch.tensor([0.1, 0.9, 1.0, 0.2, 0.8])))
    assert cells.dtype == torch.bool and not (cells & ~MASKED).any()
    return cells[0].nonzero().flatten().tolist()


def test_strategies_by_hand():
    assert revealed("low_confidence_static", 2) == [0, 3]
    assert revealed("low_confidence_dynamic", 1, threshold=0.55) == [0, 3, 4]
    assert revealed("low_confidence_dynamic", 2, threshold=0.95) == [0, 3]
    assert revealed("left_to_right", 2) == [0, 1]
    assert revealed("random", 2) == [1, 4]
    assert revealed("margin", 1) == [0]
    # (n + 1)(1 - c_n): 2 x 0.1, 3 x 0.2, 4 x 0.4, 5 x 0.5
    assert revealed("factor", 1, factor=0.61) == [0, 3]
    assert revealed("factor", 1, factor=1.7) == [0, 3, 4]
    assert revealed("factor", 3, factor=0.1) == [0, 3, 4]
    # every quota larger than what is masked reveals all
    for name in STRATEGIES:
        assert revealed(name, 9) == [0, 1, 3, 4]


def test_entropy_bound_by_hand():
    entropies = MADE.entropy()[0]
    expected = -(0.9 * math.log(0.9) + 0.1 * math.log(0.025))
    assert entropies[0].item() == pytest.approx(expected, abs=1e-6)
    ordered = sorted(entropies[MASKED[0]].tolist())
    bound = ordered[0] + ordered[1]  # sum of three minus their largest
    assert revealed("entropy_bound", 1, entropy_bound=bound + 1e-4) == [0, 3, 4]
    assert revealed("entropy_bound", 1, entropy_bound=bound - 1e-4) == [0, 3]
    assert revealed("entropy_bound", 1, entropy_bound=0.0) == [0]


def test_strategy_parameters_are_fields():
    assert set(STRATEGY_PARAMETERS) <= set(STRATEGIES)
    assert set(STRATEGY_PARAMETERS.values()) <= DecodingConfig.names()


def test_top_k_and_top_p():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = lambda **k: keep_likely(scores, **{"top_k": 0, "top_p": 1.0, **k}).isfinite().tolist()  # noqa: E731
    assert kept() == [True] * 4
    assert kept(top_k=2) == [True, True, False, False]
    assert kept(top_p=0.5) == [True, False, False, False]
    assert kept(top_p=0.79) == [True, True, False, False]
    assert kept(top_p=0.01) == [True, False, False, False]


def test_observe_validates():
    with pytest.raises(ValueError, match="candidates must be from 0 to 50"):
        Observe(candidates=51)
    with pytest.raises(ValueError, match="attention_layers"):
        Observe(attention_layers=("all",))
    assert Observe(attention_layers=[-1, 0, 3]).resolve_layers(4) == (0, 3)
