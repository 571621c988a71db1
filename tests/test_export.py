"""What can be taken home of a run: the animation, the print, the figures, the table, the command.

The page has tests of its own, in `test_export_page.py`.
"""

import base64
import csv
import io
import itertools
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_traces import HOSTILE, branched_trace, hostile_trace, observed, picture, written
from PIL import Image
from traces import END, PIECES, made_up_trace

from dvl_core.trace import DenoisingTrace
from visualize import heatmap, theme
from visualize.export import FORMATS, animation, format_of
from visualize.export.card import Card, rgb
from visualize.export.flow import flow
from visualize.export.pictures import open_pictures, picture_uris
from visualize.export.states import AHEAD, Cell, canvases, finished
from visualize.export.table import COLUMNS, harmless, plain
from visualize.fonts import Typeface, drawable

ROOT = Path(__file__).parents[1]


# -- formats --


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("trace", [branched_trace(), hostile_trace(), made_up_trace(cut=0), made_up_trace(cut=3)])
def test_every_format_is_made_of_every_run(ending, trace):
    begins = {"image/png": b"\x89PNG", "image/gif": b"GIF89a", "image/svg+xml": b"<?xml", "application/json": b"{"}
    begins |= {"text/html; charset=utf-8": b"<!doctype html>", "text/csv; charset=utf-8": b"\xef\xbb\xbfstep,"}
    if ending.startswith("entropy") and all(step.entropies is None for step in trace.steps):
        with pytest.raises(heatmap.NotObserved, match="not observed"):
            FORMATS[ending].make(trace, "dark")
    else:
        assert FORMATS[ending].make(trace, "dark").startswith(begins[FORMATS[ending].media_type])


def test_a_name_tells_its_format_by_the_longest_ending():
    assert format_of("run.PNG") is FORMATS["png"] and format_of("confidence.png") is FORMATS["confidence.png"]
    assert format_of("a.entropy.svg") is FORMATS["entropy.svg"] and format_of("xentropy.svg") is FORMATS["svg"]
    assert format_of("notes.txt") is None and format_of("png.") is None


# -- the canvas as it is drawn --


def test_the_drawn_canvas_is_that_of_the_trace():
    for trace in (made_up_trace(), branched_trace()):
        for canvas in canvases(trace):
            ids = trace.canvas(canvas.count)
            kinds = ["mask" if token is None else "end" if token == END else "known" for token in ids]
            shown = [cell.kind if cell.kind in ("mask", "end") else "known" for cell in canvas.cells]
            assert shown == kinds[: len(shown)]
            assert all(kind == "mask" for kind in kinds[len(shown) :]) or canvas.count == len(trace.steps)
            for position in trace.steps[canvas.count - 1].revealed if canvas.count else ():
                step = trace.steps[canvas.count - 1]
                if position < len(shown):
                    assert canvas.cells[position].confidence == step.confidences[step.masked.index(position)]
        text = "".join(cell.text for cell in finished(trace).cells)
        assert text.strip() == trace.text


def test_a_person_s_token_has_no_confidence_and_masks_come_back():
    trace = branched_trace()
    before, after = list(canvases(trace, [12, 13]))
    assert before.cells[2].kind == "text" and before.cells[5].confidence is not None
    assert after.cells[5].text == before.cells[0].text and after.cells[5].confidence is None
    assert (before.blocks, after.blocks, before.steps, after.steps) == (5, 3, 8, 4)  # blocks: those used


def test_unopened_blocks_are_counted():
    first = next(canvases(made_up_trace(length=64, block_size=8)))
    assert len(first.cells) == 8 * (AHEAD + 1) and first.hidden == 8 - (AHEAD + 1)
    assert {cell.ahead for cell in first.cells} == {0, 1, 2}


