"""What the paper says, and what was measured here: one verdict per finding, by a rule that is written beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .aggregate import differences, experiment, ratios

Table = Mapping[str, Mapping[str, Any]]  # row name -> merged row
KEPT, KEPT_MOONSHOT = 0.95, 0.98  # of the parent's accuracy
AS_GOOD = 0.02  # accuracy within which two ways of training count as equally good
AHEAD = 0.10  # accuracy by which any order has to lead on sudokus with the most blanks


def plus_minus(value: Mapping[str, Any], scale: float = 1.0, digits: int = 3) -> str:
    """Mean ± spread as text; the mean alone for a single value."""
    mean = f"{value['mean'] * scale:.{digits}f}"
    return mean if value["spread"] is None else f"{mean} ± {value['spread'] * scale:.{digits}f}"


def _finding(claim: str, rule: str, held: bool, measured: str) -> dict[str, Any]:
    return {"claim": claim, "rule": rule, "held": bool(held), "measured": measured}


def _percent(name: str) -> int:
    return int(name.split()[0])


def kept_of_parent(table: Table) -> dict[str, dict[str, Any]]:
    """Conversion row -> `ratios` of its accuracy to the parent's."""
    return {name: ratios(row, table["parent"]) for name, row in table.items() if name.endswith(" %")}


