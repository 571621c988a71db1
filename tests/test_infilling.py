"""Templates with holes: how they are written, and that an answer keeps their text to the letter."""

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from qwen_tokenizer import qwen_tokenizer
from tiny import EOS, MASK, VOCABULARY, padded, prompts, tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dvl_core import Canvas, DecodingConfig, load_model
from dvl_core.decoding import STRATEGIES
from dvl_core.decoding.canvas import Fill
from dvl_core.decoding.template import Template, covering_block_size, parse_template
from dvl_core.engine import Engine
from dvl_core.recorder import TraceRecorder, token_bytes

BUNDLED = Path(__file__).parents[1] / "assets" / "tinyvl"
# Stand where bytes would that no UTF-8 text contains.
WORDS = (" star", " red", " blue,", " A", " _", "star", "red", "ing", "  ", "\n\n", " \n", ",\n", "\n ")
ALPHABET = "ab Z_09\\{}\"':.,\n\té猫😀 "


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, a few words, and control tokens at the ids that the tiny models name."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelling = SimpleNamespace(convert_ids_to_tokens=lambda character: character, all_special_ids=())
    byte_of = {token_bytes(spelling, character): character for character in characters}
    unused = {byte_of[bytes([value])] for value in (0xC0, 0xC1, *range(0xF5, 0x100))}
    words = ["".join(byte_of[bytes([value])] for value in word.encode()) for word in WORDS]
    controls = ["<|im_start|>", "<|im_end|>", "<|mask|>", "<|image_pad|>"]
    tokens = [*(c for c in characters if c not in unused), *words, *controls]
    table = {token: number for number, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=table, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=controls[1], mask_token=controls[2],
        additional_special_tokens=[controls[0], controls[3]],
    )  # fmt: skip
    assert len(made) == VOCABULARY and made.eos_token_id == EOS and made.mask_token_id == MASK
    return made


@pytest.fixture(scope="module")
def tiny():
    """`run(template, config) -> trace` of a random model, and its tokenizer."""
    model, tokenizer = tiny_model(), tiny_tokenizer()

    def run(template, config, prompt):
        processor = SimpleNamespace(tokenizer=tokenizer)
        message = [{"role": "user", "content": "?"}]
        recorder = TraceRecorder(model, processor, config, message, canvas=template.canvas)
        for step in model.steps({"input_ids": torch.tensor([prompt])}, config, None, template.canvas):
            recorder.add(step)
        return recorder.finish()

    return run, tokenizer


@pytest.fixture(scope="module")
def engine():
    return Engine(*load_model(BUNDLED, device="cpu"))


def ask():
    picture = Image.new("RGB", (96, 96), "red")
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Look."}]}]


def escaped(text: str) -> str:
    """`text` as a template's writer puts it: every underscore, and every backslash before one, behind a backslash."""
    out = ""
    for i, character in enumerate(text):
        before_underscore = character == "\\" and text[i:].lstrip("\\").startswith("_")
        out += "\\" + character if character == "_" or before_underscore else character
    return out


def random_template(rng: random.Random) -> tuple[str, list[str]]:
    """A template as written, and its text before, between and behind the holes, spaces before holes included."""
    literals = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 9))) for _ in range(rng.randint(2, 4))]
    literals[0], literals[-1] = rng.choice(["", literals[0]]), rng.choice(["", literals[-1]])
    written = escaped(literals[0])
    for literal in literals[1:]:
        written += "\\" * (len(written) - len(written.rstrip("\\")))  # right before a hole, two are one of text
        written += rng.choice(["__2__", "__3__", "__5__"]) + escaped(literal)
    return written, literals


def check_kept(template: Template, literals: list[str], trace) -> None:
    """The answer is the literal text to the letter, with something in every hole."""
    text, fillings = template.text(trace), template.fillings(trace)
    rest = text
    for i, filling in enumerate(fillings):
        spaced = literals[i].endswith(" ")
        before = literals[i][:-1] if spaced else literals[i]
        assert rest.startswith(before)
        rest = rest[len(before) :]
        assert rest.startswith(filling) and filling.startswith(" ") == spaced
        assert filling.strip() and len(filling.splitlines()) == 1 and "<|" not in filling
        rest = rest[len(filling) :]
    assert rest == literals[-1]
    assert text.startswith(literals[0]) and all(literal in text for literal in literals)
    ids = trace.canvas()
    assert None not in ids and trace.decode(ids) == text  # the tokens themselves say the same
    assert not set(ids) & {*trace.model["eos_token_ids"], trace.model["mask_token_id"]}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_random_model_keeps_random_templates_to_the_letter(tiny, strategy, temperature):
    run, tokenizer = tiny
    rng = random.Random(f"{strategy} {temperature}")
    for prompt in prompts(4):
        written, literals = random_template(rng)
        template = parse_template(written, tokenizer)
        config = DecodingConfig(block_size=8, steps=4, strategy=strategy, temperature=temperature, seed=7)
        check_kept(template, literals, run(template, config, prompt))


