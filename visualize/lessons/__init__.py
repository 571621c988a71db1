"""The teaching page's files as text, ready for a live page (`gr.HTML`)."""

from __future__ import annotations

from pathlib import Path

from visualize import strings
from visualize.theme import css_variables

_HERE = Path(__file__).parent
_TEXT = _HERE.parent / "player" / "text.js"
_FILES = ("record.js", "draft.js", "noise.js", "mask.js", "cache.js", "tour.js", "guess.js", "lessons.js")

TEMPLATE = (_HERE / "template.html").read_text(encoding="utf-8")
CSS = css_variables() + (_HERE / "lessons.css").read_text(encoding="utf-8")
_PATHS = (_TEXT, *(_HERE / name for name in _FILES))
SCRIPT = "\n".join([strings.script("lessons", "strategy"), *(path.read_text(encoding="utf-8") for path in _PATHS)])
LIVE_SCRIPT = SCRIPT + "\n" + (_HERE / "live.js").read_text(encoding="utf-8")
