"""One model, many visitors: whose turn it is, what is allowed, and every run recorded as its own trace.

A bounded number of runs is open at a time; later visitors wait in line. Open runs take turns step by step, first
come first served, so a slow reader or a long answer holds up nobody. Whatever goes wrong inside a run surfaces as
one `EngineError` whose message is a sentence for the page.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from .decoding import Canvas, DecodingConfig, DenoisingStep, Observe
from .decoding.config import MAX_BLOCK_SIZE, MAX_NEW_TOKENS
from .decoding.prefix import PrefixCache
from .models.checkpoint import CheckpointError
from .models.loading import Outline
from .processing import ConversationError, ImageError, ImageLimits, open_image
from .processing.conversation import Turn, parse_messages
from .recorder import TraceRecorder, picture_records
from .trace import DenoisingTrace, TraceImage, TraceStep
from .turns import FairLock, Line, LineFull

_log = logging.getLogger(__name__)
_HEARTBEAT = 0.25  # seconds between looks at the line, so that a waiting run can be closed
_CHARACTERS_PER_TOKEN = 16  # a longer question is refused before it is tokenised


class EngineError(Exception):
    """A run that can't be had; the message is one sentence for the person who asked.

    Attributes:
        about: what to look at: "picture", "question", "settings", "queue" or "model".
    """

    def __init__(self, sentence: str, about: str = "model"):
        super().__init__(sentence)
        self.about = about


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        max_prompt_tokens: longest conversation, pictures included, in tokens.
        max_block_size: largest block, in tokens.
        max_picture_pixels: largest picture, width x height.
        open_runs: runs that hold a cache and take turns.
        waiting_runs: runs that may wait in line behind them.
    """

    max_new_tokens: int = 512
    max_prompt_tokens: int = 8192
    max_block_size: int = 128
    max_picture_pixels: int = 64_000_000
    open_runs: int = 4
    waiting_runs: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "waiting_runs" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{field.name} must be a whole number of {least} or more; got {value!r}.")


@dataclass(frozen=True)
class Waiting:
    """The run is in line; `before` runs go first."""

    before: int


@dataclass(frozen=True)
class Loading:
    """The model's weights are still being read."""


@dataclass(frozen=True)
class Started:
    """The run began; `trace` has no steps yet and grows with every step."""

    trace: DenoisingTrace


@dataclass(frozen=True)
class Stepped:
    """One step was computed, the `number`th of its trace: as recorded, and the vocabulary entries that it brought."""

    number: int
    step: TraceStep
    vocabulary: dict[int, bytes]
    trace: DenoisingTrace


@dataclass(frozen=True)
class Finished:
    """The run is over; `trace.finish_reason` says why."""

    trace: DenoisingTrace


Event = Waiting | Loading | Started | Stepped | Finished


