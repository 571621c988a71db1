"""What the page says, in English and Chinese: one JSON file per part of the page, `key -> {"en": ..., "zh": ...}`.

Scripts get a part with `script(part)`, which defines `say(key, values)`; Python gets it with `table(part)`. A sentence
names its values in braces: "step {n}". The language is the browser's, or the one chosen on the page.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

LANGUAGES = ("en", "zh")
_HERE = Path(__file__).parent
_SAY = (_HERE / "say.js").read_text(encoding="utf-8")


@cache
def table(part: str) -> dict[str, dict[str, str]]:
    """The sentences of one part of the page."""
    return json.loads((_HERE / f"{part}.json").read_text(encoding="utf-8"))


def by_language(*parts: str) -> dict[str, dict[str, str]]:
    """language -> key -> sentence, for all `parts` together."""
    return {name: {key: texts[name] for part in parts for key, texts in table(part).items()} for name in LANGUAGES}


def chosen(key: str) -> str:
    """JavaScript for one sentence, in the browser's language."""
    texts = json.dumps(table(key.partition(".")[0])[key], ensure_ascii=False).replace("<", "\\u003c")
    return f'({texts})[navigator.language.startsWith("zh") ? "zh" : "en"]'


def script(*parts: str) -> str:
    """JavaScript that defines `say(key, values)` and `sayAll(root)` for the sentences of `parts`."""
    texts = json.dumps(by_language(*parts), ensure_ascii=False).replace("<", "\\u003c")
    return f"const DVL_TEXTS = {texts};\n{_SAY}"
