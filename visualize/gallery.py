"""What the page shows before anybody has asked: example questions, and recorded runs, read from a folder.

    FOLDER/examples.json     [{"image", "question", "title", ...}, ...]
    FOLDER/*.png             their pictures
    FOLDER/recorded/*.json   traces, in the order of their names; each answers one of the examples
    FOLDER/race.json         a race, as `python -m dvl_core.race --out` writes it
    FOLDER/explore.json      a sweep over settings, as `python -m dvl_core.explore --out` writes it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvl_core.trace import DenoisingTrace, TraceError

from .explore import protocol as explore_protocol
from .race import protocol as race_protocol


@dataclass(frozen=True)
class Recording:
    """A recorded run.

    Attributes:
        id: its name among all runs.
        trace: what was recorded.
        turns: the conversation, as the page keeps it: `role`, `text`, and for the question `picture` and `shown`.
        image: file name of its picture; empty when no example has its question.
    """

    id: str
    trace: DenoisingTrace
    turns: list[dict[str, Any]]
    image: str

    @property
    def question(self) -> str:
        """The last question of the conversation."""
        return self.trace.question


def read_gallery(folder: Path) -> tuple[list[dict[str, str]], list[Recording]]:
    """Examples and recorded runs of `folder`; either may be absent.

    Raises:
        TraceError: for a file that is not a trace.
    """
    listed = folder / "examples.json"
    examples = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []
    return examples, [_recording(file, folder, examples) for file in sorted((folder / "recorded").glob("*.json"))]


def read_measured(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the race and the exploring of `folder` show before anybody has begun one; None for what is absent.

    Raises:
        TraceError: for a file that is neither.
    """
    made = {}
    for name, message in (("race", race_protocol.recorded_message), ("explore", explore_protocol.recorded_message)):
        file = folder / f"{name}.json"
        try:
            made[name] = message(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise TraceError(f"{file} is damaged ({error!r}): record it again, or remove it.") from error
    return made["race"], made["explore"]


def _recording(file: Path, folder: Path, examples: list[dict[str, str]]) -> Recording:
    trace = DenoisingTrace.load(file)
    image = next((example["image"] for example in examples if example["question"] == trace.question), "")
    picture = str(folder / image) if image else None
    asked = {"role": "user", "text": trace.question, "picture": picture, "shown": picture}
    return Recording(f"recorded-{file.stem}", trace, [asked, {"role": "assistant", "text": trace.text}], image)
