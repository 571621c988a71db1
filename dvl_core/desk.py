"""What visitors may ask for: an answer, a branch of a run, the same run with more recorded, or without a part of the
picture. Each is a run of its own, handed out event by event; who shows the events is not known here.
"""

from __future__ import annotations

import secrets
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .decoding import Canvas, Observe
from .decoding.template import parse_template
from .engine import Engine, EngineError, Event, Started
from .occlusion import occlude
from .processing import ImageError, open_image
from .processing.conversation import SafeEncoder
from .recorder import token_bytes
from .sessions import Run, Sessions, as_message, shown_copy
from .trace import DenoisingTrace

RECORDS = ("candidates", "attention")  # what may be recorded beside tokens and confidences
_CANDIDATES = 5
_TYPED = 200  # characters of a typed token


class Desk:
    """Opens runs for visitors.

    Args:
        engine: what computes.
        sessions: who remembers.
        own_pictures: folder of the pictures that come with the app; they need no copy to be shown.
    """

    def __init__(self, engine: Engine, sessions: Sessions, own_pictures: Path | None = None):
        self.engine, self.sessions, self.own_pictures = engine, sessions, own_pictures
        self._painted = tempfile.TemporaryDirectory(prefix="dvl-")  # pictures with a part painted over; gone at the end
        self._painted_files: deque[Path] = deque()

    def ask(
        self,
        visitor: str,
        question: dict[str, Any],
        turns: Sequence[dict[str, Any]],
        settings: Mapping[str, Any],
        records: Sequence[str] = (),
        template: str = "",
    ) -> Iterator[tuple[Run, Event]]:
        """Answer `question` (`role`, `text`, `picture`: a path or None) as the next turn of `turns`.

        Args:
            template: text with holes (`decoding.template`) that the answer has to keep to the letter.

        Yields:
            the run and what happened in it (`Engine.stream`).

        Raises:
            EngineError: before the first event or later; a sentence for the visitor.
        """
        config = self.engine.config(**settings)
        asked = [*turns, {**question, "shown": self._shown(question.get("picture"))}]
        canvas = self._template(template) if template.strip() else None
        run = self.sessions.open(visitor, asked, canvas)
        observe = self._observe(records)
        yield from _events(run, self.engine.stream(_messages(asked), config, observe, canvas))

    def branch(
        self,
        visitor: str,
        origin: str,
        step: int,
        changes: Sequence[Sequence[int | None]],
        settings: Mapping[str, Any],
        records: Sequence[str] = (),
    ) -> Iterator[tuple[Run, Event]]:
        """Go on with the run `origin` after `step` of its steps; `changes` are [position, id or None] pairs."""
        left = self._kept(origin)
        config = self.engine.config(**settings)
        try:
            wanted = {int(position): None if token is None else int(token) for position, token in changes}
        except (TypeError, ValueError, OverflowError) as error:
            raise EngineError("A change is a position and the id of a token, or nothing to mask it again.") from error
        size = self.engine.model.get_input_embeddings().weight.shape[0]
        if any(token is not None and not 0 <= token < size for token in wanted.values()):
            raise EngineError(f"A token's id lies between 0 and {size - 1}.")
        run = self.sessions.open(visitor, left.asked, left.canvas)
        observe = self._observe(records)
        events = self.engine.branch(
            _messages(left.asked), left.trace, origin, step, wanted, config, observe, left.canvas
        )
        yield from _events(run, events)

    def observe(self, visitor: str, origin: str) -> Iterator[tuple[Run, Event]]:
        """The run `origin` once more, with candidates and attention recorded."""
        left = self._kept(origin)
        parent = left.trace.parent
        if parent is not None:
            own = [change[1:] for change in left.trace.changes if change[0] == parent["step"]]
            yield from self.branch(visitor, parent["run"], parent["step"], own, left.trace.settings, RECORDS)
            return
        yield from self._again(visitor, left, left.asked, RECORDS, left.trace.prompt.get("occluded"))

    def occlude(self, visitor: str, origin: str, region: Sequence[float]) -> Iterator[tuple[Run, Event]]:
        """The run `origin` once more, same settings and seed, with a part of its last picture painted over.

        Args:
            region: left, top, right, bottom as shares of the picture.
        """
        left = self._kept(origin)
        if left.trace.parent is not None:
            raise EngineError("A branch can't be checked like this: its first steps were made with the picture. "
                              "Check the run that it left.", "picture")
        place = next((i for i in reversed(range(len(left.asked))) if left.asked[i].get("picture")), None)
        if place is None:
            raise EngineError("There is no picture to paint over.", "picture")
        try:
            picture = occlude(open_image(left.asked[place]["picture"], self.engine.processor.image_limits), region)
        except (ImageError, ValueError, TypeError) as error:
            raise EngineError(str(error), "picture") from error
        file = f"{self._painted.name}/{secrets.token_urlsafe(12)}.png"
        picture.save(file)
        self._painted_files.append(Path(file))
        while len(self._painted_files) > self.sessions.capacity:  # as many as there are runs that may show one
            self._painted_files.popleft().unlink(missing_ok=True)
        asked = [dict(turn) for turn in left.asked]
        asked[place] |= {"picture": file, "shown": file}
        share = [round(float(edge), 4) for edge in region]
        yield from self._again(visitor, left, asked, _recorded(left.trace), share)

    def _again(
        self, visitor: str, left: Run, asked: list[dict[str, Any]], records: Sequence[str], occluded: list[float] | None
    ) -> Iterator[tuple[Run, Event]]:
        """The run `left` once more: same settings, seed and template; `occluded` is noted in its trace."""
        config = self.engine.config(**left.trace.settings)
        run = self.sessions.open(visitor, asked, left.canvas)
        events = self.engine.stream(_messages(asked), config, self._observe(records), left.canvas)
        for opened, event in _events(run, events):
            if isinstance(event, Started) and occluded:
                event.trace.prompt["occluded"] = occluded
            yield opened, event

    def tokenize(self, text: str) -> list[tuple[int, bytes]]:
        """Ids and bytes of a text that a person typed; what looks like a special token is plain text."""
        tokenizer = self.engine.processor.tokenizer
        ids = SafeEncoder(tokenizer).encode_text(str(text)[:_TYPED])
        return [(token, token_bytes(tokenizer, token)) for token in ids]

    def _kept(self, run: str) -> Run:
        kept = self.sessions.run(run)
        if kept is None or kept.trace is None or not kept.asked:
            raise EngineError("This run is not kept any more: ask the question again.", "question")
        return kept

    def _observe(self, records: Sequence[str]) -> Observe | None:
        """Candidates and entropies; attention of three layers: halfway, after three quarters, and the last.

        Early layers hardly look at the picture.
        """
        if not records:
            return None
        count = self.engine.model.config.get_text_config().num_hidden_layers
        layers = sorted({count // 2, 3 * count // 4, count - 1}) if "attention" in records else ()
        wanted = "candidates" in records
        return Observe(candidates=_CANDIDATES if wanted else 0, entropy=wanted, attention_layers=tuple(layers))

    def _template(self, text: str) -> Canvas:
        limit = self.engine.limits.max_new_tokens
        try:
            return parse_template(text, self.engine.processor.tokenizer, max_new_tokens=limit).canvas
        except ValueError as error:
            raise EngineError(str(error), "template") from error

    def _shown(self, picture: str | None) -> str | None:
        own = picture is None or (self.own_pictures is not None and Path(picture).parent == self.own_pictures)
        return picture if own else shown_copy(picture, self.engine)


def _messages(asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [as_message(turn) for turn in asked]


def _recorded(trace: DenoisingTrace) -> tuple[str, ...]:
    """What was recorded in a run beside tokens and confidences."""
    step = trace.steps[0] if trace.steps else None
    found = {"candidates": step is not None and step.candidates, "attention": step is not None and step.attention}
    return tuple(name for name in RECORDS if found[name])


def _events(run: Run, events: Iterator[Event]) -> Iterator[tuple[Run, Event]]:
    """Every event with its run, whose trace is kept from the first one that has it; closing stops the engine."""
    try:
        for event in events:
            run.trace = getattr(event, "trace", run.trace)
            yield run, event
    finally:
        events.close()
        run.over = True
