"""Measure this machine.

    python -m dvl_core.benchmark --suite decode --size 58m
    python -m dvl_core.benchmark --suite decode --size assets/tinyvl
    python -m dvl_core.benchmark --suite decode --size 7b --device cuda --dtype bfloat16
    python -m dvl_core.benchmark --suite observe,train,app,growth --json

Variants that are compared run in turn in one process; what is printed are medians with the fastest and slowest run, and
ratios between variants of one run. Nothing else should use the machine meanwhile. `--out FOLDER` keeps the numbers; the
plots are drawn from them with `python -m visualize.benchmark FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from ..folders import make_folder
from ..machine import machine
from ..models.loading import check_folder, resolve_device, resolve_dtype
from .sizes import SIZES, check_size
from .suites import SAME_LOSS, app_suite, decode_suite, growth_suite, observe_suite, train_suite

BLOCK = 8  # tokens that the decode suite denoises together
SUITES = ("decode", "growth", "observe", "train", "app")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="decode", help=f"one or more of {', '.join(SUITES)}, with commas")
    parser.add_argument("--size", default="58m", help=f"{', '.join(SIZES)}: a random model; or a checkpoint folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto",
                        help="auto (float32 on a CPU, else bfloat16), float32, bfloat16 or float16")  # fmt: skip
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--answer", type=int, default=128, help="tokens of the answer")
    parser.add_argument("--answers", default="32,64,128,256,512,1024", help="growth suite: tokens of the answer")
    parser.add_argument("--pictures", default="64,256,1024,4096", help="growth suite: tokens of the picture")
    parser.add_argument("--batches", default="1,2,4,8,16", help="growth suite: conversations at once")
    parser.add_argument("--model", type=Path, default=Path("assets/tinyvl"), help="folder, for the app suite")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of every variant")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--out", type=Path, help="folder to keep the numbers in, one file per suite and size")
    return parser.parse_args(argv)


def run_suite(name: str, options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The numbers of one suite."""
    if name == "decode":
        return decode_suite(options.size, device, dtype, options.prompt, options.answer, options.repeats)
    if name == "growth":
        return growth_suite(options.size, device, dtype, grown_counts(options), options.repeats)
    if name == "observe":
        return observe_suite(options.size, device, dtype, options.repeats)
    if name == "train":
        return train_suite(options.size, device, dtype, options.prompt, options.answer, options.repeats)
    return app_suite(options.model, device, dtype, options.repeats)


def check(options: argparse.Namespace) -> list[str]:
    """The suites asked for, before anything is measured; makes the folder of the numbers.

    Raises:
        ValueError: naming the option that can't be.
    """
    names = [name.strip() for name in options.suite.split(",")]
    for name in names:
        if name not in SUITES:
            raise ValueError(f"suite must be one of {', '.join(SUITES)}; got {name!r}.")
    for option in ("repeats", "prompt", "answer"):
        if getattr(options, option) < 1:
            raise ValueError(f"{option} must be at least 1; got {getattr(options, option)}.")
    for option in ("prompt", "answer") if "decode" in names else ():
        if getattr(options, option) % BLOCK:
            raise ValueError(f"{option} must be whole blocks of {BLOCK} tokens; got {getattr(options, option)}.")
    if "growth" in names:
        grown_counts(options)
    if names != ["app"]:
        check_size(options.size)
    if "app" in names:
        check_folder(str(options.model))
    if options.out:
        make_folder("out", options.out)
    return names


def measured_dtype(name: str, device: torch.device, suites: list[str]) -> torch.dtype:
    """The dtype asked for. Raises ValueError for one that does not exist, or in which nobody trains."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = resolve_dtype(name, device)
    if "train" in suites and dtype not in SAME_LOSS:
        raise ValueError(f"dtype must be float32 or bfloat16 for the train suite; got {name!r}.")
    return dtype


def grown_counts(options: argparse.Namespace) -> dict[str, list[int]]:
    """What grows in the growth suite, and how far."""
    return {
        "answer": _counts("answers", options.answers),
        "picture": _counts("pictures", options.pictures),
        "batch": _counts("batches", options.batches),
    }


def _counts(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{option} must be whole numbers above 0 with commas between them; got {text!r}.")
    return [int(part) for part in parts]


def table(result: dict[str, Any]) -> str:
    """A suite's rows as a Markdown table."""
    heading = f"{result['suite']}, {result['size']}"
    if "floor_milliseconds" in result:
        heading += (
            f": {result['parameters'] / 1e6:.1f} M parameters in {result['dtype']}, prompt {result['prompt']}, answer "
            f"{result['answer']}; reading the weights once takes {result['floor_milliseconds']:.2f} ms at the copy "
            f"bandwidth of {result['bandwidth'] / 1e9:.1f} GB/s, a pass of ours {result['floor_ratio']:.2f} times "
            f"that; same ids as the plain loop: {result['same_ids_as_plain']}"
        )
        if result["first_difference"] is not None:
            heading += f", up to token {result['first_difference']}"
    if "same_loss" in result:
        heading += (
            f": {result['batch']} rows of {result['prompt']} + {result['answer']} tokens, forward and backward pass; "
            f"same loss as the doubled sequence: {result['same_loss']}"
        )
    columns = ("variant", "tokens", "forwards", "seconds (fastest to slowest)", "ms per forward", "tokens/s", "ratio")
    about = result["machine"]
    where = f"On {about.get('gpu') or about['processor']}; {about['threads']} threads, torch {about['torch']}."
    lines = [heading, where, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in result["rows"]:
        name = f"{row['name']}, {row['grows']} {row['at']}" if "grows" in row else row["name"]
        lines.append(
            f"| {name} | {row['tokens']} | {row['forwards']} | {row['seconds']:.4f} ({row['fastest']:.4f} to "
            f"{row['slowest']:.4f}) | {row['milliseconds_per_forward']:.3f} | {row['tokens_per_second']:.1f} "
            f"| {row['ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 measured, 2 an option can't be used (one sentence on standard error)."""
    options = parse_arguments(argv)
    results = []
    try:
        names = check(options)
        device, _ = resolve_device(options.device)
        dtype = measured_dtype(options.dtype, device, names)
        for name in names:
            result = run_suite(name, options, device, dtype) | {"machine": machine(device)}
            results.append(result)
            if options.out:
                file = options.out / f"{result['suite']}-{result['size']}-{device.type}.json"
                file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            if not options.json:
                print(table(result), flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
