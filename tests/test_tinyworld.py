"""TinyWorld: deterministic, its splits apart, its answers right, its tokenizer able to write anything."""

import json
import random
from functools import cache

import numpy as np
import pytest
from PIL import Image

from dvl_core.tinyworld import KINDS, TASKS, draw, render, sample, sample_picture, split_of, task_sample
from dvl_core.tinyworld.examples import EASY, EXAMPLES, SIZE, picture_of, write_examples
from dvl_core.tinyworld.labels import HEADS, THIRDS, patch_labels
from dvl_core.tinyworld.pictures import CANVAS, PLACES, Chart, Scene, Shape, Style, Sudoku, Sum, Table, Text
from dvl_core.tinyworld.questions import ask, caption, tasks_of
from dvl_core.tinyworld.sampling import rng_for, sample_sudoku, solutions
from dvl_core.tinyworld.tokenizer import SPECIALS, answer_encoder, build_tokenizer
from dvl_core.tinyworld.wordings import OTHER_WORDINGS, QUESTIONS, UNKNOWN
from dvl_core.training.data import DRAWN_AT, StageData, TinyWorldBatches, picture_bytes
from dvl_core.training.packing import Packer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(samples=500)


def test_a_seed_gives_the_same_sample_and_pixels():
    one, two = sample("train", 7), sample("train", 7)
    assert one == two
    assert np.array_equal(np.asarray(draw(one.picture)), np.asarray(draw(two.picture)))
    assert sample("train", 8) != one


def test_known_sample_has_not_changed():
    """The bundled model was trained on these; a change here means that it must be trained again."""
    picture, question, answer = task_sample("read", "test", 3)
    assert (picture.lines, question, answer) == (("you",), "Read the words.", '"you"')


def test_splits_share_no_content():
    train = {sample("train", seed).picture.content for seed in range(3000)}
    test = {sample("test", seed).picture.content for seed in range(1500)}
    assert not train & test
    assert all(split_of(sample("test", seed).picture) == "test" for seed in range(200))
    assert rng_for("train", 1).random() != rng_for("test", 1).random()


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind(kind):
    for seed in range(50):
        picture = sample_picture(rng_for("train", seed), "train", kind)
        image, marks = render(picture, 2 * CANVAS)
        assert image.mode == "RGB" and max(image.size) == 2 * CANVAS
        assert len(image.getcolors(100_000)) > 1
        labels = patch_labels(marks)
        assert {name: grid.max() < HEADS[name] for name, grid in labels.items()} == dict.fromkeys(HEADS, True)
        assert kind == "other" or any(labels[name].any() for name in (*THIRDS, "shape"))
        assert caption(picture)


def test_marks_are_where_the_ink_is():
    """A red circle on white, in a turned picture that is not square: its mark lies on red pixels."""
    style = Style(turn=5.0, aspect=1.5)
    scene = Scene((Shape("circle", "red", "small", 2, radius=0.2),), style)
    image, marks = render(scene, 3 * CANVAS)
    place = next(m for m in marks if m.what == "shape")
    left, top = ((CANVAS * 3 - side) / 2 for side in image.size)  # marks are on the square canvas
    red, green, _ = image.getpixel((round(place.x * 3 - left), round(place.y * 3 - top)))
    assert red > 150 and green < 100


def test_marks_say_where_they_stand_in_the_pictures_own_order():
    """Turned, narrow or small: the third character of the second line is that, and a bar is counted from the left."""
    style = Style(turn=4.0, aspect=1.4)
    _, marks = render(Text(("SALE", "TODAY"), "red", fill=0.7, style=style))
    glyphs = [(m.value, m.at) for m in marks if m.what == "glyph"]
    assert glyphs == [(c, (line, slot)) for line, word in enumerate(("SALE", "TODAY")) for slot, c in enumerate(word)]

    _, marks = render(Scene((Shape("star", "blue", "large", 5),), style))
    assert {m.at for m in marks} == {(1, 2)}

    chart = Chart("bar", "", ("K", "B"), (3, 7), ("red", "blue"), ticks=False, grid=False)
    _, marks = render(chart)
    assert {m.value: m.at[1] for m in marks if m.what == "glyph"} == {"K": 0, "B": 1}
    assert {m.at[1]: m.value for m in marks if m.what == "height"} == {0: 3, 1: 7}

    labels = patch_labels(marks)
    for slot, height in ((1, 3), (2, 7)):
        bar = (labels["height"] > 0) & (labels["slot"] == slot)
        assert bar.sum() >= 2 and set(labels["height"][bar]) == {height}


