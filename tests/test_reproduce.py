"""The findings at the tiny scale, end to end: rows, resume, refusal, aggregation, verdicts, the page and the plots."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from dvl_core import reproduce, tinyworld
from dvl_core.reproduction import aggregate, experiments, findings, report, results
from dvl_core.reproduction.exams import sudoku_exam
from dvl_core.reproduction.experiments import EXPERIMENTS, OPTIONS
from dvl_core.reproduction.learn import Leg, Options, diffusion_mask
from dvl_core.reproduction.noise import answer_blocks, draw_noise, noisy_batch, opposite
from dvl_core.reproduction.rows import chain_rows, stacked, tree_rows
from dvl_core.reproduction.scale import SCALES, Scale
from dvl_core.reproduction.small import small_model
from dvl_core.reproduction.world import TASKS, talk, unseen
from dvl_core.tinyworld.sampling import split_of

ASSETS = Path(__file__).parents[1] / "assets"
IGNORE = -100


@pytest.fixture(scope="module", autouse=True)
def short_answers():
    """Models that learnt nothing never stop: their answers are cut early."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "LONGEST", 8)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, short_answers):
    """Everything at the tiny scale, one seed."""
    folder = tmp_path_factory.mktemp("tiny")
    assert command(folder) == 0
    return folder


def command(folder, *more):
    return reproduce.main(["--scale", "tiny", "--seeds", "0", "--out", str(folder / "out"),
                           "--work", str(folder / "work"), *more])


# The small world and its rows

def test_small_world_keeps_train_and_test_apart_and_answers_true():
    for seed in range(60):
        assert split_of(talk(seed).picture) == "train"
    for task in TASKS:
        picture, question, answer = unseen(task, 5)
        assert split_of(picture) == "test" and question and answer
        assert unseen(task, 5) == (picture, question, answer)


def test_sudokus_have_the_blanks_they_are_asked_by():
    exam = sudoku_exam((3, 11), 4, 1, small=True)
    assert list(exam) == ["3", "11"] and all(len(items) == 4 for items in exam.values())
    for _, _, answer in exam["11"]:
        rows = answer.split("\n")
        assert all(sorted(row) == ["1", "2", "3", "4"] for row in rows)
        assert all(sorted(column) == ["1", "2", "3", "4"] for column in zip(*rows, strict=True))


def test_small_model_is_of_the_published_family_and_small(tokenizer):
    model = small_model(tokenizer)
    assert model.config.model_type == "diffusionvl_qwenvl"
    assert sum(weight.numel() for weight in model.parameters()) < 1.1e6


def test_noise_hides_answers_only_and_complementary_masks_hide_every_token_once(tokenizer):
    batch = stacked([tree_rows(tokenizer, 8)(seed) for seed in range(4)])
    blocks = answer_blocks(batch, 8)
    assert (blocks.labels != IGNORE).sum() == (batch["labels"] != IGNORE).sum()
    noise = draw_noise(blocks, torch.Generator().manual_seed(0))
    first = noisy_batch(batch, blocks, noise, 3)
    second = noisy_batch(batch, blocks, opposite(blocks, noise), 3)
    labelled = batch["labels"] != IGNORE
    hidden = [made["weight"] > 0 for made in (first, second)]
    assert torch.equal(hidden[0] ^ hidden[1], labelled)
    assert torch.equal(first["ids"][~labelled], batch["ids"][~labelled])
    assert (first["ids"][hidden[0]] == 3).all()


def test_auto_truncation_hides_later_turns_of_a_block(tokenizer):
    batch = stacked([chain_rows(tokenizer, 8)(seed) for seed in range(6)])
    whole, cut = (diffusion_mask(batch, 8, truncation) for truncation in (False, True))
    lost = (whole[:, 0] == 0) & (cut[:, 0] != 0)
    assert lost.any() and not ((whole[:, 0] != 0) & (cut[:, 0] == 0)).any()
    row, query, key = lost.nonzero(as_tuple=True)
    assert (batch["turn"][row, key] > batch["turn"][row, query]).all()
    assert batch["noisy"][row, query].all() and batch["noisy"][row, key].all()


def test_rates_warm_up_stay_and_fall():
    leg = Leg("diffusion", "child", 800, 8, 0.01, 1e-3)
    assert leg.updates == 100
    assert leg.rate(0) == pytest.approx(0.1) and leg.rate(40) == 1.0 and leg.rate(75) == pytest.approx(0.5)


# Refusals

