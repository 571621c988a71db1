"""What happened in one run, as plain data: the record that every view, export and replay is drawn from.

A trace needs neither torch nor a model to be read. It holds each vocabulary entry once, the prompt once,
and per denoising step only what changed. Positions count from the first answer token (0, 1, ...).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate, islice, pairwise, takewhile
from pathlib import Path
from typing import Any

from .trace_checks import TraceError, check_header, check_image, check_step

FORMAT = "diffusionvl-trace"
VERSION = 2  # 2 added branches: `changes` and `parent`
READABLE = (1, 2)


@dataclass
class TraceStep:
    """One forward pass that proposed tokens.

    Attributes:
        block: ordinal of the block being denoised (0 = the block with the first answer token).
        step: denoising step inside the block, from 0.
        span: `[start, end)` answer positions of the block; positions beyond the answer's length are absent.
        masked: positions still masked before this step.
        proposals: for each masked position, the id of the proposed token.
        confidences: for each masked position, the probability of the proposal (0 to 1).
        revealed: the positions settled by this step, a subset of `masked`.
        milliseconds: duration of the step, drawing excluded.
        forwards: forward passes so far, prefill included.
        candidates: when observed, for each masked position a list of `[id, probability]`, best first.
        entropies: when observed, for each masked position the entropy of the distribution in nats.
        attention: when observed, `{layer: [[weight per picture patch] per masked position]}`; the patches of all
            pictures in reading order, weights summing to at most 1.
        known: on the first step of a run that began with what an earlier one had cached: how many positions of the
            prompt that was.
    """

    block: int
    step: int
    span: list[int]
    masked: list[int]
    proposals: list[int]
    confidences: list[float]
    revealed: list[int]
    milliseconds: float
    forwards: int
    candidates: list[list[list[float]]] | None = None
    entropies: list[float] | None = None
    attention: dict[str, list[list[float]]] | None = None
    known: int | None = None

    def revealed_ids(self) -> list[tuple[int, int]]:
        """`(position, id)` of the tokens settled by this step."""
        proposal = dict(zip(self.masked, self.proposals, strict=True))
        return [(position, proposal[position]) for position in self.revealed]

    def to_json(self) -> dict[str, Any]:
        """The step as JSON-ready data; what was not observed is absent."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass
class TraceImage:
    """A picture of the conversation: its size in pixels, and the grid of patches the model saw.

    `box` is the part of the picture's own coordinates that the grid covers, `[left, top, right, bottom]` in
    pixels; it reaches outside the picture where the picture was padded. `data` is a `data:image/...` URI of a
    small copy, or None when the trace only refers to the picture by its `sha256`.
    """

    width: int
    height: int
    grid: list[int]
    box: list[float]
    sha256: str = ""
    data: str | None = None


