"""Command line of the translation.

    python -m dvl_core.translate Qwen/Qwen2.5-VL-3B-Instruct models/dvl-3b
    python -m dvl_core.translate Qwen/Qwen2.5-7B-Instruct models/dvl-7b \\
        --vision-tower google/siglip2-so400m-patch14-384
    python -m dvl_core.translate Qwen/Qwen3-VL-4B-Instruct models/dvl-qwen3 --block-size 4
    python -m dvl_core.translate models/trained models/for-others                  (the published layout)
    python -m dvl_core.translate models/trained models/qwen --layout stock         (a plain Qwen2.5-VL)

SOURCE is a folder or a Hugging Face repository of Qwen2.5-VL, of Qwen3-VL, of LLaVA-OneVision, or of a Qwen2 or
Qwen2.5 language model, which also needs a SigLIP or SigLIP2 vision tower. The result loads with
`dvl_core.load_model`. It is not trained: as an autoregressive model (`model.autoregress`, or --parent) it is as good
as its source, as a diffusion model it has everything still to learn.

What changes: nothing in the weights, except
- the mask token: the tokenizer's own if it has one, else `<|mask|>`, at id 151671 where the vocabulary leaves that id
  free (as in the published checkpoints), otherwise at the next free id. The input embedding of a new one begins as
  the mean of the input embeddings; with tied embeddings its own logit follows, the others are the parent's.
- a language model's projector and newline are drawn at random (--seed), and the vision tower loses its last layer and
  its pooling head, as published.
- positions are 1-D, also for pictures, where Qwen's own are 2-D ("M-RoPE"): published, and learnt in training.

Weights are read and written shard by shard; no more than one shard is held in memory. A run that was stopped leaves
no model behind, and goes on where it was when the same command is given again. To turn a trained model back, give it
as SOURCE: as it is in the published layout, that other people's code reads, or with --layout stock as a checkpoint
of its parent's plain class.
"""

from __future__ import annotations

import argparse
import sys

from .translation import TranslationConfig, translate
from .translation.config import DTYPES, LAYOUTS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked by argparse."""
    default = TranslationConfig()
    parser = argparse.ArgumentParser(
        prog="python -m dvl_core.translate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="checkpoint to translate (folder or repository)")
    parser.add_argument("destination", metavar="DESTINATION", help="folder to make; must not exist")
    parser.add_argument("--vision-tower", metavar="SIGLIP", help="vision tower of a language model")
    parser.add_argument("--layout", choices=LAYOUTS, default=default.layout,
                        help="stock: turn a translated checkpoint back into its parent's class")  # fmt: skip
    parser.add_argument("--parent", action="store_true", help="write the autoregressive parent in the same layout")
    parser.add_argument("--block-size", type=int, default=default.block_size, help="tokens per block (default 8)")
    parser.add_argument("--mask-token", help="spelling of the mask token (default: the tokenizer's, else <|mask|>)")
    parser.add_argument("--dtype", choices=DTYPES, default=default.dtype, help="of the weights (default: keep)")
    parser.add_argument("--max-shard-size", default=default.max_shard_size, help="largest file (default 5GB)")
    parser.add_argument("--min-pixels", type=int, default=default.min_pixels,
                        help="smallest picture of a Qwen-VL model (default 147456, as published)")  # fmt: skip
    parser.add_argument("--max-pixels", type=int, default=default.max_pixels,
                        help="largest picture of a Qwen-VL model (default 262144, as published)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=default.seed, help="of what is drawn at random (default 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 on bad options or a source that can't be translated."""
    options = vars(parse(arguments))
    source, destination, quiet = (options.pop(name) for name in ("source", "destination", "quiet"))
    try:
        made = translate(source, destination, TranslationConfig(**options), progress=not quiet)
    except (ValueError, OSError) as error:
        print(f"translate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("translate: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    size = f"{made.tensors} tensors, {made.bytes / 1e6:,.1f} MB"
    print(f"{made.destination}: {made.model_type}, {size}, files of weights: {made.shards}")
    if made.mask_added:
        print(f"mask token {made.mask_token} added as {made.mask_id}, its embedding the mean of the others")
    return 0


if __name__ == "__main__":
    sys.exit(main())
