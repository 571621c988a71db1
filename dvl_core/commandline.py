"""What the command lines that ask a model something share: options, the question, the engine, the file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .decoding.config import MAX_BLOCK_SIZE, MAX_NEW_TOKENS, DecodingConfig
from .decoding.strategies import STRATEGIES, STRATEGY_PARAMETERS
from .engine import Engine, EngineError, Limits
from .machine import machine
from .models.loading import load_model
from .processing.conversation import as_characters
from .turns import FairLock

_HELP = {
    "block_size": "tokens denoised together (default: the model's)",
    "steps": "denoising steps per block (default: one per token of the block)",
    "max_new_tokens": "longest answer, in tokens (default: 128)",
    "strategy": f"what a step reveals: {', '.join(STRATEGIES)} (default: low_confidence_static)",
    "temperature": "0 = most likely token, above 0 = sample (default: 0)",
    "top_k": "sample among the k most likely tokens; 0 = all (default: 0)",
    "top_p": "sample among the likeliest tokens with this much probability (default: 1)",
    "seed": "of everything random (default: 0)",
    "lookahead": "steps guessed in every pass: the same answer in fewer passes (default: 0)",
    "reference_compatible": "decode exactly as the published code, quirks and forward counts included",
} | {name: f"for {strategy}" for strategy, name in STRATEGY_PARAMETERS.items()}


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per field of `DecodingConfig`; those not given stay out of the namespace's settings."""
    group = parser.add_argument_group("decoding")
    for field in fields(DecodingConfig):
        flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        if kind is bool:
            group.add_argument(flag, action="store_true", default=None, help=_HELP[field.name])
        else:
            group.add_argument(flag, type=kind, default=None, metavar=kind.__name__.upper(), help=_HELP[field.name])


def decoding_config(arguments: argparse.Namespace, trained_block_size: int) -> DecodingConfig:
    """The settings given on the command line; the rest as the model was trained. Raises ValueError."""
    given = {f.name: getattr(arguments, f.name) for f in fields(DecodingConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    refuse_idle(given, given.get("strategy", DecodingConfig.strategy))
    given.setdefault("block_size", trained_block_size)
    given.setdefault("steps", given["block_size"])
    return DecodingConfig(**given)


def refuse_idle(given: Iterable[str], strategy: str) -> None:
    """Refuse a strategy's own setting beside another strategy, where it would change nothing. Raises ValueError.

    Args:
        given: names of the settings that were asked for.
        strategy: the one that they go with.
    """
    for owner, name in STRATEGY_PARAMETERS.items():
        if name in given and owner != strategy:
            raise ValueError(f"{name} is for the strategy {owner}: add --strategy {owner}, or leave it out.")


def add_question_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which model is asked what, on which device."""
    parser.add_argument("--model", required=True, help="checkpoint folder, or repository on the Hugging Face Hub")
    parser.add_argument("--image", type=Path, action="append", default=[], help="picture; may be given several times")
    parser.add_argument("--prompt", required=True, help="the question")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps, or balanced (several GPUs)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")


def question(arguments: argparse.Namespace) -> list[dict]:
    """The conversation that the options ask for, as an engine takes it."""
    pictures = [{"type": "image", "image": str(path)} for path in arguments.image]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": arguments.prompt}]}]


def load_engine(source: str, arguments: argparse.Namespace, turn: FairLock | None = None) -> Engine:
    """An engine with every limit of the decoder itself. Raises ValueError for what can't be loaded."""
    model, processor = load_model(source, arguments.device, arguments.dtype)
    limits = Limits(max_new_tokens=MAX_NEW_TOKENS, max_block_size=MAX_BLOCK_SIZE)
    return Engine(model, processor, limits, name=Path(source).name, turn=turn)


def check_file(option: str, path: Path | None) -> None:
    """Refuse a file that can't be written before the work begins. Raises ValueError."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise ValueError(f"{option}: the folder {path.parent} does not exist; make it first.")
    if path.is_dir():
        raise ValueError(f"{option}: {path} is a folder; name a file.")
    there = path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise ValueError(f"{option}: {path} can't be written ({error.strerror}).") from error
    if not there:
        path.unlink()


def write_measured(arguments: argparse.Namespace, engine: Engine, measured: dict[str, Any]) -> None:
    """What was measured into the file `--out`, if one was asked for, with machine, model and question before it."""
    if arguments.out:
        asked = as_characters(arguments.prompt)
        about = {"machine": machine(engine.model.device), "model": engine.name, "question": asked}
        text = json.dumps(about | measured, ensure_ascii=False) + "\n"
        arguments.out.write_bytes(text.encode("utf-8"))


def run_command(work: Callable[[], None]) -> int:
    """Do the work of a command. Exit status: 0 done, 2 the input can't be used (one sentence on standard error)."""
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        work()
    except (ValueError, EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