@pytest.mark.parametrize("examples", [EXAMPLES, EASY], ids=["usual", "easy"])
def test_examples_are_unseen_pictures_with_right_answers(tmp_path, examples):
    write_examples(tmp_path, examples)
    entries = json.loads((tmp_path / "examples.json").read_text())
    assert [entry["image"] for entry in entries] == [example.file for example in examples]
    for entry, example in zip(entries, examples, strict=True):
        assert split_of(picture_of(example)) == "test" and entry["answer"]
        with Image.open(tmp_path / entry["image"]) as image:
            assert max(image.size) == SIZE
    count = next(entry for entry in entries if entry["image"] == "count.png")
    red = [s for s in picture_of(examples[1]).shapes if s.colour == "red"]
    number = {1: "one red shape", 2: "two red shapes", 3: "three red shapes"}[len(red)]
    assert count["answer"].endswith(f"That makes {number}.")


@pytest.mark.parametrize("kind", KINDS)
def test_easy_pictures_hold_less_and_can_be_asked_about(kind):
    """A curriculum begins with them: their contents belong to the split too, and every task has its answer."""
    for seed in range(40):
        rng = rng_for("train", seed)
        picture = sample_picture(rng, "train", kind, easy=True)
        assert split_of(picture) == "train" and (kind == "other" or picture.style.turn == 0)
        render(picture, CANVAS)
        for task in tasks_of(picture):
            turn = ask(rng, picture, task)
            assert turn is None or all(turn)
        if isinstance(picture, Scene):
            assert len(picture.shapes) <= 3
        if isinstance(picture, Text):
            assert 1 <= len(picture.text) <= 6 and picture.colour != "white"
        if isinstance(picture, Chart):
            assert picture.values.count(max(picture.values)) == 1 == picture.values.count(min(picture.values))
            assert max(picture.values) <= 9 and len(picture.values) == len(picture.colours) == 3
        if isinstance(picture, Sudoku):
            assert 1 <= picture.blanks <= 6
            fitting = [s for s in solutions() if all(g in (0, d) for g, d in zip(picture.givens, s, strict=True))]
            assert fitting == [picture.solution]
        if isinstance(picture, Sum):
            assert 0 <= picture.result and min(picture.first, picture.second) <= 9


def test_a_curriculum_ends_with_the_whole_world(tokenizer):
    """Samples at its beginning are easy ones, samples behind its end are what they are without it."""
    assert sample("train", 5, easy=1.0).picture == sample("train", 5, easy=1.0).picture
    easy = [sample("train", seed, easy=1.0).picture for seed in range(60)]
    assert all(len(p.shapes) <= 3 for p in easy if isinstance(p, Scene))
    assert sample("train", 5, easy=0.0) == sample("train", 5)
    rows = TinyWorldBatches(StageData("autoregressive", 1, 256, first_seed=100, easy=50), tokenizer)
    plain = TinyWorldBatches(StageData("autoregressive", 1, 256, first_seed=100), tokenizer)
    packer = Packer(tokenizer, 64, 8, 256, False)
    pictures = [[data._row(seed, packer)["pictures"] for seed in range(100, 160)] for data in (rows, plain)]
    same = [np.array_equal(one, other) for one, other in zip(*pictures, strict=True)]
    assert sum(same[:20]) <= 5 and all(same[50:])


