"""The player's files as text, ready for a live page (`gr.HTML`) or a saved one."""

from __future__ import annotations

from pathlib import Path

from visualize.theme import css_variables

_HERE = Path(__file__).parent

TEMPLATE = (_HERE / "template.html").read_text(encoding="utf-8")
CSS = css_variables() + (_HERE / "player.css").read_text(encoding="utf-8")
SCRIPT = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("text.js", "heatmap.js", "player.js"))
LIVE_SCRIPT = SCRIPT + "\n" + (_HERE / "live.js").read_text(encoding="utf-8")
