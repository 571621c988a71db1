"""Take a run home: every kind of file that a trace can become, drawn from the trace alone.

    python -m visualize.export trace.json run.html run.gif run.png heatmap.svg steps.csv

`FORMATS` is the one place where a kind of file is added: the ending of its name, its media type, and a function that
makes its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dvl_core.trace import DenoisingTrace, TraceError
from visualize import heatmap
from visualize.export.animation import gif, png
from visualize.export.page import page_of_trace, trace_of_page
from visualize.export.table import csv_bytes

__all__ = ["FORMATS", "MODES", "Format", "format_of", "load", "trace_of_page"]

MODES = ("light", "dark")


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        media_type: as HTTP names it.
        make: `(trace, mode) -> bytes`; `mode` is "light" or "dark". Raises `heatmap.CannotDraw`, a ValueError whose
            message is a sentence, where the run holds no such observation or is far too large.
        about: what it is, in a few words.
    """

    media_type: str
    make: Callable[[DenoisingTrace, str], bytes]
    about: str


def _html(trace: DenoisingTrace, mode: str) -> bytes:
    return page_of_trace(trace).encode("utf-8", errors="replace")  # the page follows the reader's system


def _csv(trace: DenoisingTrace, mode: str) -> bytes:
    return csv_bytes(trace)


def _json(trace: DenoisingTrace, mode: str) -> bytes:
    return json.dumps(trace.to_json(), ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")


def _figure(kind: str, suffix: str, trace: DenoisingTrace, mode: str) -> bytes:
    return heatmap.figure_bytes(trace, kind, mode, suffix)


FORMATS: dict[str, Format] = {
    "html": Format("text/html; charset=utf-8", _html, "the player with the run, in one page that needs no network"),
    "gif": Format("image/gif", gif, "the answer being denoised, animated"),
    "png": Format("image/png", png, "the finished canvas with its heatmap, for print"),
    "svg": Format("image/svg+xml", partial(_figure, "confidence", "svg"), "the confidence heatmap, as vectors"),
    "csv": Format("text/csv; charset=utf-8", _csv, "a row per step and masked position"),
    "json": Format("application/json", _json, "the trace"),
}
for _kind in heatmap.KINDS:
    for _suffix, _type, _how in (("svg", "image/svg+xml", "vectors"), ("png", "image/png", "pixels")):
        FORMATS[f"{_kind}.{_suffix}"] = Format(
            _type, partial(_figure, _kind, _suffix), f"the {_kind} heatmap, as {_how}"
        )


def format_of(name: str) -> Format | None:
    """The format of a file called `name`, by the longest ending that fits ("run.entropy.svg"); None = unknown."""
    fitting = [ending for ending in FORMATS if f".{name.lower()}".endswith(f".{ending}")]
    return FORMATS[max(fitting, key=len)] if fitting else None


def load(path: str | Path) -> DenoisingTrace:
    """The trace in a trace file or in an exported page. Raises `TraceError` when it is neither, `OSError` as usual."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        return DenoisingTrace.load(path)
    try:
        return trace_of_page(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise TraceError(f"{path.name} is not an exported page: it is not UTF-8.") from error
