"""One question under many decoding settings: what speed costs in agreement with the slow, careful setting.

The slow setting reveals one token per step, the surest first (`low_confidence_static`), at the base block size. Every
answer is compared with its answer. Each run has the model to itself, so that its time is its own; with several
rounds all settings go through once before any goes again, so that a slow minute of the machine falls on all of them.

    python -m dvl_core.explore --model assets/tinyvl --image FILE --prompt "…" --steps 1 2 4 8 --out sweep.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

from .commandline import add_question_arguments, check_file, load_engine, question, run_command, write_measured
from .decoding import DecodingConfig
from .decoding.strategies import STRATEGIES
from .engine import Engine, EngineError
from .trace import DenoisingTrace

MOST_COMBINATIONS = 64
MOST_REPEATS = 5


@dataclass(frozen=True)
class Setting:
    """What a sweep varies."""

    block_size: int
    steps: int
    strategy: str


@dataclass(frozen=True)
class Plan:
    """What will be run.

    Attributes:
        settings: in order, the slow one first.
        skipped: combinations with more steps than a block has tokens; they are left out.
        repeats: how often each is run.
    """

    settings: tuple[Setting, ...]
    skipped: tuple[Setting, ...]
    repeats: int

    @property
    def total(self) -> int:
        """Number of runs."""
        return len(self.settings) * self.repeats


@dataclass(frozen=True)
class Progress:
    """`done` of `total` runs are over, and one with `setting` comes next; closing the sweep here cancels it."""

    done: int
    total: int
    setting: Setting


@dataclass(frozen=True)
class Row:
    """What one setting gave.

    Attributes:
        index: of the setting in the plan; a later row with the same index replaces an earlier one.
        slow: whether this is the slow setting, which all are compared with.
        runs: how many runs it is measured on; what follows is of the first, times excepted.
        seconds: compute time of a run, prefill included: the median, `fastest` and `slowest` of the runs.
        forwards: forward passes of a run, prefill included.
        tokens: of the answer.
        tokens_per_forward: answer tokens per denoising forward.
        text: the answer.
        agreement: share of the tokens that equal the slow setting's at the same place, 0 to 1; see `agreement`.
        same: whether the answer is the slow setting's, token by token.
        confidence: mean probability of the answer's tokens when they were revealed, its end included; None for no step.
    """

    index: int
    setting: Setting
    slow: bool
    runs: int
    seconds: float
    fastest: float
    slowest: float
    forwards: int
    tokens: int
    tokens_per_forward: float
    text: str
    agreement: float
    same: bool
    confidence: float | None


Event = Plan | Progress | Row


def event_json(event: Event) -> dict[str, Any]:
    """`{"plan" | "progress" | "row": ...}`, JSON-ready; a setting's fields stand beside the event's own."""
    data = asdict(event)
    if isinstance(event, Plan):
        return {"plan": {**data, "total": event.total}}
    return {type(event).__name__.lower(): {**data.pop("setting"), **data}}


def sweep(
    engine: Engine,
    messages: Sequence[Mapping[str, Any]],
    base_config: DecodingConfig,
    block_sizes: Sequence[int],
    steps: Sequence[int],
    strategies: Sequence[str],
    repeats: int = 1,
) -> Iterator[Event]:
    """Answer one question with every combination of block size, steps and strategy.

    Args:
        engine: serves a block-diffusion model.
        messages: the conversation, as `Engine.stream` takes it.
        base_config: from `engine.config()`: everything that isn't varied, and the slow setting's block size.
        block_sizes, steps, strategies: what to combine; at most 64 combinations are run.
        repeats: rounds, 1 to 5.

    Returns:
        an iterator of a `Plan`; before every run a `Progress`, after it the `Row` of its setting so far. Closing it
        keeps the next run from starting. A short run that isn't counted goes before the first, to warm up.

    Raises:
        EngineError: at once about "settings" or "model" for what can't be run; while iterating as `Engine.answer`.
    """
    if engine.describe()["kind"] != "block_diffusion":
        raise EngineError("An autoregressive model has neither blocks nor denoising steps to explore.", "model")
    check_repeats(repeats)
    plan = _plan(base_config, block_sizes, steps, strategies, repeats)
    configs = [engine.config(**{**base_config.to_json(), **asdict(setting)}) for setting in plan.settings]
    return _run(engine, messages, plan, configs)


def check_repeats(repeats: int) -> None:
    """Refuse a number of rounds that can't be. Raises EngineError."""
    if isinstance(repeats, bool) or not isinstance(repeats, int) or not 1 <= repeats <= MOST_REPEATS:
        raise EngineError(f"repeats must be a whole number from 1 to {MOST_REPEATS}; got {repeats!r}.", "settings")