def recipe(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Does an autoregressive vision-language model keep its accuracy, and after how many samples?"""
    shares, short = (kept_of_parent(tables[name]) for name in ("recipe", "conversion"))

    def after(kept: Mapping[str, Mapping[str, Any]], most: int) -> str:
        return ", ".join(f"{plus_minus(value, 100, 1)} % after {name}" for name, value in kept.items()
                         if _percent(name) <= most)

    def within(most: int, least: float) -> bool:
        return any(_percent(name) <= most and kept["mean"] >= least for name, kept in shares.items())

    return [
        _finding("A translated AR-VLM keeps its accuracy.",
                 f"at least {KEPT:.0%} of the parent's average accuracy after at most 10 % of its samples",
                 within(10, KEPT), f"kept {after(shares, 10)} of the samples; short conversions by the published "
                                   f"objective keep {after(short, 100)}"),
        _finding("It does so with very few samples.",
                 f"at least {KEPT_MOONSHOT:.0%} after at most 5 %", within(5, KEPT_MOONSHOT),
                 f"kept {after(shares, 5)} of the samples"),
    ]


def ar_lm(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Is a language model as good by block diffusion as by next-token finetuning?"""
    table = tables["ar_lm"]
    gap = differences(table["diffusion"], table["autoregressive"])
    return [_finding(
        "An AR-LM becomes a dVLM directly, as good as the same LM finetuned autoregressively.",
        f"diffusion at most {AS_GOOD} below, on the same samples", gap["mean"] >= -AS_GOOD,
        f"diffusion {plus_minus(table['diffusion']['accuracy'])}, autoregressive "
        f"{plus_minus(table['autoregressive']['accuracy'])}, difference {plus_minus(gap)}",
    )]


def scratch(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Does conversion beat diffusion from scratch, on as much data and on many times as much?"""
    table, converted = tables["scratch"], tables["conversion"]
    found = []
    for name, row in table.items():
        child = converted.get(f"{_few(row, table, converted)} %")
        if child is None:
            continue
        gap = differences(child, row)
        found.append(_finding(
            f"A translated model beats one trained by diffusion from scratch on {name} samples.",
            "higher average accuracy", gap["mean"] > 0,
            f"translated {plus_minus(child['accuracy'])} with {child['samples']['mean']:.0f} samples, from scratch "
            f"{plus_minus(row['accuracy'])} with {row['samples']['mean']:.0f}, difference {plus_minus(gap)}",
        ))
    return found


def _few(row: Mapping[str, Any], table: Table, converted: Table) -> int:
    """Percent of the parent's samples that the small run from scratch has seen."""
    few = min(other["samples"]["mean"] for other in table.values())
    return round(100 * few / converted["parent"]["samples"]["mean"])


def sweep(table: Table) -> list[dict[str, Any]]:
    """What block size, steps and threshold trade, in one table of decodings."""
    found = []
    low, high = table["threshold 0.2"], table["threshold 1.0"]
    quicker = ratios(low, high, "tokens_per_processor_second")
    lost = differences(low, high)
    found.append(_finding(
        "A lower confidence threshold decodes faster and costs quality.",
        "threshold 0.2 gives more tokens per second and lower accuracy than 1.0 (paper: 71.8 against 31.5 tokens/s)",
        quicker["mean"] > 1 and lost["mean"] < 0,
        f"{plus_minus(quicker, 1, 2)} times the tokens per processor second, "
        f"{plus_minus(low['tokens_per_forward'], 1, 2)} against "
        f"{plus_minus(high['tokens_per_forward'], 1, 2)} tokens per forward, accuracy {plus_minus(lost)}",
    ))
    small, large = table["block 1"], table["block 16"]
    quicker = ratios(large, small, "tokens_per_processor_second")
    found.append(_finding(
        "Larger blocks decode faster.",
        "block 16 gives more tokens per second than block 1, one token per step (paper: 41.6 against 26.9)",
        quicker["mean"] > 1,
        f"{plus_minus(quicker, 1, 2)} times; accuracy with block 1 / 4 / 8 / 16: "
        + " / ".join(plus_minus(table[f"block {size}"]["accuracy"]) for size in (1, 4, 8, 16)),
    ))
    lost = differences(table["steps 1"], table["steps 8"])
    found.append(_finding(
        "Fewer denoising steps cost accuracy.", "1 step per block of 8 is less accurate than 8", lost["mean"] < 0,
        "accuracy with 1 / 2 / 4 / 8 steps: "
        + " / ".join(plus_minus(table[f"steps {steps}"]["accuracy"]) for steps in (1, 2, 4, 8)),
    ))
    return found + _sudoku(table)


def _sudoku(table: Table) -> list[dict[str, Any]]:
    if "sudoku, autoregressive" not in table:
        return []
    most = max(table["sudoku, autoregressive"]["tasks"], key=int)

    def solved(name: str) -> dict[str, Any]:
        return {"accuracy": table[name]["tasks"][most]}

    gap = differences(solved("sudoku, block 8, steps 8"), solved("sudoku, autoregressive"))
    shown = [name for name in table if name.startswith("sudoku, ")]
    return [_finding(
        f"Any order helps: sudokus with {most} blanks are solved more often than left to right.",
        f"block diffusion (block 8, 8 steps) ahead of the autoregressive parent by {AHEAD:.2f}", gap["mean"] >= AHEAD,
        "; ".join(f"{name[len('sudoku, '):]} {plus_minus(table[name]['tasks'][most])}" for name in shown)
        + f"; difference {plus_minus(gap)}",
    )]


def decoding(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """What block size, steps and threshold trade on the small models."""
    return sweep(tables["decoding"])


def options(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Does each training option help?"""
    table, found = tables["options"], []
    for name, row in table.items():
        other = "several turns" if name == "several turns, auto-truncation" else "off"
        if name in ("off", "several turns"):
            continue
        gap = differences(row, table[other])
        clear = all(value > 0 for value in gap["values"])
        found.append(_finding(
            f"Training option “{name}” helps.", f"more accurate than “{other}” with every seed", clear,
            f"{plus_minus(row['accuracy'])} against {plus_minus(table[other]['accuracy'])}, "
            f"difference {plus_minus(gap)}",
        ))
    return found


JUDGES: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Table]], list[dict[str, Any]]]]] = {
    "recipe": (("recipe", "conversion"), recipe), "ar_lm": (("ar_lm",), ar_lm),
    "scratch": (("scratch", "conversion"), scratch), "decoding": (("decoding",), decoding),
    "bundled": (("bundled",), lambda tables: sweep(tables["bundled"])), "options": (("options",), options),
}  # experiment -> experiments whose tables are needed, and the judge


def judge(runs: Mapping[str, Mapping[int, Table]]) -> dict[str, list[dict[str, Any]]]:
    """Verdicts per experiment, for those whose rows are there.

    Args:
        runs: experiment -> seed -> row name -> row. Experiments are compared by the seeds that both have.
    """
    found = {}
    for name, (needed, verdicts) in JUDGES.items():
        seeds = set.intersection(*(set(runs.get(n, ())) for n in needed))
        if seeds:
            found[name] = verdicts({n: experiment({s: runs[n][s] for s in sorted(seeds)}) for n in needed})
    return found