class Engine:
    """Serves one model to many threads.

    Args:
        model, processor: as `load_model` returns them.
        limits: what one visitor may ask for.
        name: the model's name on the page and in traces; its folder's name by default.
        accelerate: wraps the generator function that computes, as `spaces.GPU` does; it yields CPU data only.
        turn: of another engine on the same machine, to take turns with its runs too.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        limits: Limits | None = None,
        name: str = "",
        accelerate: Callable[[Callable[..., Iterator[DenoisingStep]]], Callable[..., Iterator[DenoisingStep]]]
        | None = None,
        turn: FairLock | None = None,
    ):
        self.model, self.processor = model, processor
        self.limits = limits or Limits()
        self.name = name or str(getattr(model.config, "name_or_path", "") or "model").rstrip("/").split("/")[-1]
        processor.image_limits = ImageLimits(max_pixels=self.limits.max_picture_pixels)
        self._compute = accelerate(self._steps) if accelerate else self._steps
        self._prefixes = None if accelerate else PrefixCache()  # which another process would not share
        self.turn = turn or FairLock()
        self._device: torch.device | None = None  # where the model will be, while it is being loaded
        self._loaded = Future()
        self._loaded.set_result(None)
        self._line = Line(self.limits.open_runs, self.limits.waiting_runs)

    @classmethod
    def later(cls, outline: Outline, *args: Any, **kwargs: Any) -> Engine:
        """An engine that can be asked at once, while a thread reads the weights; other arguments as of `Engine`."""
        engine = cls(outline.model, outline.processor, *args, **kwargs)
        engine._device, engine._loaded = outline.device, Future()

        def load() -> None:
            try:
                engine.model = outline.load()
                engine._loaded.set_result(None)
            except Exception as error:  # whoever waits for the model hears of it
                _log.error("The model could not be loaded: %s", error, exc_info=not isinstance(error, CheckpointError))
                engine._loaded.set_exception(error)

        threading.Thread(target=load, name="load").start()  # no daemon: torch aborts a process that ends in it
        return engine

    def wait(self) -> None:
        """Return when the model is there; raises what went wrong while it was loaded."""
        self._loaded.result()

    @property
    def trained_block_size(self) -> int:
        """Block size the model was trained with; 1 for an autoregressive one."""
        return self.model.config.bd3lm_block_size if self.model.config.enable_bd3lm else 1

    def describe(self) -> dict[str, Any]:
        """What is served, JSON-ready."""
        parameter = next(self.model.parameters())
        return {
            "model": self.name,
            "family": self.model.config.model_type,
            "kind": "block_diffusion" if self.model.config.enable_bd3lm else "autoregressive",
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "device": str(parameter.device if parameter.device.type != "meta" else self._device),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "runs": len(self._line),
            "loading": not self._loaded.done(),
        }

    def default_settings(self) -> dict[str, Any]:
        """Settings as the model was trained, within the limits."""
        settings = self.model.default_config().to_json()
        return settings | {"max_new_tokens": min(settings["max_new_tokens"], self.limits.max_new_tokens)}

    def config(self, **settings: Any) -> DecodingConfig:
        """Decoding settings within the limits; what is not given is as the model was trained.

        Raises:
            EngineError: about "settings", naming field and range.
        """
        unknown = sorted(set(settings) - DecodingConfig.names())
        if unknown:
            raise EngineError(f"There is no setting called {unknown[0]!r}.", "settings")
        settings.setdefault("max_new_tokens", self.default_settings()["max_new_tokens"])
        try:
            config = self.model.default_config(**settings)
        except ValueError as error:  # which knows the decoder's range, but not what is allowed here
            said = str(error)
            for name, most, here in (("block_size", MAX_BLOCK_SIZE, self.limits.max_block_size),
                                     ("max_new_tokens", MAX_NEW_TOKENS, self.limits.max_new_tokens)):
                if said.startswith(name):
                    said = said.replace(f" to {most};", f" to {min(most, here)};")
            raise EngineError(said, "settings") from error
        if config.max_new_tokens > self.limits.max_new_tokens:
            raise EngineError(
                f"max_new_tokens may be at most {self.limits.max_new_tokens} here; got {config.max_new_tokens}.",
                "settings",
            )
        if config.block_size > self.limits.max_block_size:
            raise EngineError(
                f"block_size may be at most {self.limits.max_block_size} here (the model was trained with "
                f"{self.trained_block_size}); got {config.block_size}.",
                "settings",
            )
        return config

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: DecodingConfig,
        observe: Observe | None = None,
        canvas: Canvas | None = None,
        begun: DenoisingTrace | None = None,
        alone: bool = False,
    ) -> Iterator[Event]:
        """Answer a conversation, step by step.

        Args:
            messages: as the processor's `apply_chat_template` takes them.
            config: from `config()`.
            observe: what else to record.
            canvas: given tokens and holes of the answer; needs a block-diffusion model.
            begun: the trace that this run goes on with, of a branch; `canvas` is its state then.
            alone: no other run takes a turn until this one is over, and nothing of earlier runs is reused, as a
                measurement needs it. Consume it at once.

        Yields:
            `Waiting` while others go first, `Loading` while the model is read, `Started`, a `Stepped` right after each
            step was computed, `Finished`.
            Closing the generator stops the run after its current step; the trace keeps what was there and says
            "stopped".

        Raises:
            EngineError: the run can't be had, or failed.
        """
        if canvas is not None and not self.model.config.enable_bd3lm:
            raise EngineError("An autoregressive model writes from left to right: it can't go on from masks.", "model")
        try:
            (observe or Observe()).resolve_layers(self.model.config.get_text_config().num_hidden_layers)
        except ValueError as error:
            raise EngineError(str(error), "settings") from error
        length = len(canvas.tokens) if canvas is not None else config.max_new_tokens
        try:
            ticket = self._line.join()
        except LineFull as error:
            raise EngineError(str(error), "queue") from error
        try:
            said, pictures, inputs = self._prepare(messages, length, recorded=begun is not None)
            while before := self._line.wait(ticket, _HEARTBEAT):
                yield Waiting(before)
            yield from self._await_model()
            with self.turn if alone else nullcontext():
                yield from self._run(said, pictures, inputs, config, observe, canvas, begun, alone)
        finally:
            self._line.leave(ticket)

    def answer(self, messages: Sequence[Mapping[str, Any]], config: DecodingConfig, **how: Any) -> DenoisingTrace:
        """The finished trace of `stream`, for callers that don't watch; `how` are its other arguments."""
        trace = None
        for event in self.stream(messages, config, **how):
            trace = getattr(event, "trace", trace)
        return trace

    def _prepare(
        self, messages, length: int, recorded: bool
    ) -> tuple[list[dict[str, str]], list[TraceImage], dict[str, Any]]:
        """The conversation's texts, what a trace keeps of its pictures (nothing, where they are `recorded`), and model
        inputs on the CPU.

        Refused where they are too large: `length` answer tokens have to find room behind them. The pictures themselves
        are not held on to: a run may wait for long.
        """
        longest = self.limits.max_prompt_tokens
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if positions:
            longest = min(longest, positions - length)
        if longest < 1:
            raise EngineError(
                f"An answer of {length} tokens leaves no room for a question; ask for less.", "settings"
            )
        try:
            turns = parse_messages(messages)
            characters = sum(len(turn.text) for turn in turns)
            if characters > longest * _CHARACTERS_PER_TOKEN:
                raise ConversationError(
                    f"The conversation is {characters:,} characters long, far beyond the {longest:,} tokens this "
                    "model can read: shorten it, or start a new conversation."
                )
            opened = [_opened(turn, self.processor.image_limits) for turn in turns]
            inputs = dict(self.processor.apply_chat_template(opened, max_length=longest))
        except ImageError as error:
            raise EngineError(str(error), "picture") from error
        except ConversationError as error:
            raise EngineError(str(error), "question") from error
        said = [{"role": turn.role, "content": turn.text} for turn in turns]
        return said, [] if recorded else picture_records(self.processor, opened, inputs), inputs

    def _await_model(self) -> Iterator[Event]:
        while not self._loaded.done():
            yield Loading()
            wait([self._loaded], _HEARTBEAT)
        if self._loaded.exception() is not None:
            raise EngineError("The model could not be loaded; the server's log says why.", "model")

    def branch(
        self,
        messages: Sequence[Mapping[str, Any]],
        trace: DenoisingTrace,
        run: str,
        step: int,
        changes: Mapping[int, int | None],
        config: DecodingConfig,
        observe: Observe | None = None,
        template: Canvas | None = None,
    ) -> Iterator[Event]:
        """Go on with a recorded run after `step` of its steps, changed by a person or not.

        Args:
            messages: the conversation that `trace` answered.
            trace, run: what was recorded, and its name.
            step: steps to keep.
            changes: position -> id, or None to mask it again.
            config: from there on. With the run's own settings and no change the rest comes out exactly the same.
            observe: what else to record.
            template: what the run began with, if it filled in a template; its rules for holes go on.

        Raises:
            EngineError: about "settings", where the step or a change lies outside the run.
        """
        try:
            begun = trace.branch(run, step, dict(changes), config.to_json())
            edits = {position: token for position, token in changes.items() if token is not None}
            canvas = Canvas.from_trace(trace, step, edits, [p for p, token in changes.items() if token is None])
        except ValueError as error:
            raise EngineError(str(error), "settings") from error
        if trace.settings.get("block_size") != config.block_size:  # blocks are numbered anew
            canvas = replace(canvas, resume=(0, 0))
        elif trace.settings.get("steps") != config.steps:  # the block's schedule begins anew
            canvas = replace(canvas, resume=(canvas.resume[0], 0))
        if template is not None:
            canvas = replace(canvas, template=template.template, fills=template.fills)
        yield from self.stream(messages, config, observe, canvas, begun)

    def _run(
        self, said, pictures, inputs, config: DecodingConfig, observe, canvas, begun, alone: bool
    ) -> Iterator[Event]:
        recorder = TraceRecorder(
            self.model,
            self.processor,
            config,
            said,
            images=pictures,
            prompt_tokens=inputs["input_ids"].shape[1],
            name=self.name,
            canvas=canvas,
            begun=begun,
        )
        trace, whole = recorder.trace, False
        steps = self._compute(inputs, config, observe, canvas, alone)
        try:
            yield Started(trace)
            while (step := self._next(steps)) is not None:
                recorded = recorder.add(step)
                yield Stepped(len(trace.steps), recorded, recorder.new_vocabulary(), trace)
            whole = True
        finally:
            steps.close()
            recorder.finish(stopped=not whole)
        yield Finished(trace)

    def _next(self, steps: Iterator[DenoisingStep]) -> DenoisingStep | None:
        """The next step, computed when it is this run's turn; None when there is none."""
        with self.turn:
            try:
                return next(steps, None)
            except torch.cuda.OutOfMemoryError as error:
                raise EngineError(
                    "The model ran out of memory: send a smaller picture, or ask for a shorter answer.", "model"
                ) from error
            except EngineError:
                raise
            except Exception as error:
                _log.exception("A run failed.")
                raise EngineError(
                    "This run failed inside the model; the server's log says more. "
                    "Your conversation is kept: try again.",
                    "model",
                ) from error

    def _steps(
        self, inputs: dict[str, Any], config: DecodingConfig, observe: Observe | None, canvas: Canvas | None,
        alone: bool,
    ) -> Iterator[DenoisingStep]:
        """The computing part: takes CPU data, gives CPU data, so that it may live in another process."""
        device = self.model.device
        on_device = {name: value.to(device) for name, value in inputs.items()}
        prefixes = None if alone else self._prefixes
        for step in self.model.steps(on_device, config, observe, canvas, prefixes):
            yield _on_cpu(step)


def _on_cpu(step: DenoisingStep) -> DenoisingStep:
    moved = {}
    for field in fields(step):
        value = getattr(step, field.name)
        if isinstance(value, torch.Tensor):
            moved[field.name] = value.cpu()
        elif isinstance(value, dict):
            moved[field.name] = {key: weights.cpu() for key, weights in value.items()}
    return replace(step, **moved)


def _opened(turn: Turn, limits: ImageLimits) -> dict[str, Any]:
    """The turn as a message again, its pictures read."""
    pictures = [{"type": "image", "image": open_image(picture, limits)} for picture in turn.pictures]
    return {"role": turn.role, "content": [*pictures, {"type": "text", "text": turn.text}]}