def test_text_flows_like_text():
    def lines(cells, width=10):
        placed = flow(cells, width, len, {"mask": 3, "bar": 1, "break": 1, "end": 1, "part": 1})
        rows = itertools.groupby(placed, key=lambda piece: piece.line)
        return ["".join(p.text or f"[{p.kind}]" for p in row) for _, row in rows]

    assert lines([Cell("text", t) for t in ("The", " quick", " bro", "wn", " fox")]) == ["Thequick", "brownfox"]
    assert lines([Cell("text", "a\n\n  b")]) == ["a[break]", "[break]", "b"]
    assert lines([Cell("text", "猫" * 4), Cell("text", "x" * 23)]) == ["猫猫猫猫xxxxxx", "x" * 10, "x" * 7]
    assert lines([Cell("text", "seven77"), Cell("mask", opens=True)]) == ["seven77", "[bar][mask]"]
    assert lines([Cell("mask"), Cell("mask"), Cell("mask"), Cell("mask")]) == ["[mask]" * 3, "[mask]"]
    spaced = flow([Cell("text", "  in")], 10, len, {})
    assert spaced[0].left == 2


def test_fonts_stand_in_for_each_other_and_nothing_is_lost():
    face = Typeface(17)
    text = "word 猫 😀 é \U0010fffd end"
    assert "".join(piece for piece, _ in face.runs(text)) == drawable(text)
    assert face.width(text) > face.width("word") > 0
    assert drawable("a\x00\ud800b\tc\n") == "a□□b c\n"
    assert Typeface(17, mono=True).width("iii") == Typeface(17, mono=True).width("WWW")


def test_the_animation_has_a_frame_per_step_and_holds_the_last():
    trace = made_up_trace(PIECES * 3 + PIECES[:25], 128)
    trace.images = [picture()]
    made = written("run.gif", trace)
    assert len(made) < 1_500_000
    film = Image.open(io.BytesIO(made))
    assert film.info["loop"] == 0
    durations = []
    for index in range(film.n_frames):
        film.seek(index)
        durations.append(film.info["duration"])
    assert film.n_frames == len(animation.frame_counts(len(trace.steps))) and len(trace.steps) > 100
    assert durations[-1] == animation.HOLD and set(durations[:-1]) == {animation.frame_milliseconds(film.n_frames)}


@pytest.mark.parametrize("steps", [0, 1, 119, 120, 121, 512])
def test_frames_go_from_nothing_to_everything(steps):
    counts = animation.frame_counts(steps)
    assert counts[0] == 0 and counts[-1] == steps and len(counts) <= animation.MOST_FRAMES + 1
    assert steps > animation.MOST_FRAMES or counts == list(range(steps + 1))


@pytest.mark.parametrize("mode", theme.PALETTES)
def test_masks_and_underlines_are_drawn_in_the_theme_s_colours(mode):
    trace = made_up_trace()
    palette = theme.PALETTES[mode]
    for count in (0, 20, len(trace.steps)):
        canvas = next(canvases(trace, [count]))
        drawn = np.asarray(Card(trace, mode, 1.0, [canvas], 20).draw(canvas))
        film = Image.open(io.BytesIO(written("run.gif", trace, mode)))
        film.seek(count)
        for picture_ in (drawn, np.asarray(film.convert("RGB"))):
            masks = (np.abs(picture_.astype(int) - rgb(palette.mask)).max(-1) <= 2).sum()
            shown = sum(cell.kind == "mask" and not cell.ahead for cell in canvas.cells)
            assert masks == pytest.approx(shown * 42 * 20, rel=0.05, abs=30)
        levels = {round(c.confidence * 8) for c in canvas.cells if c.confidence is not None and c.text.strip()}
        for level in levels:
            assert (np.abs(drawn.astype(int) - rgb(palette.scale[level])).max(-1) == 0).sum() >= 8


def test_the_print_shows_all_of_a_long_answer_over_its_heatmap():
    trace = made_up_trace(PIECES * 9, 300, 32, 8)
    sheet = Image.open(io.BytesIO(written("run.png", trace)))
    short = Image.open(io.BytesIO(written("run.png", made_up_trace())))
    assert sheet.width == short.width and sheet.height > short.height + 900
    assert round(sheet.info["dpi"][0]) == animation.PRINT_DPI and sheet.width / animation.PRINT_DPI > 6
    film = Image.open(io.BytesIO(written("run.gif", trace)))
    assert film.height < 34 * (animation.MOST_LINES + 7)  # the film scrolls instead


