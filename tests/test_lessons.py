"""What the teaching page shows, as numbers: masks and noise of the training code, passes and tour of the trace."""

import json
import random
from pathlib import Path

import pytest
import torch
from test_decoding import record
from tiny import prompts, tiny_model
from traces import END, made_up_trace

from dvl_core import Canvas, DecodingConfig
from dvl_core.decoding.masks import block_causal_mask
from dvl_core.lessons import KINDS, lesson_data
from dvl_core.trace import FORMAT, DenoisingTrace
from dvl_core.training.data import StageData
from dvl_core.training.masks import doubled_mask
from dvl_core.training.noise import masked_positions
from visualize.lessons.passes import forward_passes
from visualize.lessons.protocol import lesson_message
from visualize.lessons.tour import tour_stops

SIZES = (1, 4, 8, 16)
RECORDED = [
    file for file in sorted((Path(__file__).parents[1] / "assets" / "examples").rglob("*.json"))
    if FORMAT in file.read_text(encoding="utf-8")[:200]
]  # fmt: skip


def aligned_trace(prompt: int = 64, **how) -> DenoisingTrace:
    """A made-up run whose blocks begin where its prompt says they do."""
    trace = made_up_trace(**how)
    trace.prompt["num_tokens"] = prompt
    return trace


def autoregressive_trace() -> DenoisingTrace:
    trace = aligned_trace(block_size=1, steps=1)
    trace.model["kind"] = "autoregressive"
    for index, step in enumerate(trace.steps):
        step.forwards = 1 + index
    return trace


def matrix(rows: list[list[int]]) -> torch.Tensor:
    """Kinds [L, L] from runs."""
    pairs = [zip(row[::2], row[1::2], strict=True) for row in rows]
    return torch.tensor([[kind for kind, count in row for _ in range(count)] for row in pairs])


# -- masks --


@pytest.mark.parametrize("prompt", [0, 3, 52, 64, 1000])
@pytest.mark.parametrize("size", SIZES)
def test_the_matrix_is_the_published_training_mask(prompt, size):
    trace = made_up_trace()
    trace.prompt["num_tokens"] = prompt
    (table,) = lesson_data(trace, [size])["masks"]["sizes"]
    positions = torch.tensor(table["positions"])
    length = int(positions.max()) + 1
    noisy = torch.arange(len(positions)) >= table["noisy"]
    column = torch.where(noisy, positions, positions + length)  # the published form: the noisy copy comes first
    kinds = matrix(table["rows"])
    torch.testing.assert_close(kinds < 3, doubled_mask(length, size)[column][:, column])
    inference = block_causal_mask(length, size)[positions[~noisy]][:, positions[~noisy]]
    torch.testing.assert_close(matrix(table["decoding"]) < 3, inference)


@pytest.mark.parametrize("size", SIZES)
def test_every_cell_has_the_kind_of_its_two_copies(size):
    (table,) = lesson_data(aligned_trace(52), [size])["masks"]["sizes"]
    noisy = [index >= table["noisy"] for index in range(len(table["positions"]))]
    names = {
        (True, True): {"within", "other"},
        (True, False): {"back", "solution", "ahead"},
        (False, False): {"finished", "later"},
        (False, True): {"noise"},
    }
    kinds, blocks = matrix(table["rows"]).tolist(), table["blocks"]
    for q, row in enumerate(kinds):
        for k, kind in enumerate(row):
            assert KINDS[kind] in names[noisy[q], noisy[k]]
            if KINDS[kind] in ("solution", "within"):
                assert blocks[q] == blocks[k]
            if KINDS[kind] in ("ahead", "later"):
                assert blocks[k] > blocks[q]


def test_the_matrix_shows_prompt_and_answer_and_stays_small():
    for prompt in range(0, 40):
        for table in lesson_data(aligned_trace(prompt))["masks"]["sizes"]:
            clean = table["positions"][: table["noisy"]]
            assert len(table["positions"]) <= 80 and clean == list(range(clean[0], clean[-1] + 1))
            assert sum(p < prompt for p in clean) >= min(prompt, 5) and sum(p >= prompt for p in clean) >= 16
            noisy = table["positions"][table["noisy"] :]
            assert noisy[0] == prompt // table["block_size"] * table["block_size"] and noisy[-1] == clean[-1]
            assert 1 in table["blocks"] and table["blocks"][clean.index(prompt)] == 1


# -- noise --


def test_noise_hides_what_the_training_code_hides_and_more_with_every_t():
    data = lesson_data(aligned_trace(52))
    count = len(data["caption"]["ids"])
    everything = torch.ones(count, dtype=torch.bool)
    for draw in data["noise"]["draws"]:
        before: set[int] = set()
        for ratio in (0.01, 0.2, 0.5, 0.9, 1.0):
            rule = masked_positions(torch.tensor(draw["uniform"]), torch.full((count,), ratio), everything)
            hidden = {i for i, u in enumerate(draw["uniform"]) if u <= ratio}
            assert hidden == set(rule.nonzero().flatten().tolist()) and before <= hidden
            before = hidden
        assert len(hidden) == count