@pytest.mark.parametrize(("make", "field"), [
    (lambda: Leg("diffusion", "child", 0, 8, 0.01, 1e-3), "samples=0"),
    (lambda: Options(ar_weight=1.0), "ar_weight=1.0"),
    (lambda: Options(truncation=True), "chain=True"),
    (lambda: Scale(percents=(0, 5)), "percents"),
    (lambda: Scale(questions=0), "questions=0"),
])
def test_settings_that_cannot_work_are_named(make, field):
    with pytest.raises(ValueError, match=field):
        make()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--experiments", "conversions"], "experiments='conversions' must be some of conversion"),
    (["--seeds", "0,-1"], "seeds='0,-1' must be whole numbers"),
    (["--experiments", "bundled"], "bundled needs --model"),
    (["--experiments", "bundled", "--model", "x", "--tasks", "sudokus"], "tasks='sudokus'"),
    (["--questions", "0"], "questions=0 must be at least 1"),
    (["--experiments", "bundled", "--model", str(ASSETS / "tinyvl-ar")], "tinyvl-ar' is autoregressive"),
    (["--experiments", "bundled", "--model", str(ASSETS / "tinyvl"), "--parent", "/nowhere"], "no folder /nowhere"),
    (["--experiments", "bundled", "--model", str(ASSETS / "tinyvl"), "--parent", str(ASSETS / "tinyvl")],
     "tinyvl is a block-diffusion model"),
    (["--work", __file__], f"work: the folder {__file__} can't be made"),
])
def test_options_that_cannot_work_are_named(tmp_path, capsys, arguments, message):
    assert reproduce.main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_of_bundled_results_names_its_tasks():
    settings = {"model": "m", "parent": None, "tasks": ["copy", "title"], "questions": 4}
    assert results._command("bundled", [0], settings).endswith("--model m --tasks copy,title --questions 4")
    settings["tasks"] = list(tinyworld.TASKS)
    assert results._command("bundled", [0], settings).endswith("--model m --questions 4")


# The tiny scale end to end

def test_every_experiment_gives_its_rows(tiny):
    made = json.loads((tiny / "out" / "results.json").read_text())
    rows = {name: list(values["rows"]) for name, values in made["experiments"].items()}
    assert set(rows) == set(EXPERIMENTS)
    assert rows["conversion"] == ["parent", "10 %", "25 %"]
    assert rows["recipe"] == ["parent", "parent, trained on", "10 %"]
    assert rows["ar_lm"] == ["autoregressive", "diffusion"]
    assert rows["scratch"] == ["as many", "2 x"]
    assert rows["options"] == ["off", *OPTIONS]
    assert {"autoregressive", "block 16", "steps 1", "threshold 0.2", "sudoku, autoregressive"} <= set(rows["decoding"])
    scale = SCALES["tiny"]
    samples = {name: row["samples"]["mean"] for name, row in made["experiments"]["conversion"]["rows"].items()}
    assert samples["parent"] == scale.parent and samples["10 %"] == scale.share(10)
    of_recipe = made["experiments"]["recipe"]["rows"]
    assert of_recipe["parent"]["accuracy"] == made["experiments"]["conversion"]["rows"]["parent"]["accuracy"]
    assert of_recipe["parent, trained on"]["samples"] == of_recipe["10 %"]["samples"]
    one = made["experiments"]["decoding"]["rows"]
    assert one["autoregressive"]["tokens_per_forward"]["mean"] == 1.0
    assert one["steps 1"]["processor_seconds"]["mean"] > 0
    assert one["steps 1"]["tokens_per_forward"]["mean"] > one["steps 8"]["tokens_per_forward"]["mean"]
    assert set(one["sudoku, autoregressive"]["tasks"]) == {str(blanks) for blanks in range(2, 12)}


def test_a_stopped_run_goes_on_and_a_finished_one_trains_nothing(tiny, capsys):
    path = tiny / "out" / "runs" / "conversion-0.json"
    before = path.read_text()
    data = json.loads(before)
    data["rows"].pop("25 %")
    path.write_text(json.dumps(data | {"complete": False}))
    capsys.readouterr()
    assert command(tiny, "--experiments", "conversion") == 0
    shown = capsys.readouterr()
    printed, begun = shown.out.splitlines(), [line for line in shown.err.splitlines() if line.endswith("begins")]
    assert len(printed) == len(begun) == 1 and "25 %" in printed[0] and "25 %" in begun[0]
    again = json.loads(path.read_text())
    assert again["rows"]["25 %"]["tasks"] == json.loads(before)["rows"]["25 %"]["tasks"]
    assert again["rows"]["parent"] == data["rows"]["parent"]
    assert command(tiny) == 0
    assert capsys.readouterr().out.startswith("every row is in ")


def test_rows_of_another_scale_are_not_mixed_in(tiny, capsys):
    assert reproduce.main(["--scale", "small", "--seeds", "0", "--out", str(tiny / "out")]) == 2
    assert "other settings" in capsys.readouterr().err


