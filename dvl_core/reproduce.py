"""The findings of the paper, reproduced at small scale: results, a page and the numbers behind the plots.

    python -m dvl_core.reproduce                                      # all experiments, seeds 0, 1, 2
    python -m dvl_core.reproduce --experiments conversion,options --seeds 0
    python -m dvl_core.reproduce --experiments bundled --model assets/tinyvl --parent assets/tinyvl-ar
    python -m visualize.results assets/results                        # the plots

Experiments: conversion (an autoregressive VLM becomes a dVLM on 1 to 25 % of its samples, briefly and as published),
recipe (the same with the training options that help, for as long as the parent has learnt), ar_lm (a language model
finetuned with a vision tower, autoregressively and by diffusion), scratch (diffusion without a parent), decoding (block
size, steps, threshold, sudoku by blanks), options (each training option), bundled (decoding, of the models given).
Every row is written down when it is done: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any

from .folders import make_folder
from .models.checkpoint import CheckpointError
from .models.loading import load_model, outline_model, outline_parent
from .models.precision import flush_denormals
from .reproduction.exams import sudoku_exam, tinyworld_exam
from .reproduction.experiments import ASKED, EXPERIMENTS, Lab
from .reproduction.results import write
from .reproduction.scale import SCALES
from .reproduction.store import Rows, Store
from .reproduction.sweep import BLANKS, Sweep
from .tinyworld import TASKS

BUNDLED = "bundled"
LONGEST = 96  # tokens of an answer of the bundled model


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked by argparse."""
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS),
                        help=f"some of {','.join((*EXPERIMENTS, BUNDLED))} (default: all but {BUNDLED})")
    parser.add_argument("--seeds", default="0,1,2", help="of weights, samples and noise (default 0,1,2)")
    parser.add_argument("--scale", default="small", choices=list(SCALES), help="how large (default small)")
    parser.add_argument("--out", type=Path, default=Path("assets/results"), help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("runs/reproduce"), help="folder of the weights in between")
    parser.add_argument("--model", help=f"checkpoint that {BUNDLED} decodes (folder or repository)")
    parser.add_argument("--parent", help="its autoregressive parent")
    parser.add_argument("--tasks", default="all", help=f"of {BUNDLED}: all, or some of {','.join(TASKS)}")
    parser.add_argument("--questions", type=int, default=32, help=f"of {BUNDLED}, per task (default 32)")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> tuple[list[str], list[int], list[str]]:
    """Experiments, seeds and tasks asked for.

    Raises:
        ValueError: naming the option, its value and what it may be.
    """
    known = (*EXPERIMENTS, BUNDLED)
    names = _some("experiments", options.experiments, known)
    if not all(part.isdecimal() for part in options.seeds.split(",")):
        raise ValueError(f"seeds={options.seeds!r} must be whole numbers from 0, separated by commas")
    seeds = sorted({int(part) for part in options.seeds.split(",")})
    if BUNDLED in names and not options.model:
        raise ValueError(f"experiments={options.experiments!r}: {BUNDLED} needs --model")
    if options.questions < 1:
        raise ValueError(f"questions={options.questions} must be at least 1")
    tasks = list(TASKS) if options.tasks == "all" else _some("tasks", options.tasks, tuple(TASKS))
    return names, seeds, tasks


def _some(option: str, value: str, known: tuple[str, ...]) -> list[str]:
    names = value.split(",")
    for name in names:
        if name not in known:
            raise ValueError(f"{option}={name!r} must be some of {', '.join(known)}")
    return names


def bundled_rows(options: argparse.Namespace, tasks: list[str]) -> Rows:
    """Rows of the models given, loaded when first needed."""
    loaded: dict[str, Any] = {}

    def load(path: str) -> tuple[Any, Any]:
        if path not in loaded:
            loaded[path] = load_model(path)
        return loaded[path]

    return Sweep(
        child=lambda: load(options.model),
        parent=(lambda: load(options.parent)) if options.parent else None,
        exam=lambda: tinyworld_exam(tasks, options.questions, ASKED),
        sudokus=lambda: sudoku_exam(BLANKS, options.questions, ASKED, small=False),
        longest=LONGEST,
    ).rows()


def bundled_settings(options: argparse.Namespace, tasks: list[str]) -> dict[str, Any]:
    """What those rows depend on; `weights` tells models of the same name apart."""
    def checksum(path: str | None) -> int | None:
        files = sorted(Path(path).glob("*.safetensors")) if path else []
        total = 0
        for file in files:
            total = zlib.crc32(file.read_bytes(), total)
        return total

    return {"model": options.model, "parent": options.parent, "tasks": tasks, "questions": options.questions,
            "weights": [checksum(options.model), checksum(options.parent)]}


def check_models(options: argparse.Namespace) -> None:
    """Refuse models that can't be compared, before anything is trained. Raises ValueError."""
    if options.parent:
        outline_parent(options.parent)
    if not outline_model(options.model).model.config.enable_bd3lm:
        raise ValueError(f"model={options.model!r} is autoregressive: give a block-diffusion model, and it as --parent")


def run(options: argparse.Namespace) -> None:
    """Make the rows that are not there yet; after each experiment the results are written anew."""
    names, seeds, tasks = check(options)
    scale = SCALES[options.scale]
    lab = Lab(Store(options.out, options.work, {"scale": options.scale} | scale.to_json()), scale)
    stores = {name: lab.store for name in EXPERIMENTS}
    if BUNDLED in names:
        check_models(options)
        stores[BUNDLED] = Store(options.out, options.work, bundled_settings(options, tasks))
    for name in names:  # refuse before anything is trained
        for seed in seeds:
            stores[name].rows(name, seed)
    make_folder("out", options.out)
    make_folder("work", options.work)
    made_now = 0
    for name in names:
        for seed in seeds if name != BUNDLED else seeds[:1]:  # the bundled model is one, whatever the seed
            rows = bundled_rows(options, tasks) if name == BUNDLED else EXPERIMENTS[name](lab, seed)
            for row, made in stores[name].fill(name, seed, rows, partial(_begins, seed, name)):
                print(f"seed {seed}  {name:<10}  {row:<32}  accuracy {made['accuracy']:.3f}  "
                      f"{made.get('train_seconds', 0):.0f} + {made['seconds']:.1f} s", flush=True)
                made_now += 1
            write(options.out)
    if not made_now:
        print(f"every row is in {options.out} already: --out FOLDER measures them anew")


def _begins(seed: int, name: str, row: str) -> None:
    print(f"seed {seed}  {name:<10}  {row:<32}  begins", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 on bad options, results made with other settings, or a model that can't be loaded."""
    options = parse(arguments)
    flush_denormals()
    try:
        run(options)
    except (ValueError, CheckpointError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
