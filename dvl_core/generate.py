"""Answer one question about one picture from the command line: `python -m dvl_core.generate --help`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .commandline import (
    add_decoding_arguments,
    add_question_arguments,
    check_file,
    decoding_config,
    load_engine,
    question,
    run_command,
)
from .decoding.observe import Observe


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dvl_core.generate", description=__doc__)
    add_question_arguments(parser)
    parser.add_argument("--trace", type=Path, help="write the run, step by step, to this JSON file")
    parser.add_argument("--candidates", type=int, default=0, help="candidates per token to keep in the trace")
    parser.add_argument("--entropy", action="store_true", help="keep the entropy of every proposal in the trace")
    parser.add_argument("--attention", type=int, nargs="+", default=[], metavar="LAYER",
                        help="decoder layers whose attention to the pictures to keep; -1 is the last")
    parser.add_argument("--json", action="store_true", help="print text, ids, forwards, tokens_per_forward, seconds")
    add_decoding_arguments(parser)
    return parser.parse_args(argv)


def answer(arguments: argparse.Namespace) -> None:
    """Answer and print. Raises ValueError, EngineError or OSError for what can't be used."""
    decoding_config(arguments, trained_block_size=8)  # refuse bad settings before a large model loads
    check_file("trace", arguments.trace)
    if not arguments.trace and (arguments.candidates or arguments.entropy or arguments.attention):
        raise ValueError("candidates, entropy and attention are kept in the trace: add --trace FILE.")
    observe = Observe(arguments.candidates, arguments.entropy, tuple(arguments.attention))
    engine = load_engine(arguments.model, arguments)
    config = decoding_config(arguments, engine.trained_block_size)
    trace = engine.answer(question(arguments), config, observe=observe)
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


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `commandline.run_command`."""
    arguments = parse_arguments(argv)
    return run_command(lambda: answer(arguments))


if __name__ == "__main__":
    sys.exit(main())