def _plan(
    base: DecodingConfig, block_sizes: Sequence[int], steps: Sequence[int], strategies: Sequence[str], repeats: int
) -> Plan:
    axes = [tuple(dict.fromkeys(values)) for values in (block_sizes, steps, strategies)]
    asked = [Setting(*values) for values in product(*axes)]
    skipped = tuple(setting for setting in asked if setting.steps > setting.block_size >= 1)
    kept = [setting for setting in asked if setting not in skipped]
    if not kept:
        why = "every combination has more steps than its block has tokens" if asked else "nothing was chosen"
        raise EngineError(f"There is nothing to run, as {why}: choose blocks, fewer steps, strategies.", "settings")
    if len(kept) > MOST_COMBINATIONS:
        raise EngineError(
            f"These block sizes, steps and strategies make {len(kept)} combinations, and at most "
            f"{MOST_COMBINATIONS} are run at once: choose fewer values.",
            "settings",
        )
    slow = Setting(base.block_size, base.block_size, "low_confidence_static")
    return Plan((slow, *(setting for setting in kept if setting != slow)), skipped, repeats)


def _run(
    engine: Engine, messages: Sequence[Mapping[str, Any]], plan: Plan, configs: list[DecodingConfig]
) -> Iterator[Event]:
    yield plan
    traces: list[list[DenoisingTrace]] = [[] for _ in configs]
    done = 0
    for _ in range(plan.repeats):
        for index, config in enumerate(configs):
            yield Progress(done, plan.total, plan.settings[index])
            if not done:
                block = min(config.block_size, config.max_new_tokens)
                engine.answer(messages, replace(config, max_new_tokens=block), alone=True)
            traces[index].append(engine.answer(messages, config, alone=True))
            done += 1
            yield _row(index, plan.settings[index], traces[index], traces[0][0])


def _row(index: int, setting: Setting, runs: list[DenoisingTrace], slow: DenoisingTrace) -> Row:
    trace, times = runs[0], [run.seconds for run in runs]
    ids, expected = trace.answer_ids(), slow.answer_ids()
    return Row(
        index=index,
        setting=setting,
        slow=index == 0,
        runs=len(runs),
        seconds=median(times),
        fastest=min(times),
        slowest=max(times),
        forwards=trace.forwards,
        tokens=len(ids),
        tokens_per_forward=trace.tokens_per_forward,
        text=trace.text,
        agreement=agreement(ids, expected),
        same=ids == expected,
        confidence=mean_confidence(trace),
    )


def agreement(ids: Sequence[int], expected: Sequence[int]) -> float:
    """Share of places at which both answers have the same token, of the longer one's places; 1 when both are empty."""
    longer = max(len(ids), len(expected))
    return sum(a == b for a, b in zip(ids, expected, strict=False)) / longer if longer else 1.0


def mean_confidence(trace: DenoisingTrace) -> float | None:
    """Mean probability with which the answer's tokens were revealed, its end included and nothing behind it."""
    end = len(trace.answer_ids())
    values = []
    for step in trace.steps:
        confidence = dict(zip(step.masked, step.confidences, strict=True))
        values += [confidence[position] for position in step.revealed if position <= end]
    return fmean(values) if values else None


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_question_arguments(parser)
    parser.add_argument("--block-sizes", type=int, nargs="+", metavar="N", help="(default: the model's)")
    parser.add_argument("--steps", type=int, nargs="+", metavar="N", default=[1, 2, 4, 8], help="(default: 1 2 4 8)")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, metavar="NAME",
                        default=["low_confidence_static", "low_confidence_dynamic"],
                        help=f"of {', '.join(STRATEGIES)} (default: the first two)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer, in tokens (default: 128)")
    parser.add_argument("--repeats", type=int, default=3, help=f"rounds, 1 to {MOST_REPEATS} (default: 3)")
    parser.add_argument("--out", type=Path, help="write plan and rows to this JSON file")
    return parser.parse_args(argv)


def explore(arguments: argparse.Namespace) -> None:
    """Sweep and print. Raises ValueError, EngineError or OSError for what can't be used."""
    check_repeats(arguments.repeats)
    check_file("out", arguments.out)
    engine = load_engine(arguments.model, arguments)
    base = engine.config(max_new_tokens=arguments.max_new_tokens)
    sizes = arguments.block_sizes or [engine.trained_block_size]
    varied = (sizes, arguments.steps, arguments.strategies)
    swept = sweep(engine, question(arguments), base, *varied, arguments.repeats)
    plan, *events = (event for event in swept if not isinstance(event, Progress))
    rows = {event.index: event for event in events}
    print("block  steps  strategy                   seconds  passes  tokens/pass  agreement")
    for row in rows.values():
        of = row.setting
        print(f"{of.block_size:5}  {of.steps:5}  {of.strategy:25}  {row.seconds:7.3f}  {row.forwards:6}  "
              f"{row.tokens_per_forward:11.2f}  {row.agreement:9.0%}")
    if plan.skipped:
        left_out = dict.fromkeys(f"{setting.block_size}/{setting.steps}" for setting in plan.skipped)
        print(f"Left out, as a block has no more steps than tokens: {', '.join(left_out)}.")
    write_measured(arguments, engine, {"events": [event_json(event) for event in (plan, *rows.values())]})


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `commandline.run_command`."""
    arguments = parse_arguments(argv)
    return run_command(lambda: explore(arguments))


if __name__ == "__main__":
    sys.exit(main())