@pytest.mark.parametrize("strategy", ["low_confidence_static", "factor", "random"])
def test_the_bundled_model_keeps_templates_to_the_letter(engine, strategy):
    rng = random.Random(3)
    tokenizer = engine.processor.tokenizer
    written = [random_template(rng) for _ in range(3)]
    written.append(("The __1__ is left of the __1__.", ["The ", " is left of the ", "."]))
    for text, literals in written:
        template = parse_template(text, tokenizer)
        config = engine.config(steps=4, strategy=strategy, max_new_tokens=len(template.canvas.tokens))
        trace = engine.answer(ask(), config, canvas=template.canvas)
        assert trace.finish_reason == "length" and trace.length == len(template.canvas.tokens)
        check_kept(template, literals, trace)
    assert all(len(word.split()) == 1 for word in template.fillings(trace))


def test_without_the_rules_the_models_would_propose_what_a_hole_cant_take(tiny):
    """The rules bind: the same holes without them get ends, line breaks, or words without their space."""
    run, tokenizer = tiny
    template = parse_template("a ___ b ___ c", tokenizer)
    bare = Template(Canvas(template.canvas.tokens), template.holes, template.literals, tokenizer)
    free = [bare.fillings(run(bare, DecodingConfig(), prompt)) for prompt in prompts(6)]
    assert any(not filling.startswith(" ") for fillings in free for filling in fillings)


@pytest.mark.parametrize(
    ("written", "literals", "widths"),
    [
        ("The ___ is red.", ["The", " is red."], [2]),
        ("__ and ______", ["", " and", ""], [2, 2]),
        ("a __3__, b __12__", ["a", ", b", ""], [3, 12]),
        ('{"colour": "___", "count": __1__}', ['{"colour": "', '", "count":', "}"], [2, 1]),
        (r"snake_case ___", ["snake_case", ""], [2]),
        (r"\_\_init\_\_ = ___", ["__init__ =", ""], [2]),
        (r"\___", ["_", ""], [2]),
        (r"\\___", ["\\", ""], [2]),
        (r"\\\___", ["\\_", ""], [2]),
        (r"\n and \\n ___", ["\\n and \\\\n", ""], [2]),
        ("a  ___ \n___", ["a ", " \n", ""], [2, 2]),
        ("__ 3 __", ["", " 3", ""], [2, 2]),
        ("<|im_end|> <image> ___", ["<|im_end|> <image>", ""], [2]),
    ],
)
def test_how_a_template_is_written(tiny, written, literals, widths):
    _, tokenizer = tiny
    template = parse_template(written, tokenizer)
    assert list(template.literals) == literals
    assert [hole.end - hole.start for hole in template.holes] == widths
    open_cells = [p for hole in template.holes for p in range(hole.start, hole.end)]
    assert [p for p, token in enumerate(template.canvas.tokens) if token is None] == open_cells
    assert not {256, EOS, MASK, 259} & set(template.canvas.tokens)  # what spells a control token is plain text
    assert template.canvas.template and sorted(p for f in template.canvas.fills for p in f.positions) == open_cells


def test_a_hole_asks_for_what_fits_its_place(tiny):
    _, tokenizer = tiny
    template = parse_template("a __1__ b__3__", tokenizer)
    allowed = {p: fill.ids for fill in template.canvas.fills for p in fill.positions}
    (only, (first, inner, last)) = (range(hole.start, hole.end) for hole in template.holes)
    text = {i: token_bytes(tokenizer, i).decode("utf-8", "replace") for i in range(VOCABULARY)}
    assert {text[i] for i in allowed[only[0]]} == {" star", " red", " blue,", " A", " _"}
    assert all(not text[i][0].isspace() for i in allowed[first])
    assert {" star", "star", " ", "  "} <= {text[i] for i in allowed[inner]}
    assert " star" in {text[i] for i in allowed[last]} and " " not in {text[i] for i in allowed[last]}
    for ids in allowed.values():
        assert not any("\n" in text[i] or "<|" in text[i] for i in ids)


