"""Train a model from one file of settings.

    python -m dvl_core.train --config assets/configs/tinyvl.yaml
    accelerate launch -m dvl_core.train --config assets/configs/qwen2.5vl-7b.yaml --set batch=128

The same command continues a run that was stopped, at the exact sample it had reached.
"""

from __future__ import annotations

import argparse
import sys

from .training.config import load_config
from .training.precision import flush_denormals
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
    """Entry point; 2 on a configuration, a checkpoint or data that can't be used (one sentence on standard error)."""
    options = parse(arguments)
    try:
        config = load_config(options.config, options.set)
        flush_denormals()
        Trainer(config).run()
    except ValueError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