def test_every_block_draws_its_own_level_spread_over_the_range():
    data = lesson_data(aligned_trace(52), draws=16)
    blocks = -(-(data["caption"]["tail"] + len(data["caption"]["ids"])) // 8)
    low = data["noise"]["lowest"]
    assert low == StageData.lowest_noise and data["noise"]["lowest_published"] == 1e-3
    for draw in data["noise"]["draws"]:
        assert len(draw["levels"]) == blocks
        for slot, level in enumerate(sorted(draw["levels"])):  # one in each of the equal slices
            share = (level - low) / (1 - low)
            assert slot / blocks - 1e-3 <= share <= (slot + 1) / blocks + 1e-3
    assert any(draw["levels"] != sorted(draw["levels"]) for draw in data["noise"]["draws"])
    assert data == lesson_data(aligned_trace(52), draws=16) != lesson_data(aligned_trace(52), draws=16, seed=1)


def test_the_caption_is_the_answer_with_end_tokens_to_the_end_of_a_block():
    trace = aligned_trace(52)
    caption = lesson_data(trace)["caption"]
    answer = trace.answer_ids()
    assert caption["ids"][: len(answer)] == answer and caption["tail"] == 4 and caption["block_size"] == 8
    assert set(caption["ids"][len(answer) :]) == {END} and (52 + len(caption["ids"])) % 8 == 0
    stopped = aligned_trace(64, cut=11, finish="stopped")
    ids = lesson_data(stopped)["caption"]["ids"]
    assert ids == stopped.canvas()[: len(ids)] and stopped.canvas()[len(ids)] is None


def test_a_run_without_an_answer_has_nothing_to_learn():
    trace = aligned_trace(cut=0, finish="stopped")
    data = lesson_data(trace)
    assert data["noise"] is None and data["masks"] is None and tour_stops(trace) == [] == forward_passes(trace)


# -- forward passes --


def watched(model, prompt, config, canvas=None):
    """A run, and `[positions in the cache, positions computed]` of every pass its decoder made."""
    seen = []

    def watching(decode):
        def watch(self, embeds, mask, positions, cache, *rest):
            seen.append([cache.length, embeds.shape[1]])
            return decode(self, embeds, mask, positions, cache, *rest)

        return watch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "run_decoder", watching(type(model).run_decoder))
        trace = record(model, prompt, config, canvas)
    trace.prompt["num_tokens"] = len(prompt)
    return trace, seen


@pytest.mark.parametrize("seed", range(16))
def test_passes_are_those_that_the_decoder_made(seed):
    rng = random.Random(seed)
    prompt = [rng.randrange(256) for _ in range(rng.randrange(1, 30))]
    config = DecodingConfig(
        block_size=rng.choice([1, 4, 8, 64]), steps=rng.choice([1, 2, 8]), max_new_tokens=rng.choice([5, 20, 40]),
        strategy=rng.choice(["low_confidence_static", "low_confidence_dynamic"]), threshold=0.3,
        reference_compatible=seed % 3 == 0, lookahead=2 * (seed % 3 == 1),
    )  # fmt: skip
    trace, seen = watched(tiny_model(enable_bd3lm=seed % 4 != 3), prompt, config)
    passes = forward_passes(trace)
    assert [[one["cached"], one["computed"]] for one in passes] == seen and len(passes) == trace.forwards
    written = 0
    for one in passes:
        assert one["cached"] == written
        written += one["written"]
    steps = [one for one in passes if one["without"]]
    counts = [0, *(step.forwards for step in trace.steps)]
    assert [one["step"] for one in steps] == [i for i in range(len(trace.steps)) if counts[i + 1] > counts[i]]
    if trace.model["kind"] == "autoregressive":
        assert [one["without"] for one in steps] == [len(prompt) + i for i in range(len(steps))]


def test_passes_of_a_branch_are_those_of_both_runs():
    model, kept = tiny_model(), 6
    before, after = DecodingConfig(block_size=4, steps=4, max_new_tokens=24), DecodingConfig(block_size=8, steps=8)
    for prompt in prompts(20, shortest=5):
        trace, first = watched(model, prompt, before)
        if len(trace.steps) <= kept:  # an answer that ended at once
            continue
        rest, second = watched(model, prompt, after, Canvas(tuple(trace.canvas(kept))))
        branch = trace.branch("first", kept, {}, after.to_json())
        branch.steps = branch.steps + rest.steps
        prefills = len(first) - len(trace.steps)
        counted = [[one["cached"], one["computed"]] for one in forward_passes(branch)]
        assert counted == first[: prefills + kept] + second
        return
    raise AssertionError("every answer ended at once")


# -- the tour --


