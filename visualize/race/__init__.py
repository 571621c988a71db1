"""The race's files as text: two recorded runs replayed on one time axis, in a live page (`gr.HTML`) or a saved one."""

from __future__ import annotations

from pathlib import Path

from visualize import strings
from visualize.theme import css_variables

_HERE = Path(__file__).parent
_SHARED = [(_HERE.parent / "player" / name).read_text(encoding="utf-8") for name in ("text.js", "passes.js")]

TEMPLATE = (_HERE / "template.html").read_text(encoding="utf-8")
CSS = css_variables() + (_HERE / "race.css").read_text(encoding="utf-8")
_RACE = (_HERE / "race.js").read_text(encoding="utf-8")
SCRIPT = "\n".join((strings.script("race", "strategy", "trouble"), *_SHARED, _RACE))
LIVE_SCRIPT = SCRIPT + "\n" + (_HERE / "live.js").read_text(encoding="utf-8")
