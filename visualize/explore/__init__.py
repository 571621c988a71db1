"""The explore page's files as text, for a live page (`gr.HTML`) or a saved one; and the same chart for print."""

from __future__ import annotations

from pathlib import Path

from visualize import strings
from visualize.explore.figure import figure
from visualize.theme import css_variables

__all__ = ["CSS", "LIVE_SCRIPT", "SCRIPT", "TEMPLATE", "figure"]

_HERE = Path(__file__).parent
_FILES = ("marks.js", "chart.js", "table.js", "explore.js")

TEMPLATE = (_HERE / "template.html").read_text(encoding="utf-8")
CSS = css_variables() + (_HERE / "explore.css").read_text(encoding="utf-8")
SCRIPT = "\n".join(
    [strings.script("explore", "strategy", "trouble"), *((_HERE / name).read_text(encoding="utf-8") for name in _FILES)]
)
LIVE_SCRIPT = SCRIPT + "\n" + (_HERE / "live.js").read_text(encoding="utf-8")