def test_a_stage_of_easy_pictures_has_no_others(tokenizer):
    only = TinyWorldBatches(StageData("autoregressive", 1, 256, first_seed=100, only_easy=True), tokenizer)
    packer = Packer(tokenizer, 64, 8, 256, False)
    for seed in range(100, 110):
        shown, _ = picture_bytes(sample("train", seed, 6, easy=1.0).picture, DRAWN_AT[seed % len(DRAWN_AT)])
        assert np.array_equal(only._row(seed, packer)["pictures"], shown)
    for setting in ({"easy": 5}, {"pages": 0.5}, {"wild": 0.3}):
        with pytest.raises(ValueError, match="only_easy=True leaves nothing for easy, pages and wild"):
            StageData("vision", only_easy=True, **setting)
    picture, _, _ = task_sample("caption", "test", 3, easy=True)
    assert len(picture.shapes) <= 3 and split_of(picture) == "test"


def test_sudokus_have_one_solution():
    assert len(solutions()) == 288
    for seed in range(100):
        puzzle = sample_picture(rng_for("train", seed), "train", "sudoku")
        fitting = [s for s in solutions() if all(g in (0, d) for g, d in zip(puzzle.givens, s, strict=True))]
        assert fitting == [puzzle.solution]


@pytest.mark.parametrize("task", TASKS)
def test_tasks_ask_in_several_wordings(task):
    asked = {task_sample(task, "test", seed)[1].lower().rstrip("?.") for seed in range(120)}
    assert len(asked) >= len(QUESTIONS[TASKS[task][1]])


def test_sudokus_have_the_blanks_they_were_asked_for():
    for wanted in (3, 8, 11):
        blanks = [sample_sudoku(random.Random(seed), wanted).blanks for seed in range(20)]
        assert max(blanks) == wanted and sum(b == wanted for b in blanks) >= 10


def test_answers_say_what_the_picture_holds():
    for seed in range(50):
        picture, _, answer = task_sample("reversed", "test", seed)
        assert answer == f'"{picture.text[::-1]}"'
        picture, _, answer = task_sample("sudoku", "test", seed)
        assert isinstance(picture, Sudoku) and answer.replace("\n", "") == "".join(map(str, picture.solution))
        picture, _, answer = task_sample("largest", "test", seed)
        assert answer.startswith(f'"{picture.labels[picture.values.index(max(picture.values))]}" ')
        picture, question, answer = task_sample("place", "test", seed)
        found = [s for s in picture.shapes if answer == f"A {s.size} {s.colour} {s.kind}."]
        assert found or answer == "Nothing is there."
        picture, _, answer = task_sample("value", "test", seed)
        assert answer in [f'"{k}" has the value {v}.' for k, v in zip(picture.labels, picture.values, strict=True)]
        assert task_sample("other", "test", seed)[2] == UNKNOWN


SCENE = Scene((Shape("star", "red", "large", 0), Shape("circle", "red", "small", 2), Shape("star", "blue", "small", 6)))


@pytest.mark.parametrize(("task", "question", "answer"), [
    ("count", "how many red shapes are there", "Top left, top right. That makes two red shapes."),
    ("count", "how many stars are there", "Top left, bottom left. That makes two stars."),
    ("count", "how many shapes are there", "Top left, top right, bottom left. That makes three shapes."),
    ("exists", "is there a red star", "Yes: top left."),
    ("exists", "is there a blue circle", "No."),
    ("where", "where is the circle", "At the top right."),
    ("colour", "what colour is the circle", "The circle at the top right is red."),
    ("beside", "what is left of the circle", "The circle is at the top right. Left of it is a large red star."),
    ("beside", "what is below the red star", "The red star is at the top left. Below it is a small blue star."),
    ("beside", "what is right of the circle", "The circle is at the top right. Right of it is nothing."),
])
def test_lookups_by_content(task, question, answer):
    assert asked(task)[question] == answer


@cache
def asked(task):
    turns = filter(None, (ask(random.Random(seed), SCENE, task) for seed in range(4000)))
    return {question.lower().rstrip("?."): answer for question, answer in turns}


def test_a_name_that_fits_two_shapes_is_never_asked_for():
    for seed in range(300):
        question, _ = ask(random.Random(seed), SCENE, "where")
        assert "the star" not in question and "the red shape" not in question


