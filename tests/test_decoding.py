"""The block decoder: exactness of cache, batch and resuming; ends, holes, observation, streamers."""

import pytest
import torch
from tiny import EOS, IMAGE, MASK, VOCABULARY, padded, prompts
from transformers import TextDiffusionStreamer
from transformers.generation.streamers import BaseStreamer

from dvl_core import Canvas, DecodingConfig, Observe
from dvl_core.decoding import STRATEGIES
from dvl_core.decoding.masks import block_causal_mask
from dvl_core.recorder import TraceRecorder

KNOBS = dict(threshold=0.3, entropy_bound=2.0, factor=2.0, top_p=0.95)


class Bytes:
    """A tokenizer of bytes, enough for the recorder."""

    all_special_ids = [256, EOS, MASK, IMAGE]
    tokenizer = property(lambda self: self)

    def convert_ids_to_tokens(self, token):
        return chr(0x21 + token % 90)

    def decode(self, ids, **_):
        return "".join(map(self.convert_ids_to_tokens, ids))


def record(model, prompt, config, canvas=None, observe=None, stop_after=None):
    recorder = TraceRecorder(model, Bytes(), config, [{"role": "user", "content": "?"}], canvas=canvas)
    for number, step in enumerate(model.steps({"input_ids": torch.tensor([prompt])}, config, observe, canvas)):
        recorder.add(step)
        if number + 1 == stop_after:
            break
    return recorder.finish()


