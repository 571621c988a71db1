"""Hiding part of a picture, and telling which tokens of the answer changed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from traces import END, made_up_trace

from dvl_core.occlusion import FILLS, Change, compare, occlude


def picture(width=40, height=20) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("fill", FILLS)
def test_a_region_is_painted_over_and_nothing_else(fill):
    before = picture()
    kept = np.asarray(before).copy()
    after = np.asarray(occlude(before, (0.25, 0.5, 0.5, 1.0), fill))
    colour = (128, 128, 128) if fill == "gray" else np.round(kept.mean((0, 1)))
    hidden = np.zeros((20, 40), dtype=bool)
    hidden[10:20, 10:20] = True
    assert (after[hidden] == colour).all() and (after[~hidden] == kept[~hidden]).all()
    assert (np.asarray(before) == kept).all()


def test_every_pixel_the_region_touches_is_hidden():
    plain = Image.new("RGB", (10, 10), "white")
    after = np.asarray(occlude(plain, (0.11, 0.0, 0.19, 0.05), "gray"))
    assert {(x, y) for y, x in np.argwhere(after[..., 0] == 128)} == {(1, 0)}
    assert (np.asarray(occlude(plain, (0, 0, 1, 1), "gray")) == 128).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"region": (0.5, 0, 0.5, 1)}, "left < right"),
        ({"region": (0, 0, 1.2, 1)}, "from 0 to 1"),
        ({"region": (0, float("nan"), 1, 1)}, "from 0 to 1"),
        ({"fill": "blur"}, "fill must be one of mean, gray"),
        ({"picture": Image.new("RGBA", (4, 4))}, "mode RGB"),
    ],
)
def test_what_cant_be_hidden_is_named(change, says):
    with pytest.raises(ValueError, match=says):
        occlude(**{"picture": picture(), "region": (0, 0, 1, 1)} | change)


def test_answers_are_compared_position_by_position():
    before = made_up_trace([" a", " red", " star", "."], 16)
    after = made_up_trace([" a", " blue", " star", " and", " more", "."], 16, seed=1)
    # both tables give out ids by first occurrence: bring them to the same words
    table = {v: k for k, v in before.vocabulary.items()}
    fresh = iter(range(500, 600))
    renamed = {i: END if i == END else table.get(word, next(fresh)) for i, word in after.vocabulary.items()}
    for step in after.steps:
        step.proposals = [renamed[i] for i in step.proposals]
    changes = compare(before, after)
    assert [change.position for change in changes] == [1, 3, 4, 5]
    one, two = before.canvas(), after.canvas()
    for change in changes:
        reaches = change.position < 4
        assert (change.before, change.after) == (one[change.position] if reaches else None, two[change.position])
    sure = {p: c for s in after.steps for p, c in zip(s.masked, s.confidences, strict=True) if p in s.revealed}
    assert [change.confidence_after for change in changes] == [sure[change.position] for change in changes]
    assert changes[1].confidence_before is not None and changes[2].confidence_before is None
    assert [(c.before, c.after) for c in compare(after, before)] == [(c.after, c.before) for c in changes]
    assert compare(before, before) == []


def test_a_stopped_answer_and_given_tokens():
    whole, stopped = made_up_trace(length=16), made_up_trace(length=16, cut=3)
    settled = {position for step in stopped.steps for position in step.revealed}
    assert {change.position for change in compare(whole, stopped)} == set(range(16)) - settled
    stopped.given = [[15, 100]]
    (change,) = [change for change in compare(whole, stopped) if change.position == 15]
    assert change == Change(15, whole.canvas()[15], 100, change.confidence_before, None)


def test_only_the_picture_may_differ():
    with pytest.raises(ValueError, match="same settings and seed; steps differs"):
        compare(made_up_trace(steps=4), made_up_trace(steps=8))


def test_no_torch_is_needed():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else found(name, *a)\n"
        "import dvl_core.occlusion as o; print(o.FILLS)"
    )
    root = Path(__file__).parents[1]
    assert "mean" in subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout
