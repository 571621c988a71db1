"""Train a model from one file of settings.

    python -m dvl_core.train --config assets/configs/tinyvl.yaml
    accelerate launch -m dvl_core.train --config assets/configs/qwen2.5vl-7b.yaml --set batch=128
    ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node 2 -m dvl_core.train --config FILE

The last one is for several processes without GPUs. The same command continues a run that was stopped, at the exact
sample it had reached.
"""

from __future__ import annotations

import argparse
import sys

from .models.precision import flush_denormals
from .training.config import load_config
from .training.trainer import Trainer


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m dvl_core.train", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML or JSON file; its fields: dvl_core/training/config.py")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                        help="override a field by its dotted name; may be given several times")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 on a configuration, a checkpoint or data that can't be used (one sentence on standard error), 130
    when it is stopped from the keyboard."""
    options = parse(arguments)
    try:
        config = load_config(options.config, options.set)
        flush_denormals()
        trainer = Trainer(config)
        finished = trainer.run()
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train: stopped; the same command goes on from the last checkpoint, if there is one", file=sys.stderr)
        return 130
    if trainer.accelerator.is_main_process:
        print(f"the trained model is in {finished}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
