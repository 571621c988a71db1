"""Turns a trace into files:

    python -m visualize.export trace.json run.html run.gif run.png heatmap.svg steps.csv --mode dark

The ending of a name says what it becomes. The trace may also be an exported page. Ends with 2 and one sentence when
something can't be done; what was written before that stays.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dvl_core.trace import TraceError
from visualize.export import FORMATS, MODES, format_of, load
from visualize.heatmap import CannotDraw


class CannotExport(Exception):
    """One sentence for the person at the terminal."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 2 after a sentence on stderr."""
    options = _options(arguments)
    try:
        export(options.trace, options.out, options.mode)
    except CannotExport as error:
        print(f"{error}", file=sys.stderr)
        return 2
    return 0


def export(source: str, targets: list[str], mode: str) -> None:
    """Write every target; unknown endings are refused before anything is drawn."""
    for target in targets:
        if format_of(Path(target).name) is None:
            raise CannotExport(f"{target} has no ending that is known; there is {', '.join(FORMATS)}.")
    try:
        trace = load(source)
    except TraceError as error:
        raise CannotExport(f"{source} can't be read as a trace. {error}") from error
    except OSError as error:
        raise CannotExport(f"{source} can't be read: {error.strerror or error}.") from error
    for target in targets:
        try:
            made = format_of(Path(target).name).make(trace, mode)
            Path(target).write_bytes(made)
        except CannotDraw as error:
            raise CannotExport(f"{target} can't be made. {error}") from error
        except OSError as error:
            raise CannotExport(f"{target} can't be written: {error.strerror or error}.") from error
        print(f"{target}  {len(made) / 1000:,.0f} kB")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    endings = "\n".join(f"  {ending:<15} {kind.about}" for ending, kind in FORMATS.items())
    parser = argparse.ArgumentParser(
        "python -m visualize.export", description=__doc__.split("\n\n")[0], epilog=f"endings:\n{endings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("trace", help="a trace file, or a page that was exported before")
    parser.add_argument("out", nargs="+", help="files to write")
    parser.add_argument("--mode", choices=MODES, default="light", help="colours of what is drawn (default: light)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
