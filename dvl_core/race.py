"""Two ways to the same answer, timed against each other: run one after the other, each with the machine to itself.

A warming machine must favour nobody: every lane has one run that does not count, and the counted ones are interleaved
with the lanes taking turns to begin (A B, B A, A B, ...). What is compared is the time in the traces: prefill and
forward passes, drawing and waiting excluded.

    python -m dvl_core.race --model assets/tinyvl --parent assets/tinyvl-ar --image FILE --prompt "…" --out race.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commandline import (
    add_decoding_arguments,
    add_question_arguments,
    check_file,
    decoding_config,
    load_engine,
    question,
    run_command,
    write_measured,
)
from .decoding import DecodingConfig
from .engine import Engine
from .trace import DenoisingTrace
from .turns import FairLock

MAX_REPEATS = 15
WARM_UP = 0  # the run that does not count


@dataclass(frozen=True)
class Lane:
    """One of the two that race: its name, who decodes, and how. Without a name the page names it after what it does.

    Engines on one machine share their `turn`, so that a run of either has the machine to itself.
    """

    name: str
    engine: Engine
    config: DecodingConfig


@dataclass(frozen=True)
class Running:
    """A run is about to begin.

    Attributes:
        lane: whose, from 0.
        run, runs: its number and how many of the lane count; number `WARM_UP` does not.
        before: runs of the race that are over, warm-ups included.
    """

    lane: int
    run: int
    runs: int
    before: int


@dataclass(frozen=True)
class LaneResult:
    """What one lane did: the trace of its median run, and the seconds of every counted run in the order they ran."""

    name: str
    trace: DenoisingTrace
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """The race is over."""

    lanes: list[LaneResult]

    def to_json(self) -> dict[str, Any]:
        """Both lanes, JSON-ready, with the whole trace of each median run."""
        return {
            "lanes": [
                {"name": lane.name, "seconds": list(lane.seconds), "trace": lane.trace.to_json()} for lane in self.lanes
            ]
        }


Event = Running | Result


def run_race(messages: Sequence[Mapping[str, Any]], lanes: Sequence[Lane], repeats: int = 1) -> Iterator[Event]:
    """Let two lanes answer the same conversation.

    Args:
        messages: as `Engine.answer` takes them.
        lanes: two.
        repeats: counted runs per lane, 1 to 15. Of an even number the faster of the two middle runs is the median,
            because a median has to be a run that was measured.

    Yields:
        `Running` before every run, and `Result` at the end. Closing the generator stops before the next run.

    Raises:
        ValueError: at once, naming what is wrong with `lanes` or `repeats`.
        EngineError: from a run.
    """
    if len(lanes) != 2:
        raise ValueError(f"lanes must be two; got {len(lanes)}.")
    check_repeats(repeats)
    return _race(messages, lanes, repeats)


def check_repeats(repeats: int) -> None:
    """Refuse a number of runs that can't be. Raises ValueError."""
    if isinstance(repeats, bool) or not isinstance(repeats, int) or not 1 <= repeats <= MAX_REPEATS:
        raise ValueError(f"repeats must be a whole number from 1 to {MAX_REPEATS}; got {repeats!r}.")


def run_order(lanes: int, repeats: int) -> list[tuple[int, int]]:
    """`(lane, run)` of every run in the order they take place, warm-ups first."""
    rounds = [(run, range(lanes) if run % 2 else reversed(range(lanes))) for run in range(1, repeats + 1)]
    return [(lane, WARM_UP) for lane in range(lanes)] + [(lane, run) for run, order in rounds for lane in order]


def _race(messages, lanes: Sequence[Lane], repeats: int) -> Iterator[Event]:
    counted: list[list[DenoisingTrace]] = [[] for _ in lanes]
    for before, (index, run) in enumerate(run_order(len(lanes), repeats)):
        yield Running(index, run, repeats, before)
        lane = lanes[index]
        trace = lane.engine.answer(messages, lane.config, alone=True)
        if run != WARM_UP:
            counted[index].append(trace)
    yield Result([_result(lane, traces) for lane, traces in zip(lanes, counted, strict=True)])


def _result(lane: Lane, traces: list[DenoisingTrace]) -> LaneResult:
    ranked = sorted(traces, key=lambda trace: trace.seconds)
    return LaneResult(lane.name, ranked[(len(ranked) - 1) // 2], tuple(trace.seconds for trace in traces))


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.race", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_question_arguments(parser)
    parser.add_argument("--parent", required=True, help="autoregressive checkpoint to race against")
    parser.add_argument("--repeats", type=int, default=3, help=f"runs that count, 1 to {MAX_REPEATS} (default: 3)")
    parser.add_argument("--out", type=Path, help="write the race, both traces included, to this JSON file")
    add_decoding_arguments(parser)
    return parser.parse_args(argv)


def race(arguments: argparse.Namespace) -> None:
    """Race and print. Raises ValueError, EngineError or OSError for what can't be used."""
    decoding_config(arguments, trained_block_size=8)  # refuse what can't be before two models load
    check_repeats(arguments.repeats)
    check_file("out", arguments.out)
    turn, engines = FairLock(), []
    for option, kind in (("model", "block_diffusion"), ("parent", "autoregressive")):
        engines.append(load_engine(getattr(arguments, option), arguments, turn))
        if engines[-1].describe()["kind"] != kind:
            raise ValueError(f"{option}: {getattr(arguments, option)} is no {kind.replace('_', '-')} model.")
    engine, parent = engines
    config = decoding_config(arguments, engine.trained_block_size)
    lanes = [
        Lane("block diffusion", engine, config),
        Lane("autoregressive", parent, parent.config(max_new_tokens=config.max_new_tokens)),
    ]
    *_, result = run_race(question(arguments), lanes, arguments.repeats)
    for lane in result.lanes:
        low, high = min(lane.seconds), max(lane.seconds)
        print(f"{lane.trace.seconds:8.3f} s ({low:.3f} to {high:.3f})  {lane.trace.forwards:4} passes  {lane.name}")
    write_measured(arguments, engine, result.to_json())


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `commandline.run_command`."""
    arguments = parse_arguments(argv)
    return run_command(lambda: race(arguments))


if __name__ == "__main__":
    sys.exit(main())