@pytest.mark.parametrize("how", [{}, {"steps": 2}, {"steps": 3, "block_size": 16}, {"seed": 5}])
def test_a_tour_has_five_to_seven_stops_in_the_order_of_the_run(how):
    trace = aligned_trace(**how)
    stops = tour_stops(trace)
    assert 5 <= len(stops) <= 7 and stops[0]["kind"] == "prefill" and stops[-1]["kind"] == "end"
    assert [stop["step"] for stop in stops] == sorted(stop["step"] for stop in stops)
    assert len({(stop["step"], stop["position"]) for stop in stops}) == len(stops)


@pytest.mark.parametrize("seed", range(4))
def test_stops_name_what_stands_in_the_trace(seed):
    trace = aligned_trace(seed=seed)
    stops = {stop["kind"]: stop for stop in tour_stops(trace)}
    reveals = {}
    for index, step in enumerate(trace.steps):
        for position, token in step.revealed_ids():
            reveals[position] = (step.confidences[step.masked.index(position)], token, index)
    prefill, first, end = stops["prefill"]["counts"], stops["first"], stops["end"]
    assert prefill == {"tokens": 64, "cached": 64, "length": 64}
    assert first["position"] in trace.steps[0].revealed and first["counts"]["masked"] == 8
    answer = trace.answer_ids()
    assert end["position"] == len(answer) and end["tokens"]["token"] == END
    assert end["counts"]["unopened"] == trace.length - trace.steps[-1].span[1]
    for kind in {"first", "doubt", "order", "end"} & stops.keys():
        confidence, token, index = reveals[stops[kind]["position"]]
        assert stops[kind]["shares"]["confidence"] == confidence and stops[kind]["tokens"]["token"] == token
        assert stops[kind]["step"] == (len(trace.steps) if kind == "end" else index + 1)
    if "doubt" in stops:
        shown = [confidence for position, (confidence, _, _) in reveals.items() if position <= len(answer)]
        assert stops["doubt"]["shares"]["confidence"] == min(shown)
        assert stops["doubt"]["shares"]["average"] == pytest.approx(sum(shown) / len(shown))
    if "order" in stops:
        step = trace.steps[stops["order"]["step"] - 1]
        left = [p for p in step.masked if p < stops["order"]["position"] and p not in step.revealed]
        assert stops["order"]["counts"]["left"] == len(left) > 0


def test_a_change_of_mind_and_an_easy_block_are_found():
    trace = aligned_trace()
    step = trace.steps[10]
    position = next(p for p in step.masked if p not in step.revealed)
    step.proposals[step.masked.index(position)] = 100
    later = trace.steps[11]
    stop = next(stop for stop in tour_stops(trace) if stop["kind"] == "changed")
    assert (stop["step"], stop["position"]) == (11, position)
    assert stop["tokens"] == {"before": 100, "token": later.proposals[later.masked.index(position)]}
    assert stop["shares"]["was"] == step.confidences[step.masked.index(position)]
    last = trace.steps[2]
    last.revealed = list(last.masked)
    del trace.steps[3:8]
    stop = next(stop for stop in tour_stops(trace) if stop["kind"] == "fast")
    assert stop["counts"] == {"block": 1, "steps": 3, "tokens": 8, "slow_block": 2, "slow_steps": 8, "slow_tokens": 8}
    assert stop["span"] == [0, 8] and stop["step"] == 3


def test_every_sort_of_run_has_its_own_beginning_and_end():
    kinds = {
        "stopped": aligned_trace(cut=5, finish="stopped"),
        "full": aligned_trace(length=16, finish="length"),
        "end": autoregressive_trace(),
    }
    for end, trace in kinds.items():
        assert tour_stops(trace)[-1]["kind"] == end
    assert tour_stops(kinds["end"])[0]["kind"] == "causal" and tour_stops(aligned_trace(5))[0]["kind"] == "short"
    given = aligned_trace(cut=1)
    given.given.append([20, END])
    assert tour_stops(given)[-1] == tour_stops(given)[-1] | {"kind": "end-given", "position": 20}


# -- the message --


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_the_recorded_runs_of_the_page_make_good_lessons(file):
    trace = DenoisingTrace.load(file)
    message = lesson_message(trace, lesson_data(trace))
    assert len(message["passes"]) == trace.forwards and 5 <= len(message["tour"]) <= 7
    assert message["lessons"]["noise"] and message["lessons"]["masks"]
    assert any(0 < len(step.revealed) < len(step.masked) for step in trace.steps)  # something to guess


def test_the_message_is_json_and_leaves_out_what_no_lesson_draws():
    trace = aligned_trace()
    for step in trace.steps:
        step.candidates = [[[token, 0.5]] for token in step.proposals]
        step.entropies = [0.1] * len(step.masked)
    data = lesson_data(trace)
    message = json.loads(json.dumps(lesson_message(trace, data)))
    assert message["lessons"] == data and message["passes"] == forward_passes(trace)
    assert message["tour"] == tour_stops(trace) and len(message["trace"]["steps"]) == len(trace.steps)
    assert not {"candidates", "entropies"} & message["trace"]["steps"][0].keys()
