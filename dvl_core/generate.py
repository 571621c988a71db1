"""Answer one question about one picture from the command line: `python -m dvl_core.generate --help`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from transformers.utils import logging

from .decoding.config import MAX_BLOCK_SIZE, MAX_NEW_TOKENS, DecodingConfig
from .decoding.observe import Observe
from .decoding.strategies import STRATEGIES, STRATEGY_PARAMETERS
from .engine import Engine, EngineError, Limits
from .models.loading import load_model

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
    given.setdefault("block_size", trained_block_size)
    given.setdefault("steps", given["block_size"])
    return DecodingConfig(**given)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dvl_core.generate", description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint folder, or repository on the Hugging Face Hub")
    parser.add_argument("--image", type=Path, action="append", default=[], help="picture; may be given several times")
    parser.add_argument("--prompt", required=True, help="the question")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps, or balanced (several GPUs)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--trace", type=Path, help="write the run, step by step, to this JSON file")
    parser.add_argument("--candidates", type=int, default=0, help="candidates per token to keep in the trace")
    parser.add_argument("--entropy", action="store_true", help="keep the entropy of every proposal in the trace")
    parser.add_argument("--attention", type=int, nargs="+", default=[], metavar="LAYER",
                        help="decoder layers whose attention to the pictures to keep; -1 is the last")
    parser.add_argument("--json", action="store_true", help="print text, ids, forwards, tokens_per_forward, seconds")
    add_decoding_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 answered, 2 the input can't be used (one sentence on standard error)."""
    arguments = parse_arguments(argv)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        decoding_config(arguments, trained_block_size=8)  # refuse bad settings before a large model loads
        if arguments.trace and not arguments.trace.parent.is_dir():
            raise ValueError(f"trace: the folder {arguments.trace.parent} does not exist; make it first.")
        if arguments.trace and arguments.trace.is_dir():
            raise ValueError(f"trace: {arguments.trace} is a folder; name a file.")
        observe = Observe(arguments.candidates, arguments.entropy, tuple(arguments.attention))
        model, processor = load_model(arguments.model, arguments.device, arguments.dtype)
        limits = Limits(max_new_tokens=MAX_NEW_TOKENS, max_block_size=MAX_BLOCK_SIZE)
        engine = Engine(model, processor, limits, name=Path(arguments.model).name)
        config = decoding_config(arguments, model.config.bd3lm_block_size)
        pictures = [{"type": "image", "image": str(path)} for path in arguments.image]
        messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": arguments.prompt}]}]
        trace = engine.answer(messages, config, observe=observe)
    except (ValueError, EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.trace:
        trace.save(arguments.trace)
    if arguments.json:
        result = {
            "text": trace.text,
            "ids": trace.answer_ids(),
            "forwards": trace.forwards,
            "tokens_per_forward": round(trace.tokens_per_forward, 3),
            "seconds": round(trace.seconds, 4),
            "finish_reason": trace.finish_reason,
        }
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(trace.text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