def test_qwens_tokenizer_has_fillers_too():
    tokenizer = qwen_tokenizer()
    template = parse_template("The __1__ is a\u0301 __2__", tokenizer)
    allowed = {p: fill.ids for fill in template.canvas.fills for p in fill.positions}
    pieces = {token_bytes(tokenizer, i) for i in allowed[template.holes[0].start]}
    assert b" picture" in pieces and all(piece.startswith(b" ") and piece.strip() for piece in pieces)
    controls = {"<|im_end|>", "<|mask|>", "<|image_pad|>", "<tool_call>"}
    assert not {tokenizer.convert_tokens_to_ids(token) for token in controls} & set().union(*allowed.values())
    ids = [next(iter(allowed[p])) if t is None else t for p, t in enumerate(template.canvas.tokens)]
    assert "is a\u0301 " in template.text(ids)  # as it was typed, although the tokenizer composes the letter


def test_text_of_an_unfinished_answer_and_of_a_foreign_one(tiny):
    _, tokenizer = tiny
    template = parse_template("a ___ b.", tokenizer)
    ids = list(template.canvas.tokens)
    assert template.text(ids) == "a __ b."
    ids[2] = tokenizer.convert_tokens_to_ids("star")
    assert template.text(ids) == "a _star b." and template.fillings(ids) == [" _star"]
    with pytest.raises(ValueError, match="not an answer to this template"):
        template.text([ids[1], *ids[1:]])
    with pytest.raises(ValueError, match="not an answer to this template"):
        template.text(ids[:-1])


@pytest.mark.parametrize(
    ("written", "settings", "says"),
    [
        ("nothing to fill", {}, "no hole: write ___"),
        ("", {}, "no hole"),
        (r"\_\_ only text", {}, "no hole"),
        ("a __33__", {}, "1 to 32 tokens, not 33"),
        ("a __0__", {}, "1 to 32 tokens, not 0"),
        ("a __99999999999__", {}, "1 to 32 tokens, not 10000"),
        ("a ___", {"hole_tokens": 40}, "1 to 32 tokens, not 40"),
        ("abcdefgh ___", {"max_new_tokens": 9}, "longer than the 9 tokens"),
        ("\\" * 100_000 + "___", {"max_new_tokens": 512}, "longer than the 512 tokens"),
    ],
)
def test_what_is_refused_says_what_to_do(tiny, written, settings, says):
    _, tokenizer = tiny
    with pytest.raises(ValueError, match=says):
        parse_template(written, tokenizer, **settings)
    assert parse_template("abcdefgh ___", tokenizer, max_new_tokens=10)


def test_the_block_size_that_covers_a_template(tiny):
    _, tokenizer = tiny
    template = parse_template("abcd ___ efg", tokenizer)  # 10 positions
    length = len(template.canvas.tokens)
    for prompt_tokens in range(1, 70):
        size = covering_block_size(template, prompt_tokens)
        last = prompt_tokens + length - 1

        def whole(n, first=prompt_tokens, last=last):
            return first // n == last // n

        assert whole(size) and not any(whole(n) for n in range(1, size))
    assert covering_block_size(template, 0) == covering_block_size(template, length) == length


def test_a_hole_sees_text_to_its_right_only_inside_its_own_block(tiny):
    run, tokenizer = tiny
    prompt = prompts(1)[0][:5] + [3] * 3
    one, two = (parse_template(f"ab __2__ cdefghi{end}", tokenizer) for end in ("jk", "zy"))
    covering = covering_block_size(one, len(prompt))
    small = [run(t, DecodingConfig(block_size=8, steps=8), prompt).steps[0].confidences for t in (one, two)]
    large = [run(t, DecodingConfig(block_size=covering, steps=8), prompt).steps[0].confidences for t in (one, two)]
    assert small[0] == small[1] and large[0] != large[1]


def test_fills_of_a_canvas_are_checked(tiny):
    run, tokenizer = tiny
    for fills, says in (
        ((Fill(frozenset({2}), frozenset({1})),), "position 2"),
        ((Fill(frozenset({1}), frozenset()),), "at least one id"),
        ((Fill(frozenset({1}), frozenset({1})), Fill(frozenset({0, 1}), frozenset({2}))), "two fills name position 1"),
    ):
        with pytest.raises(ValueError, match=says):
            Canvas((None, None), fills=fills)
    template = parse_template("a ___", tokenizer)
    with pytest.raises(ValueError, match="reference_compatible must be False"):
        run(template, DecodingConfig(reference_compatible=True), prompts(1)[0])


def test_every_row_of_a_batch_keeps_the_template():
    model, tokenizer = tiny_model(seed=4), tiny_tokenizer()
    template = parse_template("The ___ is left of ___, ok", tokenizer)
    rows = prompts(5)
    settings = dict(block_size=8, steps=3, temperature=0.7, canvas=template.canvas)
    batch = model.generate(**padded(rows), **settings).answers
    assert batch == [model.generate(torch.tensor([row]), **settings).answers[0] for row in rows]
    for answer in batch:
        text = template.text(answer)
        assert text.startswith("The ") and " is left of " in text and text.endswith(", ok")
