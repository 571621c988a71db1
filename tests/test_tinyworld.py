"""TinyWorld: deterministic, its splits apart, its answers right, its tokenizer able to write anything."""

import numpy as np
import pytest

from dvl_core.tinyworld import KINDS, TASKS, draw, sample, sample_picture, split_of, task_sample
from dvl_core.tinyworld.labels import HEADS, patch_labels
from dvl_core.tinyworld.pictures import CANVAS, Scene, Sudoku
from dvl_core.tinyworld.questions import QUESTIONS, caption
from dvl_core.tinyworld.sampling import rng_for, solutions
from dvl_core.tinyworld.tokenizer import SPECIALS, build_tokenizer


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
    picture, question, answer = task_sample("word", "test", 3)
    assert (picture.text, question, answer) == ("PZ8YAE", "What does it say?", "PZ8YAE")


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
        image = draw(picture)
        assert image.mode == "RGB" and image.size == (2 * CANVAS, 2 * CANVAS)
        assert len(image.getcolors(100_000)) > 1
        labels = patch_labels(picture)
        assert {name: grid.max() < HEADS[name] for name, grid in labels.items()} == dict.fromkeys(HEADS, True)
        assert any(grid.any() for grid in labels.values())
        assert caption(picture)


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


def test_answers_say_what_the_picture_holds():
    for seed in range(50):
        picture, _, answer = task_sample("reversed", "test", seed)
        assert answer == picture.text[::-1]
        picture, _, answer = task_sample("sudoku", "test", seed)
        assert isinstance(picture, Sudoku) and answer.replace("\n", "") == "".join(map(str, picture.solution))
        picture, _, answer = task_sample("tallest", "test", seed)
        assert answer.startswith(f"Bar {'ABCDE'[picture.values.index(max(picture.values))]} ")
        picture, question, answer = task_sample("place", "test", seed)
        assert isinstance(picture, Scene)
        found = [s for s in picture.shapes if answer == f"A {s.size} {s.colour} {s.kind}."]
        assert found or answer == "Nothing is there."


def test_some_conversations_have_two_turns():
    turns = [len(talk) for seed in range(400) for talk in sample("train", seed).conversations]
    assert set(turns) == {1, 2} and 0.15 < turns.count(2) / len(turns) < 0.35


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
    header = tokenizer("<|im_start|>user\n").input_ids
    assert len(header) == 3 and len(tokenizer("\n").input_ids) == 1
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2, 3, 4]
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.mask_token == "<|mask|>"


def test_tokenizer_is_deterministic(tokenizer):
    assert build_tokenizer(samples=500).get_vocab() == tokenizer.get_vocab()
