"""Runs that begin with what earlier ones left in the cache: the same answers, and nothing encoded twice."""

import pytest
import torch
from parents import PARENTS
from PIL import Image
from tiny import IMAGE, padded, prompts

import dvl_core
from dvl_core import Canvas, DecodingConfig, Observe
from dvl_core.decoding.cache import BlockCache
from dvl_core.decoding.prefix import PrefixCache, read_source
from dvl_core.engine import Engine

CONFIG = DecodingConfig(max_new_tokens=20)


def pictures(count, seed=0):
    """Inputs of random pictures of four tokens each."""
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(16 * count, 3 * 2 * 16, generator=generator),
            "image_grid_thw": torch.tensor([[1, 4, 4]] * count)}  # fmt: skip


def run(model, ids, prefixes=None, shown=None, **how):
    """(ids of the answer, positions computed by every pass, positions known, confidences)."""
    computed, update = [], BlockCache.update

    def watch(self, keys, values, layer, *rest, **kwargs):
        if layer == 0:
            computed.append(keys.shape[2])
        return update(self, keys, values, layer, *rest, **kwargs)

    inputs = {"input_ids": torch.tensor([ids])} | (shown or {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockCache, "update", watch)
        config, rest = how.pop("config", CONFIG), how
        if prefixes is not None:
            rest["prefixes"] = prefixes
        steps = list(model.steps(inputs, config, **rest))
    settled = {}
    for step in steps:
        start = step.spans[0][0]
        settled |= {start + i: int(step.tokens[0, i]) for i in step.revealed[0].nonzero().flatten().tolist()}
    sure = torch.cat([step.confidences[step.masked] for step in steps])
    return [settled[i] for i in sorted(settled)], computed, steps[0].known, sure


@pytest.mark.parametrize("kind", ["model", "parent"])
def test_the_next_turn_computes_what_is_new_and_says_the_same(kind, request):
    model = request.getfixturevalue(kind)
    size = 8 if kind == "model" else 1
    for prompt in prompts(12, shortest=9, longest=30):
        prefixes = PrefixCache()
        answer, first, known, _ = run(model, prompt, prefixes)
        assert known == 0 and sum(first) >= len(prompt) // size * size
        answer = [token for token in answer if token != IMAGE]  # a random model may say that there is a picture
        longer = prompt + answer + [3, 1, 4, 1, 5, 9, 2, 6]
        alone = run(model, longer)
        again = run(model, longer, prefixes)
        assert again[0] == alone[0] and (again[3] - alone[3]).abs().max() < 1e-5
        assert again[2] >= len(prompt) // size * size and sum(again[1]) == sum(alone[1]) - again[2]


def test_the_same_question_needs_no_prefill_at_all(model):
    prefixes, prompt = PrefixCache(), list(range(24))
    first, again = run(model, prompt, prefixes), run(model, prompt, prefixes)
    assert again[0] == first[0] and again[2] == 24 and len(again[1]) == len(first[1]) - 1


def test_a_second_question_about_a_picture_does_not_encode_it_again(model, monkeypatch):
    seen, encode = [], model.get_image_features
    monkeypatch.setattr(model, "get_image_features", lambda p, g, **k: (seen.append(len(g)), encode(p, g, **k))[1])
    prefixes, about = PrefixCache(), [1, 2, 3, *[IMAGE] * 4, 5, 6, 7]
    run(model, [*about, 8, 9], prefixes, pictures(1))
    second = run(model, [*about, 11, 12, 13], prefixes, pictures(1))
    assert seen == [1] and second[2] == 8
    assert second[0] == run(model, [*about, 11, 12, 13], None, pictures(1))[0]
    another = run(model, [*about, 11, 12, 13], prefixes, pictures(1, seed=5))
    assert another[2] == 0 and another[0] == run(model, [*about, 11, 12, 13], None, pictures(1, seed=5))[0]


@pytest.mark.parametrize("kind", ["model", "parent"])
@pytest.mark.parametrize("gap", range(9))
def test_a_picture_that_joins_later_is_encoded_alone_wherever_blocks_end(kind, gap, request, monkeypatch):
    model = request.getfixturevalue(kind)
    both = {n: torch.cat([pictures(1)[n], pictures(1, seed=9)[n]]) for n in pictures(1)}
    begin = [1, 2, 3, *[IMAGE] * 4, *range(20, 21 + gap)]
    prefixes = PrefixCache()
    run(model, [*begin, 8, 9], prefixes, pictures(1))
    longer = [*begin, *[IMAGE] * 4, 30, 31]
    alone = run(model, longer, None, both)
    seen, encode = [], model.get_image_features
    monkeypatch.setattr(model, "get_image_features", lambda p, g, **k: (seen.append(len(g)), encode(p, g, **k))[1])
    again = run(model, longer, prefixes, both)
    assert again[0] == alone[0] and seen == [1 if again[2] >= 7 else 2]


def test_other_blocks_other_settings_and_batches(model):
    prefixes, prompt = PrefixCache(), list(range(40, 64))
    run(model, prompt, prefixes)
    four = DecodingConfig(block_size=4, steps=4, max_new_tokens=20)
    assert run(model, prompt, prefixes, config=four)[2] == 0  # blocks of another size see other things
    warm = DecodingConfig(max_new_tokens=20, temperature=0.8, strategy="random", lookahead=2)
    assert run(model, prompt, prefixes, config=warm)[:1] == run(model, prompt, config=warm)[:1]
    exact = DecodingConfig(max_new_tokens=20, reference_compatible=True)
    assert run(model, prompt, prefixes, config=exact)[2] == 0
    batch = list(model.steps(padded(prompts(3)), CONFIG, prefixes=prefixes))
    assert batch[0].known == 0
    mask = torch.tensor([[1] * 20 + [0] * 4])
    assert read_source(model, {"input_ids": torch.tensor([prompt]), "attention_mask": mask}) is None


def test_a_branch_and_a_stopped_run(model):
    prefixes, prompt = PrefixCache(), list(range(20))
    steps = model.steps({"input_ids": torch.tensor([prompt])}, CONFIG, prefixes=prefixes)
    next(steps)
    steps.close()
    canvas = Canvas(tokens=(65, None, 66, *[None] * 17))
    again = run(model, prompt, prefixes, canvas=canvas)
    assert again[2] == 16 and again[0] == run(model, prompt, canvas=canvas)[0]
    observed = run(model, prompt, prefixes, observe=Observe(candidates=2, entropy=True))
    assert observed[0] == run(model, prompt)[0]


def test_old_caches_are_let_go_and_those_a_run_went_on_with_are_replaced():
    prefixes = PrefixCache(entries=2)
    caches = [BlockCache() for _ in range(4)]
    prefixes.keep(8, range(16), caches[0])
    prefixes.keep(8, range(32), caches[1])  # goes on with the first
    assert prefixes.find(8, range(24)) == (caches[1], 24) and len(prefixes._held) == 1
    prefixes.keep(8, range(100, 116), caches[2])
    prefixes.find(8, range(16))  # used last
    prefixes.keep(8, range(200, 216), caches[3])
    assert prefixes.find(8, range(100, 116)) == (None, 0)
    assert prefixes.find(8, range(16)) == (caches[1], 16) and prefixes.find(4, range(16)) == (None, 0)
    with pytest.raises(ValueError, match="entries must be at least 1"):
        PrefixCache(entries=0)


def ask(text, picture=None):
    shown = [{"type": "image", "image": picture}] if picture is not None else []
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


@pytest.mark.parametrize("name", ["qwenvl_untied", "qwenlm_untied", *PARENTS])
def test_a_conversation_in_the_engine_goes_on_with_its_cache(name, checkpoint_with_tokenizer, translated):
    folder = translated(name)[1] if name in PARENTS else checkpoint_with_tokenizer(name)
    model, processor = dvl_core.load_model(folder)
    picture = Image.effect_noise((90, 70), 60).convert("RGB")
    engine, fresh = Engine(model, processor), Engine(model, processor)
    config = engine.config(max_new_tokens=16)
    messages = [ask("What is it?", picture)]
    shown = processor.apply_chat_template(messages)["input_ids"][0] == processor.image_token_id
    first = engine.answer(messages, config)
    assert first.steps[0].known is None
    for question in (ask("And how many?"), ask("And here?", picture.resize((40, 90)))):
        messages += [{"role": "assistant", "content": first.text}, question]
        again = engine.answer(messages, config)
        assert again.steps[0].known > shown.nonzero().max() and all(step.known is None for step in again.steps[1:])
        alone = engine.answer(messages, config, alone=True)
        assert alone.steps[0].known is None and alone.answer_ids() == again.answer_ids()
        assert fresh.answer(messages, config).answer_ids() == again.answer_ids()
