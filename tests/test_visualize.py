"""What is drawn from a trace: no torch, no model, no browser."""

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from traces import PIECES, made_up_trace

from dvl_core.trace import DenoisingTrace, decode_vocabulary
from visualize import page, player, theme
from visualize.heatmap import confidence_figure, confidence_grid, confidence_png
from visualize.player import protocol

ROOT = Path(__file__).parents[1]


def luminance(colour: str) -> float:
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# -- the look --


@pytest.mark.parametrize(("mode", "first", "last"), [("light", 0.62, 0.0), ("dark", 0.40, 1.0)])
def test_the_confidence_scale_is_a_stretch_of_cividis_that_stands_out(mode, first, last):
    palette = theme.PALETTES[mode]
    cividis = matplotlib.colormaps["cividis"]
    for i, colour in enumerate(palette.scale):
        expected = cividis(first + (last - first) * i / 8)[:3]
        assert np.allclose(to_rgb(colour), expected, atol=1.5 / 255)
    contrasts = [contrast(colour, palette.surface) for colour in palette.scale]
    assert min(contrasts) >= 3
    assert contrasts == sorted(contrasts)  # the surer, the stronger


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_is_readable_on_every_background(mode):
    palette = theme.PALETTES[mode]
    for background in (palette.page, palette.surface):
        assert contrast(palette.ink, background) >= 7
        assert contrast(palette.muted, background) >= 4.5
    assert contrast(palette.on_accent, palette.accent) >= 4.5


def test_css_has_every_token_for_both_modes():
    light, dark = theme.css_variables().split("body.dark")
    for part in (light, dark):
        assert all(f"--dvl-scale-{i}:" in part for i in range(9))
        assert all(f"--dvl-{name}:" in part for name in ("ink", "muted", "surface", "accent", "on-accent", "mask"))
    used = set(re.findall(r"var\((--dvl-[\w-]+)\)", player.CSS + page.PAGE_CSS))
    assert used <= set(re.findall(r"(--dvl-[\w-]+):", theme.css_variables()))


# -- the player's files --


def test_the_template_is_static():
    assert not re.search(r"\$\{|\{\{|`|\\", player.TEMPLATE)


def test_the_player_writes_text_and_never_markup():
    script = player.LIVE_SCRIPT + page.EXAMPLES_SCRIPT
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "className +=",
    ):
        assert way not in script
    assert "http:" not in script and "https:" not in script


def test_every_slot_the_script_uses_is_in_the_template():
    assert set(re.findall(r'slot\["([\w-]+)"\]', player.SCRIPT)) <= set(
        re.findall(r'data-slot="([\w-]+)"', player.TEMPLATE)
    )


def test_hostile_example_texts_stay_text():
    example = {"image": "a.png", "question": '${alert(1)} {{x}} "><img src=x onerror=alert(1)> `'}
    template = page.examples_template([example])
    assert "${" not in template and "{{" not in template and "<img src" not in template and "`" not in template


def test_the_chat_escapes_what_people_and_models_wrote():
    shown = page.transcript(
        [{"role": "user", "text": "<b>1 & 2</b>", "shown": "/tmp/a.png"}, {"role": "assistant", "text": ""}]
    )
    assert shown[0]["content"]["path"] == "/tmp/a.png"
    assert shown[1]["content"] == "&lt;b&gt;1 &amp; 2&lt;/b&gt;"
    assert shown[2] == {"role": "assistant", "content": "(empty)"}


# -- messages --


def replay(messages) -> DenoisingTrace:
    """A trace built from messages as the player builds its run."""
    data = {}
    steps, vocabulary = {}, {}
    for message in messages:
        data |= message.get("header", {})
        vocabulary |= message.get("vocabulary", {})
        if "prefill_milliseconds" in message:
            data["prefill_milliseconds"] = message["prefill_milliseconds"]
        told = message.get("steps", [])
        for i, step in enumerate(json.loads(told) if isinstance(told, str) else told):
            steps[message["seq"] + i] = step
        if "done" in message:
            data["finish_reason"] = message["done"]["reason"]
            assert message["done"]["steps"] == len(steps)
    return DenoisingTrace.from_json(data | {"vocabulary": vocabulary, "steps": [steps[k] for k in sorted(steps)]})


def live_messages(trace: DenoisingTrace):
    growing = DenoisingTrace(**{**vars(trace), "steps": [], "finish_reason": None, "vocabulary": {}})
    growing.prefill_milliseconds = 0.0
    yield protocol.header_message("r", growing)
    growing.prefill_milliseconds = trace.prefill_milliseconds
    while len(growing.steps) < len(trace.steps):
        number = len(growing.steps) + 1
        come = trace.steps[number - 1 : number + number % 3]  # one, two or three at once
        new = {t: trace.vocabulary[t] for step in come for t in step.proposals if t not in growing.vocabulary}
        growing.vocabulary |= new
        growing.steps += come
        yield protocol.steps_message("r", growing, number, come, new)
    growing.finish_reason = trace.finish_reason
    yield protocol.done_message("r", growing)


