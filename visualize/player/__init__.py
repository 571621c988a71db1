"""The player's files as text, ready for a live page (`gr.HTML`) or a saved one."""

from __future__ import annotations

from pathlib import Path

from visualize import strings
from visualize.theme import css_variables

_HERE = Path(__file__).parent

TEMPLATE = (_HERE / "template.html").read_text(encoding="utf-8")
CSS = css_variables() + "".join((_HERE / name).read_text(encoding="utf-8") for name in ("player.css", "panels.css"))
_MODULES = (
    "text", "passes", "run", "cells", "blocks", "heatmap", "inspector", "overlay", "changes", "branches", "keyboard",
    "player",
)  # fmt: skip
SCRIPT = "\n".join(
    [strings.script("player", "strategy"), *((_HERE / f"{name}.js").read_text(encoding="utf-8") for name in _MODULES)]
)
LIVE_SCRIPT = SCRIPT + "\n" + (_HERE / "live.js").read_text(encoding="utf-8")
REPLAY_SCRIPT = SCRIPT + "\n" + (_HERE / "replay.js").read_text(encoding="utf-8")
