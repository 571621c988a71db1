"""Command line of the benchmarks.

    python -m dvl_core.evaluate --model assets/tinyvl --parent assets/tinyvl-ar --tasks all --samples 200 --json
    python -m dvl_core.evaluate --model assets/tinyvl --pictures tests/data/foreign

Exact match per task on TinyWorld pictures that training never drew, or right answers per kind on a folder of pictures
with a questions.json (its format: dvl_core/evaluation/pictures.py). Block diffusion at the chosen settings, and greedy
autoregressive decoding of the parent where one is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields

from .commandline import refuse_idle
from .decoding import DecodingConfig
from .decoding.strategies import STRATEGIES
from .evaluation import evaluate, evaluate_pictures, load_questions, mean_exact, share_right
from .models.loading import check_folder, load_model, outline_parent
from .tinyworld import TASKS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked by argparse."""
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="checkpoint to evaluate (folder or repository)")
    parser.add_argument("--parent", help="its autoregressive parent, evaluated too")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--pictures", metavar="FOLDER", help="ask about the pictures of this folder, not TinyWorld's")
    what.add_argument("--tasks", default="all", help=f"all, or some of {','.join(TASKS)}")
    parser.add_argument("--easy", action="store_true", help="TinyWorld's pictures with little in them, plainly drawn")
    parser.add_argument("--samples", type=int, default=200, help="questions per task (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="which test pictures (default 0)")
    parser.add_argument("--batch", type=int, default=16, help="questions answered at once (default 16)")
    parser.add_argument("--block-size", type=int, help="default: what the model was trained with")
    parser.add_argument("--steps", type=int, default=8, help="denoising steps per block (default 8)")
    parser.add_argument("--strategy", default="low_confidence_static", choices=list(STRATEGIES))
    parser.add_argument("--threshold", type=float, help="of low_confidence_dynamic (default 0.85)")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="longest answer (default 96)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--mistakes", action="store_true",
                        help="list the first wrong answers of every task (--pictures always lists all)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser.parse_args(arguments)


def decoding_config(options: argparse.Namespace, block_size: int) -> DecodingConfig:
    """The settings asked for; `block_size` where the options name none."""
    refuse_idle(() if options.threshold is None else ("threshold",), options.strategy)
    return DecodingConfig(
        block_size=block_size if options.block_size is None else options.block_size,
        steps=options.steps,
        strategy=options.strategy,
        threshold=DecodingConfig.threshold if options.threshold is None else options.threshold,
        max_new_tokens=options.max_new_tokens,
    )


def check(options: argparse.Namespace) -> None:
    """Refuse bad options before a model is loaded. Raises ValueError naming the option's value and range."""
    decoding_config(options, 8)
    for name in ("samples", "batch"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}={getattr(options, name)} must be at least 1")
    check_folder(options.model)
    if options.parent:
        outline_parent(options.parent)
    if options.pictures and options.easy:
        raise ValueError("easy is about TinyWorld's pictures: leave it out with --pictures")
    if options.pictures:
        load_questions(options.pictures)
    unknown = [] if options.tasks == "all" else [t for t in options.tasks.split(",") if t not in TASKS]
    if unknown:
        raise ValueError(f"task {unknown[0]!r} must be one of {', '.join(TASKS)}")


def report(path: str, options: argparse.Namespace) -> dict:
    """Evaluate one checkpoint; prints rows as they come unless --json."""
    model, processor = load_model(path, device=options.device)
    config = decoding_config(options, model.config.bd3lm_block_size)
    diffusion = model.config.enable_bd3lm
    if not options.json:
        print(f"{path}: {'block diffusion' if diffusion else 'autoregressive, greedy'}")
    result = {"model": path, "decoding": "block diffusion" if diffusion else "autoregressive"}
    if diffusion:
        result["config"] = {f.name: getattr(config, f.name) for f in fields(config)}
    ask = report_pictures if options.pictures else report_tasks
    return result | ask(model, processor, options, config)


def report_tasks(model, processor, options: argparse.Namespace, config: DecodingConfig) -> dict:
    """Exact match on TinyWorld, task by task."""
    if not options.json:
        print(f"{'task':<10} {'exact':>6} {'steps':>7} {'tokens/step':>12} {'seconds':>8}")
    scores = []
    tasks = None if options.tasks == "all" else options.tasks.split(",")
    for score in evaluate(model, processor, tasks, options.samples, options.seed, config, options.batch,
                          options.easy):
        scores.append(score)
        if not options.json:
            print(f"{score.task:<10} {score.exact:>6.3f} {score.steps:>7.1f} {score.tokens_per_step:>12.2f} "
                  f"{score.seconds:>8.1f}", flush=True)
            for seed, question, wanted, given in score.mistakes if options.mistakes else ():
                print(f"    seed {seed}: {question!r} wanted {wanted!r} got {given!r}")
    if not options.json:
        print(f"{'mean':<10} {mean_exact(scores):>6.3f}\n")
    tasks_out = {s.task: {k: v for k, v in asdict(s).items() if k != "task"} for s in scores}
    if not options.mistakes:
        for entry in tasks_out.values():
            entry.pop("mistakes")
    asked = {"samples": options.samples, "seed": options.seed, "easy": options.easy}
    return asked | {"mean_exact": mean_exact(scores), "tasks": tasks_out}


def report_pictures(model, processor, options: argparse.Namespace, config: DecodingConfig) -> dict:
    """Right answers about a folder of pictures, kind by kind, the wrong ones listed."""
    if not options.json:
        print(f"{'kind':<10} {'right':>8} {'share':>6} {'steps':>7} {'tokens/step':>12} {'seconds':>8}")
    scores = []
    for score in evaluate_pictures(model, processor, options.pictures, config, options.batch):
        scores.append(score)
        if not options.json:
            print(f"{score.kind:<10} {f'{score.right}/{score.questions}':>8} {score.right / score.questions:>6.3f} "
                  f"{score.steps:>7.1f} {score.tokens_per_step:>12.2f} {score.seconds:>8.1f}", flush=True)
            for file, question, wanted, given in score.mistakes:
                print(f"    {file}: {question!r} wanted {wanted!r} got {given!r}")
    right, asked = sum(s.right for s in scores), sum(s.questions for s in scores)
    if not options.json:
        print(f"{'all':<10} {f'{right}/{asked}':>8} {share_right(scores):>6.3f}\n")
    kinds = {s.kind: {k: v for k, v in asdict(s).items() if k != "kind"} for s in scores}
    return {"pictures": options.pictures, "questions": asked, "share_right": share_right(scores), "kinds": kinds}


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 on bad options or a model that can't be loaded."""
    options = parse(arguments)
    try:
        check(options)
        results = [report(path, options) for path in (options.model, options.parent) if path]
    except ValueError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(results if len(results) > 1 else results[0], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