def test_the_same_seed_trains_the_same_weights(tiny, tmp_path):
    assert command(tmp_path, "--experiments", "conversion") == 0
    first, second = (torch.load(folder / "work" / "parent-0.pt")["weights"] for folder in (tiny, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)


# Numbers

def test_mean_and_spread_by_hand():
    assert aggregate.summary([0.5, 0.7, 0.9]) == {
        "mean": pytest.approx(0.7), "spread": pytest.approx(0.2), "values": [0.5, 0.7, 0.9],
    }
    assert aggregate.summary([0.5])["spread"] is None
    with pytest.raises(ValueError):
        aggregate.summary([])
    merged = aggregate.experiment({
        0: {"a": {"accuracy": 0.4, "tasks": {"copy": 1.0}}}, 1: {"a": {"accuracy": 0.8, "tasks": {"copy": 0.0}}},
    })
    assert merged["a"]["accuracy"]["mean"] == pytest.approx(0.6)
    assert merged["a"]["tasks"]["copy"]["spread"] == pytest.approx(math.sqrt(0.5))
    assert aggregate.ratios(row(0.4, 0.8), row(0.5, 0.8))["values"] == [pytest.approx(0.8), 1.0]
    assert aggregate.differences(row(0.4, 0.9), row(0.5, 0.8))["mean"] == pytest.approx(0.0)


def row(*accuracies, **more):
    """A merged row with these accuracies."""
    return {"accuracy": aggregate.summary(accuracies)} | {
        name: aggregate.summary(values) for name, values in more.items()
    }


def test_verdicts_follow_their_rules():
    table = {"parent": row(0.9, 0.9), "1 %": row(0.2, 0.3), "5 %": row(0.8, 0.8), "10 %": row(0.87, 0.87)}
    short = {"parent": row(0.9, 0.9), "10 %": row(0.45, 0.45)}
    trained = {"parent, trained on": row(0.95, 0.95)}  # no conversion
    kept, moonshot = findings.recipe({"recipe": table | trained, "conversion": short})
    assert kept["held"] and not moonshot["held"]
    assert "96.7 ± 0.0 % after 10 %" in kept["measured"] and "trained on" not in kept["measured"]
    assert moonshot["measured"] == "kept 27.8 ± 7.9 % after 1 %, 88.9 ± 0.0 % after 5 % of the samples"
    assert kept["measured"].endswith("keep 50.0 ± 0.0 % after 10 %")
    assert not findings.recipe({"recipe": table | {"10 %": row(0.8, 0.8)}, "conversion": short})[0]["held"]
    near, far = ({"ar_lm": {"autoregressive": row(0.8, 0.8), "diffusion": row(*d)}} for d in ((0.79, 0.79), (0.7, 0.7)))
    assert findings.ar_lm(near)[0]["held"] and not findings.ar_lm(far)[0]["held"]
    mixed = {"options": {"off": row(0.5, 0.5), "several turns": row(0.1, 0.1), "beta noise": row(0.6, 0.4),
                         "several turns, auto-truncation": row(0.2, 0.2)}}
    verdicts = {f["claim"]: f["held"] for f in findings.options(mixed)}
    assert verdicts == {"Training option “beta noise” helps.": False,
                        "Training option “several turns, auto-truncation” helps.": True}


def test_the_page_says_what_did_not_come_out_before_what_did(tiny):
    made = results.collect(tiny / "out")
    text = report.page(made)
    assert text == (tiny / "out" / "README.md").read_text()
    bad, good = text.index("## Did not come out as in the paper"), text.index("## Came out as in the paper")
    assert bad < good
    for found in (f for group in made["findings"].values() for f in group):
        at = text.index(f"**{found['claim']}**")
        assert (at > good) is found["held"]
        assert found["measured"] in text
    assert made["findings"]["recipe"][0]["held"] is False  # a parent of 40 samples knows nothing to keep
    assert "--experiments options --scale tiny --seeds 0" in text


def test_notes_go_into_the_page(tiny, tmp_path):
    shutil.copytree(tiny / "out" / "runs", tmp_path / "runs")
    (tmp_path / "notes.md").write_text("## Notes\n\nThe core was shared.\n")
    results.write(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.index("The core was shared.") < text.index("| parent |")


def test_plots_are_made_from_the_results_file_alone(tiny):
    from visualize import results as plots

    out = tiny / "out"
    assert plots.main([str(out)]) == 0
    for name in ("conversion", "ways", "decoding", "tasks", "sudoku", "options"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert f"{name}.png" in (out / "README.md").read_text()
    made = json.loads((out / "results.json").read_text())
    drawn = plots.figures(made)
    line = drawn["conversion"].axes[0].containers[0][0]
    rows = made["experiments"]["recipe"]["rows"]
    assert list(line.get_xdata()) == [10.0] and list(line.get_ydata()) == [rows["10 %"]["accuracy"]["mean"]]
    assert list(drawn["conversion"].axes[0].containers[1][0].get_xdata()) == [10.0, 25.0]  # the short ones
    assert [text.get_text() for text in drawn["options"].axes[0].get_yticklabels()] == ["off", *OPTIONS]


def test_plots_without_results_say_what_makes_them(tmp_path, capsys):
    from visualize import results as plots

    assert plots.main([str(tmp_path)]) == 2
    assert "dvl_core.reproduce" in capsys.readouterr().err