def test_live_messages_carry_the_whole_trace_and_stay_small():
    trace = made_up_trace()
    messages = list(live_messages(trace))
    rebuilt = replay(messages)
    assert rebuilt.text == trace.text and "猫" in trace.text and "😀" in trace.text
    assert [s.to_json() for s in rebuilt.steps] == [s.to_json() for s in trace.steps]
    assert rebuilt.prefill_milliseconds == trace.prefill_milliseconds
    assert max(len(repr(m)) for m in messages[1:]) < 1500


@pytest.mark.parametrize("lost_from", [0, 1, 7, 40])
def test_a_player_that_lost_messages_is_given_the_rest(lost_from):
    trace = made_up_trace()
    received = list(live_messages(trace))[: lost_from + 1] if lost_from else []
    rebuilt = replay([*received, protocol.missing_message("r", trace, lost_from)])
    assert rebuilt.canvas() == trace.canvas() and rebuilt.finish_reason == "eos"


def test_messages_leave_the_pictures_pixels_out():
    from dvl_core.trace import TraceImage

    trace = made_up_trace()
    trace.images = [TraceImage(10, 10, [1, 1], [0, 0, 10, 10], data="data:image/png;base64,AAAA")]
    for message in (protocol.header_message("r", trace), protocol.missing_message("r", trace, 0)):
        assert message["header"]["images"][0]["data"] is None
    assert protocol.trace_message("r", trace)["trace"]["images"][0]["data"] is None
    assert trace.images[0].data


def test_given_tokens_come_with_their_text():
    trace = made_up_trace()
    trace.given, trace.steps = [[3, 100]], []
    message = protocol.header_message("r", trace)
    assert decode_vocabulary(message["vocabulary"]) == {100: trace.vocabulary[100]}


# -- the heatmap --


def test_the_grid_holds_every_confidence_where_it_belongs():
    trace = made_up_trace(length=40, block_size=8, steps=4)
    grid, revealed, bounds = confidence_grid(trace)
    assert grid.shape == (4, 40) and bounds == [0, 8, 16, 24, 32]
    for step in trace.steps:
        assert np.array_equal(grid[step.step, step.masked], step.confidences)
    assert np.isfinite(grid).sum() == sum(len(step.masked) for step in trace.steps)
    assert sorted(p for _, p in revealed) == list(range(40))
    assert all(np.isfinite(grid[s, p]) for s, p in revealed)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_figure_says_what_it_shows(mode):
    trace = made_up_trace()
    trace.model["name"] = "a $model$ name"
    figure = confidence_figure(trace, mode)
    axes, bar = figure.axes
    question, about = axes.get_title(loc="left").split("\n")
    assert question == "What is in the picture?" and about.startswith("a $model$ name")
    assert "position" in axes.get_xlabel() and "step" in axes.get_ylabel() and bar.get_ylabel() == "confidence"
    assert len(axes.lines) == len({s.block for s in trace.steps}) - 1  # one dotted line per block boundary
    (cells,) = [drawn for drawn in axes.collections if drawn.get_array() is not None]
    assert cells.get_clim() == (0, 1)
    assert sorted(cells.get_array()) == sorted(value for step in trace.steps for value in step.confidences)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_png_is_a_picture_with_the_scale_in_it(mode, tmp_path):
    file = tmp_path / "heat.png"
    file.write_bytes(confidence_png(made_up_trace(), mode))
    picture = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3) / 255
    palette = theme.PALETTES[mode]
    assert np.allclose(picture[0], to_rgb(palette.surface), atol=1 / 255)
    for colour in (palette.scale[0], palette.scale[-1]):
        assert (np.abs(picture - to_rgb(colour)).max(1) < 2 / 255).sum() > 20


@pytest.mark.parametrize("trace", [made_up_trace(cut=0), made_up_trace(cut=1), made_up_trace(PIECES * 12, 400, 64, 64)])
def test_odd_runs_are_drawn_too(trace):
    assert confidence_png(trace).startswith(b"\x89PNG")


def test_visualize_needs_neither_torch_nor_gradio():
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'gradio'): sys.modules[name] = None\n"
        "import traces\n"
        "from visualize import page, player, theme\n"
        "from visualize.heatmap import confidence_png\n"
        "from visualize.player import protocol\n"
        "trace = traces.made_up_trace()\n"
        "assert len(confidence_png(trace)) > 5000 and protocol.trace_message('r', trace)['trace']['text']\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": ""},
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr.decode()