@dataclass
class DenoisingTrace:
    """A whole run.

    Attributes:
        model: `name`, `family`, `kind` ("block_diffusion" or "autoregressive"), `mask_token_id`,
            `eos_token_ids`, `device`, `dtype`.
        settings: the fields of `DecodingConfig`.
        prompt: `messages` (list of `{"role", "text"}`) and `num_tokens`.
        images: the pictures of the conversation.
        vocabulary: id -> bytes of the token, each id that occurs once.
        given: `[position, id]` of answer tokens that were there before the first step (infilling, resuming).
        steps: what changed, step by step.
        changes: `[step, position, id]` of what a person changed right before step number `step` was computed; an id of
            None masked the position again.
        parent: of a branch: `run` (name of the run it left), `step` (how many of its steps it shares), `settings` (in
            force until then) and `parent` (of that run, or None).
        prefill_milliseconds: time to encode the pictures and the prompt.
        finish_reason: "eos", "length" or "stopped"; None while the run goes on.
        length: number of answer positions the run was allowed (settings' `max_new_tokens`, or the template's).
    """

    model: dict[str, Any]
    settings: dict[str, Any]
    prompt: dict[str, Any]
    length: int
    images: list[TraceImage] = field(default_factory=list)
    vocabulary: dict[int, bytes] = field(default_factory=dict)
    given: list[list[int]] = field(default_factory=list)
    steps: list[TraceStep] = field(default_factory=list)
    changes: list[list[int | None]] = field(default_factory=list)
    parent: dict[str, Any] | None = None
    prefill_milliseconds: float = 0.0
    finish_reason: str | None = None

    # -- reading -----------------------------------------------------------------------------------------

    def replay(self) -> Iterator[tuple[list[int | None], list[float | None]]]:
        """The answer before the first step and after each: ids (None = masked) and confidences at every position.

        What a person or a template put has no confidence. Changes that no step has followed yet are part of the last
        state. Both lists go on changing: copy what has to stay.
        """
        tokens: list[int | None] = [None] * self.length
        sure: list[float | None] = [None] * self.length
        for position, token in self.given:
            tokens[position] = token
        for index, step in enumerate([*self.steps, None]):
            if step is not None:
                yield tokens, sure
            for _, position, token in self.changes_before(index):
                tokens[position], sure[position] = token, None
            if step is None:
                yield tokens, sure
                return
            revealed = set(step.revealed)
            for position, token, confidence in zip(step.masked, step.proposals, step.confidences, strict=True):
                settled = position in revealed
                tokens[position], sure[position] = (token, confidence) if settled else (None, None)

    def canvas(self, step: int | None = None) -> list[int | None]:
        """Ids at every answer position after `step` steps (all of them by default); None = masked."""
        wanted = len(self.steps) if step is None else step
        return list(next(islice(self.replay(), wanted, None))[0])

    def settings_at(self, step: int) -> dict[str, Any]:
        """The settings under which step number `step` was computed: a branch may have changed them."""
        settings, parent = self.settings, self.parent
        while parent is not None and step < parent["step"]:
            settings, parent = parent["settings"], parent.get("parent")
        return settings

    @property
    def prompt_tokens(self) -> int:
        """Tokens before the answer; 0 where the trace does not say."""
        return max(0, int(self.prompt.get("num_tokens") or 0))

    @property
    def question(self) -> str:
        """What was asked last; empty where the trace does not say."""
        asked = [message["text"] for message in self.prompt.get("messages", []) if message["role"] == "user"]
        return asked[-1] if asked else ""

    def changes_before(self, step: int) -> list[list[int | None]]:
        """What a person changed right before step number `step`."""
        return [change for change in self.changes if change[0] == step]

    def branch(self, run: str, step: int, changes: dict[int, int | None], settings: dict[str, Any]) -> DenoisingTrace:
        """The beginning of a new run that shares the first `step` steps with this one.

        Args:
            run: name of this run.
            step: steps to share, 0 to `len(steps)`.
            changes: position -> id, or None to mask it again, made before the next step.
            settings: in force from there on.

        Raises:
            ValueError: when a step or a position lies outside this trace.
        """
        if not 0 <= step <= len(self.steps):
            raise ValueError(f"step must be from 0 to {len(self.steps)}, the steps of the trace; got {step}.")
        for position in changes:
            if not 0 <= position < self.length:
                raise ValueError(f"position {position} lies outside the answer's {self.length} positions.")
        begun = copy.copy(self)
        begun.settings, begun.finish_reason = dict(settings), None
        begun.vocabulary, begun.steps = dict(self.vocabulary), self.steps[:step]
        last = step == len(self.steps)  # what was changed after the last step, and no step has followed
        begun.changes = [change for change in self.changes if change[0] < step or (last and change[0] == step)]
        begun.changes += [[step, position, token] for position, token in sorted(changes.items())]
        begun.parent = {"run": run, "step": step, "settings": self.settings, "parent": self.parent}
        return begun

    def answer_ids(self) -> list[int]:
        """Ids of the answer: settled tokens up to, not including, the first end-of-sequence token."""
        ids = []
        stop = set(self.model.get("eos_token_ids", []))
        for token in self.canvas():
            if token in stop:
                break
            if token is not None:
                ids.append(token)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; characters spread over several tokens are joined before they are decoded."""
        return b"".join(self.vocabulary.get(i, b"") for i in ids).decode("utf-8", errors="replace")

    @property
    def text(self) -> str:
        """The answer as text."""
        return self.decode(self.answer_ids()).strip()

    @property
    def forwards(self) -> int:
        """Forward passes of the whole run, prefill included."""
        return self.steps[-1].forwards if self.steps else 0

    @property
    def seconds(self) -> float:
        """Compute time of the whole run in seconds: prefill and steps, drawing and waiting excluded."""
        return (self.prefill_milliseconds + sum(s.milliseconds for s in self.steps)) / 1000

    @property
    def passes(self) -> int:
        """Denoising forwards: the prefill is not counted, and a step that had been guessed needed none."""
        return self.running_passes()[-1]

    def running_passes(self) -> list[int]:
        """`passes` before the first step and after each."""
        forwards = [0, *(step.forwards for step in self.steps)]
        return list(accumulate((before != now for before, now in pairwise(forwards)), initial=0))

    @property
    def denoised(self) -> int:
        """Answer tokens that the model settled; those that a person or a template put are not counted."""
        *_, (ids, sure) = self.replay()
        stop = set(self.model.get("eos_token_ids", []))
        answer = takewhile(lambda place: place[0] not in stop, zip(ids, sure, strict=True))
        return sum(confidence is not None for _, confidence in answer)

    @property
    def tokens_per_forward(self) -> float:
        """Denoised answer tokens per denoising forward."""
        return self.denoised / self.passes if self.passes else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Denoised answer tokens per second of compute, prefill included."""
        return self.denoised / self.seconds if self.seconds > 0 else 0.0

    # -- JSON --------------------------------------------------------------------------------------------

    def header(self) -> dict[str, Any]:
        """Everything but steps and vocabulary, JSON-ready: what a live viewer needs before the first step."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("steps", "vocabulary")}
        data["images"] = [asdict(image) for image in self.images]
        return {"format": FORMAT, "version": VERSION, **data}

    def to_json(self) -> dict[str, Any]:
        """The whole trace as JSON-ready data."""
        return {
            **self.header(),
            "vocabulary": encode_vocabulary(self.vocabulary),
            "steps": [step.to_json() for step in self.steps],
            "text": self.text,
        }

    @classmethod
    def from_json(cls, data: Any) -> DenoisingTrace:
        """Read what `to_json` wrote. Raises `TraceError` naming the field that is wrong."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise TraceError(f"This is not a trace: expected a JSON object with \"format\": \"{FORMAT}\".")
        if data.get("version") not in READABLE:
            readable = " and ".join(map(str, READABLE))
            raise TraceError(f"Trace version {data.get('version')!r} can't be read; this program reads {readable}.")
        check_header(data)
        trace = cls(
            model=data["model"],
            settings=data["settings"],
            prompt=data["prompt"],
            length=data["length"],
            images=[_read_image(image, f"images[{i}]") for i, image in enumerate(data.get("images", []))],
            vocabulary=decode_vocabulary(data.get("vocabulary", {})),
            given=data.get("given", []),
            steps=[_read_step(step, f"steps[{i}]", data["length"]) for i, step in enumerate(data.get("steps", []))],
            changes=data.get("changes", []),
            parent=data.get("parent"),
            prefill_milliseconds=float(data.get("prefill_milliseconds", 0.0)),
            finish_reason=data.get("finish_reason"),
        )
        _check_ids(trace)
        return trace

    def save(self, path: str | Path) -> None:
        """Write the trace to `path` as compact JSON."""
        text = json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"))
        Path(path).write_bytes(text.encode("utf-8"))  # encoded before the file is opened, which empties it

    @classmethod
    def load(cls, path: str | Path) -> DenoisingTrace:
        """Read a trace file. Raises `TraceError` when it is not one."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise TraceError(f"{Path(path).name} is not a trace, nor any text: choose a trace (.json) or a saved "
                             "page (.html).") from error
        except (ValueError, RecursionError) as error:  # of text, numbers or nesting that no trace has
            raise TraceError(f"{Path(path).name} is not a trace: it is not valid JSON ({error}).") from error
        return cls.from_json(data)


def encode_vocabulary(vocabulary: dict[int, bytes]) -> dict[str, Any]:
    """id -> text, or `{"hex": ...}` for a token that is only part of a character."""
    encoded: dict[str, Any] = {}
    for token, value in vocabulary.items():
        try:
            encoded[str(token)] = value.decode("utf-8")
        except UnicodeDecodeError:
            encoded[str(token)] = {"hex": value.hex()}
    return encoded


def decode_vocabulary(data: Any) -> dict[int, bytes]:
    """Inverse of `encode_vocabulary`."""
    try:
        return {
            int(token): bytes.fromhex(value["hex"]) if isinstance(value, dict) else value.encode("utf-8")
            for token, value in data.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TraceError(f"vocabulary: expected id -> text or {{'hex': bytes}} ({error}).") from error


def _build(cls: type, data: Any, where: str) -> Any:
    try:
        return cls(**data)
    except TypeError as error:
        raise TraceError(f"{where}: {str(error).replace('__init__() ', '')}.") from error


def _read_image(data: Any, where: str) -> TraceImage:
    image = _build(TraceImage, data, where)
    check_image(image, where)
    return image


def _read_step(data: Any, where: str, length: int) -> TraceStep:
    step = _build(TraceStep, data, where)
    check_step(step, where, length)
    return step


def _check_ids(trace: DenoisingTrace) -> None:
    used = {token for step in trace.steps for _, token in step.revealed_ids()} | {t for _, t in trace.given}
    used |= {token for _, _, token in trace.changes if token is not None}
    missing = sorted(used - trace.vocabulary.keys())
    if missing:
        raise TraceError(f"vocabulary: no entry for id {missing[0]} ({len(missing)} missing).")