@torch.no_grad()
def without_cache(model, prompt, config):
    """The same procedure, written plainly: the whole sequence through the decoder at every step."""
    size, start, total = config.block_size, len(prompt), len(prompt) + config.max_new_tokens
    tokens = torch.tensor(prompt + [MASK] * (-(-total // size) * size - start))
    masked = torch.zeros(len(tokens), dtype=torch.bool)
    masked[start:total] = True
    for begin in range(start // size * size, len(tokens), size):
        cells, step = slice(begin, begin + size), 0
        while True:
            ends = [i for i in range(begin, begin + size) if tokens[i] == EOS and not masked[i] and i >= start]
            if not masked[begin : ends[0] if ends else begin + size].any():
                break
            upto = tokens[: begin + size]
            mask = block_causal_mask(len(upto), size)[None, None]
            hidden = model.run_decoder(model.embed_inputs(upto[None]), mask, torch.arange(len(upto))[None])
            logits = model.lm_head(hidden[0, cells])
            logits[:, MASK] = -torch.inf
            confidence, ids = logits.softmax(-1).max(-1)
            quota = config.transfers()[step] if step < config.steps - 1 else size
            order = confidence.masked_fill(~masked[cells], -1).argsort(descending=True, stable=True)
            chosen = order[: min(max(1, quota), int(masked[cells].sum()))]
            tokens[cells][chosen], masked[cells][chosen] = ids[chosen], False
            step += 1
        if ends:
            return tokens[start : ends[0]].tolist()
    return tokens[start:total].tolist()


@pytest.mark.parametrize(("block_size", "steps"), [(8, 8), (4, 2), (8, 3), (16, 4), (1, 1)])
def test_the_cache_changes_nothing(model, block_size, steps):
    config = DecodingConfig(block_size=block_size, steps=steps, max_new_tokens=27)
    for prompt in prompts(6):
        assert model.generate(torch.tensor([prompt]), config=config).answers[0] == without_cache(model, prompt, config)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_every_row_what_it_gets_alone(model, strategy, side):
    rows = prompts(5)
    for temperature in (0.0, 0.8):
        settings = dict(block_size=8, steps=4, max_new_tokens=24, strategy=strategy, temperature=temperature) | KNOBS
        output = model.generate(**padded(rows, side), **settings)
        alone = [model.generate(torch.tensor([row]), **settings) for row in rows]
        assert output.answers == [one.answers[0] for one in alone]
        assert output.finish_reasons == [one.finish_reasons[0] for one in alone]


def test_each_row_ends_by_itself_and_no_mask_is_returned(model):
    rows = prompts(12, seed=3)
    output = model.generate(**padded(rows), block_size=8, steps=2, max_new_tokens=40)
    assert set(output.finish_reasons) == {"eos", "length"}
    longest = max(map(len, rows))
    assert not (output.sequences[:, longest:] == MASK).any()
    for row, (answer, reason) in enumerate(zip(output.answers, output.finish_reasons, strict=True)):
        returned = output.sequences[row, longest:].tolist()
        assert returned[: len(answer)] == answer and EOS not in answer
        assert reason == "length" or returned[len(answer)] == EOS


def test_a_block_costs_its_steps_and_nothing_more(model):
    """One prefill, then one forward pass per step: finished blocks enter the cache along the way."""
    model.lm_head.weight.data[EOS] /= 100
    output = model.generate(torch.tensor([list(range(32))]), block_size=8, steps=4, max_new_tokens=64)
    model.lm_head.weight.data[EOS] *= 100
    assert output.forwards == 1 + 8 * 4
    reference = model.generate(
        torch.tensor([list(range(32))]), block_size=8, steps=4, max_new_tokens=64, reference_compatible=True
    )
    assert reference.forwards <= 1 + 8 * 5


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resuming_a_stopped_run_is_exact(model, strategy, temperature):
    fixed = dict(block_size=8, steps=5, max_new_tokens=29)
    config = DecodingConfig(strategy=strategy, temperature=temperature, **fixed, **KNOBS)
    for prompt in prompts(3, seed=5, shortest=9):
        whole = record(model, prompt, config)
        for kept in range(0, len(whole.steps) + 1, 3):
            rest = record(model, prompt, config, canvas=Canvas.from_trace(whole, kept))
            assert [s.masked for s in rest.steps] == [s.masked for s in whole.steps[kept:]]
            assert [s.proposals for s in rest.steps] == [s.proposals for s in whole.steps[kept:]]
            for a, b in zip(rest.steps, whole.steps[kept:], strict=True):
                assert a.confidences == pytest.approx(b.confidences, abs=2e-5)
            assert rest.answer_ids() == whole.answer_ids()


def test_edited_and_remasked_tokens(model):
    prompt, config = prompts(1, seed=8)[0], DecodingConfig(block_size=8, steps=8, max_new_tokens=24)
    whole = record(model, prompt, config)
    canvas = Canvas.from_trace(whole, len(whole.steps), edits={2: 42}, remask=[0, 5])
    branch = record(model, prompt, config, canvas=canvas)
    assert branch.canvas()[2] == 42
    assert {p for step in branch.steps for p in step.revealed} >= {0, 5}
    untouched = set(range(24)) - {0, 2, 5} - {p for step in branch.steps for p in step.masked}
    assert all(branch.canvas()[p] == whole.canvas()[p] for p in untouched)
    with pytest.raises(ValueError, match="position 24 lies outside"):
        Canvas.from_trace(whole, 0, edits={24: 1})


def test_a_template_keeps_its_text_to_the_letter(model):
    template = [10, None, None, 11, 12, None, 13, None, None, None, 14, 15, 16, 17, 18, 19, 20, 21, None, 22]
    canvas = Canvas(tuple(template), template=True)
    output = model.generate(torch.tensor([prompts(1)[0]]), block_size=8, steps=4, canvas=canvas)
    answer = output.answers[0]
    assert len(answer) == len(template)
    assert all(given is None or given == token for given, token in zip(template, answer, strict=True))
    assert EOS not in answer and MASK not in answer
    for bad in ((), (1, -2), (1, "a")):
        with pytest.raises(ValueError, match="canvas"):
            Canvas(bad)


def test_what_is_observed_agrees_with_what_was_decoded(model):
    config = DecodingConfig(block_size=8, steps=4, max_new_tokens=16)
    inputs = {"input_ids": torch.tensor([prompts(1)[0]])}
    plain = list(model.denoise(inputs, config))
    watched = list(model.denoise(inputs, config, Observe(candidates=50, entropy=True)))
    assert [s.tokens.tolist() for s in plain] == [s.tokens.tolist() for s in watched]
    for before, step in zip(plain, watched, strict=True):
        assert before.candidate_ids is None and before.entropies is None and before.attention is None
        cells = step.masked[0]
        assert torch.equal(step.candidate_ids[0, cells, 0], step.proposals[0, cells])
        torch.testing.assert_close(step.candidate_probabilities[0, cells, 0], step.confidences[0, cells])
        assert (step.candidate_probabilities.diff(dim=-1) <= 0).all()
        assert (step.entropies >= 0).all() and (step.entropies < torch.tensor(VOCABULARY).log()).all()


def picture_inputs(model, rows=4, columns=4):
    """A prompt with one random picture of `rows` x `columns` picture tokens."""
    torch.manual_seed(3)
    grid = torch.tensor([[1, rows * 2, columns * 2]])
    ids = [5, 6] + [IMAGE] * rows * columns + prompts(1)[0]
    pixels = torch.randn(rows * columns * 4, 96)
    return {"input_ids": torch.tensor([ids]), "pixel_values": pixels, "image_grid_thw": grid}


def test_observed_attention_is_the_models_own(model):
    inputs, config = picture_inputs(model), DecodingConfig(block_size=8, steps=4, max_new_tokens=16)
    plain = list(model.denoise(inputs, config))
    watched = list(model.denoise(inputs, config, Observe(attention_layers=(0, -1))))
    assert [s.tokens.tolist() for s in plain] == [s.tokens.tolist() for s in watched]
    assert set(watched[0].attention) == {0, 1}
    assert model.decoder.config._attn_implementation == "sdpa"
    # the first pass, computed whole by the stock eager attention
    prompt, cells = inputs["input_ids"], int(watched[0].masked.sum())
    length = prompt.shape[1] // 8 * 8 + 8
    ids = torch.cat([prompt, torch.full((1, length - prompt.shape[1]), MASK)], dim=1)
    with torch.no_grad():
        embeds = model.embed_inputs(ids, inputs["pixel_values"], inputs["image_grid_thw"])
        model.set_attn_implementation("eager")
        mask = block_causal_mask(length, 8)[None, None]
        additive = torch.zeros(mask.shape).masked_fill(~mask, -1e30)
        whole = model.decoder(
            inputs_embeds=embeds,
            attention_mask={"full_attention": additive},
            position_ids=torch.arange(length)[None],
            output_attentions=True,
            use_cache=False,
        )
        model.set_attn_implementation("sdpa")
    for layer in (0, 1):
        expected = whole.attentions[layer][0, :, -cells:, 2:18].mean(0)
        torch.testing.assert_close(watched[0].attention[layer][0, -cells:], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="there is no layer 7"):
        next(model.denoise(inputs, config, Observe(attention_layers=(7,))))


def test_sampling_depends_on_the_seed_alone(model):
    ids = torch.tensor([prompts(1)[0]])
    settings = dict(block_size=8, max_new_tokens=24, temperature=1.0)
    answers = [model.generate(ids, seed=seed, **settings).answers[0] for seed in (0, 0, 1, 2)]
    assert answers[0] == answers[1]
    assert len({tuple(a) for a in answers}) > 1
    greedy = model.generate(ids, block_size=8, max_new_tokens=24)
    assert model.generate(ids, top_k=1, **settings).answers == greedy.answers


def test_autoregression_matches_the_plain_loop(parent):
    for prompt in prompts(4):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(12):
                logits = parent(input_ids=ids).logits[:, -1]
                logits[:, MASK] = -torch.inf
                ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
                if ids[0, -1] == EOS:
                    break
        expected = [t for t in ids[0, len(prompt) :].tolist() if t != EOS]
        output = parent.generate(torch.tensor([prompt]), max_new_tokens=12)
        assert output.answers[0] == expected
        assert output.forwards == output.denoising_steps == len(expected) + (output.finish_reasons[0] == "eos")
    rows = prompts(5, seed=4)
    for side in ("left", "right"):
        batch = parent.generate(**padded(rows, side), max_new_tokens=12)
        assert batch.answers == [parent.generate(torch.tensor([row]), max_new_tokens=12).answers[0] for row in rows]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_single_padded_row_gives_what_it_gives_alone(model, parent, side):
    prompt = prompts(1, seed=4)[0]
    filler, real = torch.zeros(1, 5, dtype=torch.long), torch.ones(1, len(prompt), dtype=torch.long)
    parts = [(torch.tensor([prompt]), real), (filler, filler)]
    ids, mask = (torch.cat(both, 1) for both in zip(*(parts if side == "right" else parts[::-1]), strict=True))
    for each in (model, parent):
        padded_row = each.generate(ids, attention_mask=mask, max_new_tokens=12)
        assert padded_row.answers == each.generate(torch.tensor([prompt]), max_new_tokens=12).answers


def test_decoding_under_autocast(model):
    """A CPU's ordered weights stand aside: inputs come in another dtype then."""
    with torch.autocast("cpu", torch.bfloat16):
        output = model.generate(torch.tensor([prompts(1)[0]]), max_new_tokens=12)
    assert len(output.answers[0]) == 12 or output.finish_reasons[0] == "eos"


def test_closing_the_generator_stops_the_work(model):
    config = DecodingConfig(block_size=8, max_new_tokens=64)
    calls = []
    steps = model.denoise({"input_ids": torch.tensor([[1, 2, 3]])}, config)
    handle = model.decoder.register_forward_hook(lambda *_: calls.append(1))
    next(steps)
    steps.close()
    handle.remove()
    assert len(calls) == 1
    assert next(steps, None) is None


class Listener(BaseStreamer):
    def __init__(self):
        self.put_values, self.ended = [], False

    def put(self, value):
        self.put_values.append(value.flatten().tolist())

    def end(self):
        self.ended = True


class DraftListener(Listener):
    def __init__(self):
        super().__init__()
        self.drafts = []

    def put_draft(self, value, **_):
        self.drafts.append(value.tolist())


def test_streamers(model, capsys):
    prompt = prompts(1)[0]
    for listener in (Listener(), DraftListener()):
        output = model.generate(torch.tensor([prompt]), block_size=8, steps=4, max_new_tokens=30, streamer=listener)
        assert listener.put_values[0] == prompt
        assert sum(listener.put_values[1:], []) == output.answers[0]
        assert listener.ended
    assert len(listener.drafts) == output.denoising_steps
    assert MASK in listener.drafts[0]
    model.generate(torch.tensor([prompt]), max_new_tokens=10, streamer=TextDiffusionStreamer(Bytes(), skip_prompt=True))
    answer = model.generate(torch.tensor([prompt]), max_new_tokens=10).answers[0]
    assert Bytes().decode(answer) in capsys.readouterr().out
    with pytest.raises(ValueError, match="batch of 1"):
        model.generate(torch.tensor([prompt, prompt]), streamer=Listener())


@pytest.mark.parametrize(
    ("inputs", "error", "says"),
    [
        (dict(input_ids=torch.tensor([[1]]), pixels=1), TypeError, "pixels: not an input"),
        (dict(input_ids=torch.tensor([[1]]), steps=0), ValueError, "steps must be a whole number from 1"),
        (dict(input_ids=torch.empty(1, 0, dtype=torch.long)), ValueError, "prompt is empty"),
        (dict(), ValueError, "input_ids"),
        (dict(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.tensor([[1, 0, 1]])), ValueError, "unbroken"),
    ],
)
def test_bad_inputs_are_named(model, inputs, error, says):
    with pytest.raises(error, match=says):
        model.generate(**inputs)