def test_only_small_bitmaps_inside_the_trace_are_shown():
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, "PNG")
    huge = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    trace = made_up_trace()
    good = picture()
    broken = good.data[:2000]
    others = [broken[: len(broken) // 4 * 4], huge, "data:image/svg+xml;base64,AAAA", "http://example.org/a", 7, None]
    trace.images = [good, good, *(replace(good, data=data) for data in others)]
    assert picture_uris(trace)[0] == good.data and picture_uris(trace).count(good.data) == 1
    assert [p.size for p in open_pictures(trace)] == [(good.width, good.height)]


# -- the figures --


def test_entropies_are_drawn_where_they_were_observed():
    trace = observed(made_up_trace(length=40, block_size=8, steps=4))
    figure = heatmap.figure(trace, "entropy", "dark")
    axes, bar = figure.axes
    (cells,) = [drawn for drawn in axes.collections if drawn.get_array() is not None]
    assert sorted(cells.get_array()) == sorted(value for step in trace.steps for value in step.entropies)
    assert bar.get_ylabel() == "entropy (nats)" and cells.get_clim()[0] == 0
    trace.steps[0].entropies = None  # as in a branch that is observed from some step on
    assert np.isnan(heatmap.block_cells(trace, lambda step: step.entropies).grid[0, :8]).all()


def test_what_was_not_observed_or_does_not_exist_is_refused_with_a_sentence():
    with pytest.raises(heatmap.NotObserved, match="Entropy was not observed"):
        heatmap.figure(made_up_trace(), "entropy")
    for arguments, name in ((("colour",), "kind"), (("reveal", "sepia"), "mode")):
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            heatmap.figure(made_up_trace(), *arguments)
    with pytest.raises(ValueError, match="suffix must be one of png, svg"):
        heatmap.figure_bytes(made_up_trace(), suffix="pdf")


def test_a_file_that_claims_to_be_huge_is_not_drawn():
    trace = made_up_trace(cut=2)
    trace.length = trace.settings["block_size"] = 1_000_000
    trace.steps[0].span = trace.steps[1].span = [0, 1_000_000]
    assert len(finished(trace).cells) < 2_000 and written("run.gif", trace)
    trace.steps[1].step = 1_000
    for kind in ("confidence", "entropy"):
        trace.steps[1].entropies = trace.steps[1].confidences
        with pytest.raises(heatmap.CannotDraw, match="too large to be drawn"):
            heatmap.figure(trace, kind)


def test_the_reveal_order_says_when_and_how_surely_every_position_was_revealed():
    trace = made_up_trace(length=40, block_size=8, steps=4)
    cells, waits = heatmap.reveal_cells(trace)
    assert cells.grid.shape == (len(trace.steps), 40) and cells.bounds == [0, 8, 16, 24, 32]
    for index, step in enumerate(trace.steps):
        for position in step.revealed:
            assert cells.grid[index, position] == step.confidences[step.masked.index(position)]
    assert np.isfinite(cells.grid).sum() == 40
    for position, first, last in waits:
        assert last - first == sum(position in step.masked for step in trace.steps)
    cut = made_up_trace(cut=3)
    assert {p for p, _, last in heatmap.reveal_cells(cut)[1] if last == 3} >= set(cut.steps[-1].masked)


def test_a_branch_is_drawn_as_it_ended_with_what_a_person_changed():
    trace = branched_trace()
    cells = heatmap.block_cells(trace, lambda step: step.confidences)
    assert cells.bounds == [0, 16, 32]
    again = trace.steps[12]
    assert again.masked[0] == 2 and np.isfinite(cells.grid[:, 2]).sum() == 1
    assert cells.grid[0, 2] == again.confidences[0] and (0, 2) in cells.revealed
    assert sorted(position for _, position in cells.changed) == [2, 5]
    _, waits = heatmap.reveal_cells(trace)
    assert [(first, last) for position, first, last in waits if position == 2][-1] == (12, 13)
    for kind in heatmap.KINDS:
        assert "changed by a person" in heatmap.figure(trace, kind).axes[0].get_xlabel()


@pytest.mark.parametrize("kind", heatmap.KINDS)
def test_a_vector_figure_has_text_as_text_and_no_bitmap(kind):
    trace = observed(hostile_trace())
    drawn = heatmap.figure_bytes(trace, kind, "light", "svg")
    root = ElementTree.fromstring(drawn)
    names = {element.tag.split("}")[-1] for element in root.iter()}
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]
    assert "image" not in names and "script" not in names
    assert any(HOSTILE in text for text in texts)
    assert any(text.startswith("</script>") for text in texts) and any("中文" in text for text in texts)
    assert drawn == heatmap.figure_bytes(trace, kind, "light", "svg")


# -- the table --


def test_the_table_holds_every_proposal():
    trace = observed(hostile_trace())
    rows = list(csv.DictReader(io.StringIO(written("t.csv", trace).decode("utf-8-sig"), newline="")))
    assert tuple(rows[0]) == COLUMNS
    expected = [
        (i, step.block, step.step, position, step.proposals[j], step.confidences[j], step.entropies[j])
        + (int(position in step.revealed), step.milliseconds, step.forwards)
        for i, step in enumerate(trace.steps)
        for j, position in enumerate(step.masked)
    ]
    numbers = [tuple(float(row[name]) for name in COLUMNS if name != "text") for row in rows]
    assert numbers == [tuple(map(float, row)) for row in expected]
    assert [plain(row["text"]) for row in rows] == [trace.decode([int(row["id"])]) for row in rows]
    assert {row["text"] for row in rows} >= {"'=SUM(A1)", "'-1+2", "''quoted'", "'\t@x", "</script>"}
    bare = written("t.csv", made_up_trace()).decode("utf-8-sig")
    assert {row["entropy"] for row in csv.DictReader(io.StringIO(bare))} == {""}


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@a", " =1", "\t=1", "\r", "\n=", "＝1", "'", "'=1", "", "a=1", " a", "\0"]
)
def test_no_cell_is_a_formula_and_every_cell_comes_back(text):
    cell = harmless(text)
    assert plain(cell) == text
    assert not re.match(r"\s*[=+\-@＝＋－＠]|[\t\r\n\0]", cell)
    assert (cell == text) == (text in ("", "a=1", " a"))