def test_what_can_not_be_asked_of_a_picture_is_left_out():
    twins = Scene((Shape("star", "red", "large", 0), Shape("star", "red", "small", 1)))
    assert ask(random.Random(0), twins, "where") is None
    assert PLACES[0] in ask(random.Random(0), twins, "caption")[1]


def test_some_conversations_have_two_turns():
    turns = [len(talk) for seed in range(400) for talk in sample("train", seed).conversations]
    assert set(turns) == {1, 2} and 0.1 < turns.count(2) / len(turns) < 0.3


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="nope"):
        task_sample("nope", "test", 0)
    with pytest.raises(ValueError, match="validation"):
        sample("validation", 0)
    with pytest.raises(ValueError, match="size=10"):
        draw(sample("train", 0).picture, 10)


def test_tokenizer_writes_any_text(tokenizer):
    for text in ("Ünïcode 😀 \t tabs\n\nand  spaces", "if (x < 3) { return; }", "K7Q2", "日本語"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_tokenizer_keeps_characters_and_words_whole(tokenizer):
    assert len(tokenizer("K7Q2ZZ").input_ids) == 6
    assert len(tokenizer(" large red circle").input_ids) == 3
    assert len(tokenizer("cloudy").input_ids) == 6  # not a word of TinyWorld's own: spelt
    header = tokenizer("<|im_start|>user\n").input_ids
    assert len(header) == 3 and len(tokenizer("\n").input_ids) == 1
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2, 3, 4]
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.mask_token == "<|mask|>"


def test_what_was_read_off_a_picture_is_spelt(tokenizer):
    encode = answer_encoder(tokenizer)
    ids = encode('The title is "red circle".')
    assert tokenizer.decode(ids) == 'The title is "red circle".'
    assert [tokenizer.decode([i]) for i in ids[-13:-1]] == list('"red circle"')


def test_tokenizer_is_deterministic(tokenizer):
    assert build_tokenizer(samples=500).get_vocab() == tokenizer.get_vocab()


def test_wild_pictures_are_drawn_as_they_are_asked_about():
    """Every character of a wild picture is marked, inside the picture, and the answers name its words."""
    looks = ("sideways", "framed", "striped", "scaled", "inside", "percent")
    seen, asked = set(), set()
    for seed in range(300):
        drawn = sample("train", seed, 6, wild=1.0)
        picture = drawn.picture
        assert split_of(picture) == "train"
        image, marks = render(picture, 192)
        assert image.mode == "RGB" and all(-1 <= m.x <= CANVAS + 1 and -1 <= m.y <= CANVAS + 1 for m in marks)
        written = {m.value for m in marks if m.what == "glyph"}
        if isinstance(picture, Chart):
            assert set("".join(picture.labels)) <= written
            assert picture.top == 0 or picture.top >= max(picture.values)
        if isinstance(picture, Table):
            assert set("".join((*picture.header, *(name for name, _ in picture.rows)))) - {" "} <= written
        for (*_, (_, answer)), task in zip(drawn.conversations, drawn.tasks, strict=True):
            if task == "largest" and isinstance(picture, Chart):
                assert f'"{picture.labels[picture.values.index(max(picture.values))]}"' in answer
        style = picture.style
        seen |= {name for name in ("edge", "wobble", "panel") if getattr(style, name)}
        seen |= {name for name in looks if getattr(picture, name, False)}
        asked |= {turns[-1][0].rstrip(".?").lower() for turns in drawn.conversations}
    assert seen == {"edge", "wobble", "panel", *looks}
    for task in ("read", "sum", "caption"):  # asked about in other words, too, as the test split is not
        others = {wording.rstrip(".?").lower() for wording in OTHER_WORDINGS[task]}
        assert asked & others and not {wording.rstrip(".?").lower() for wording in QUESTIONS[task]} & others


def test_the_test_split_has_no_wild_pictures():
    with pytest.raises(ValueError, match="wild=0.5: only the training split"):
        sample("test", 1, wild=0.5)