# -- the command --


def run(*arguments, cwd) -> subprocess.CompletedProcess:
    """The command in a process that can import neither torch nor gradio."""
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'transformers', 'gradio'): sys.modules[name] = None\n"
        "sys.argv[0] = 'export'\n"
        "runpy.run_module('visualize.export', run_name='__main__')\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": os.environ.get("HOME", str(cwd))}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_command_writes_what_was_asked_for_and_reads_its_own_page(tmp_path):
    trace = made_up_trace(length=16, block_size=8)
    trace.save(tmp_path / "trace.json")
    result = run("trace.json", "a.html", "a.svg", "a.csv", "--mode", "dark", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["a.html", "a.svg", "a.csv"]
    assert (tmp_path / "a.svg").read_bytes() == written("a.svg", trace, "dark")
    assert run("a.html", "again.json", cwd=tmp_path).returncode == 0
    assert DenoisingTrace.load(tmp_path / "again.json") == trace


def test_the_command_says_in_one_sentence_what_is_wrong(tmp_path):
    made_up_trace(length=16).save(tmp_path / "trace.json")
    (tmp_path / "no.json").write_text('{"a": 1}')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    (tmp_path / "no.html").write_text("<p>")
    cases = {
        ("absent.json", "a.csv"): "absent.json can't be read",
        ("no.json", "a.csv"): "This is not a trace",
        ("bytes.json", "a.csv"): "nor any text: choose a trace",
        ("no.html", "a.csv"): "This page holds no trace",
        ("trace.json", "a.csv", "a.txt"): "a.txt has no ending that is known; there is html, gif",
        ("trace.json", "absent/a.csv"): "absent/a.csv can't be written",
        ("trace.json", "a.entropy.svg"): "Entropy was not observed",
    }
    from visualize.export.__main__ import main

    for arguments, sentence in list(cases.items()):
        here, *targets = arguments
        error = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(sys, "stderr", error)
            assert main([here, *targets]) == 2
        assert sentence in error.getvalue() and error.getvalue().count("\n") == 1, error.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes.json", "no.html", "no.json", "trace.json"]
    result = run("trace.json", "a.txt", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("a.txt has no ending") and not result.stdout
