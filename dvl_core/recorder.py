"""From the steps of a decoder to a trace: the only place where tensors become plain data."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from PIL import Image

from .decoding.canvas import Canvas
from .decoding.config import DecodingConfig
from .decoding.step import DenoisingStep
from .processing.conversation import as_characters
from .trace import DenoisingTrace, TraceImage, TraceStep

_DIGITS = 5
_COPY_SIDE = 448  # longest side of the copy of a picture that a trace holds, in pixels


class TraceRecorder:
    """Records one row of a run.

    Args:
        model, processor: what decodes.
        config: how.
        messages: the conversation, as given to the processor; its text and the size of its pictures are kept.
        images: a `TraceImage` per picture.
        prompt_tokens: length of the prompt.
        canvas: given tokens, when the run did not begin empty.
        name: of the model, as shown to people.
        row: of the batch.
        begun: what a branch shares with the run it left (`DenoisingTrace.branch`); the record goes on from there.
    """

    def __init__(
        self,
        model,
        processor,
        config: DecodingConfig,
        messages: list[dict[str, Any]],
        images: list[TraceImage] | None = None,
        prompt_tokens: int = 0,
        canvas: Canvas | None = None,
        name: str = "",
        row: int = 0,
        begun: DenoisingTrace | None = None,
    ):
        self.tokenizer = processor.tokenizer
        self.row = row
        self._eos = set(model.eos_token_ids)
        self._unsent: dict[int, bytes] = {}
        self._forwards = begun.forwards if begun else 0
        self._first = True
        self._prefill = begun.prefill_milliseconds if begun else 0.0
        if begun is not None:
            self.trace = begun
            for _, _, token in begun.changes:
                if token is not None:
                    self._learn(token)
            return
        self.trace = DenoisingTrace(
            model={
                "name": name,
                "family": model.config.model_type,
                "kind": "block_diffusion" if model.config.enable_bd3lm else "autoregressive",
                "mask_token_id": model.config.mask_token_id,
                "eos_token_ids": list(model.eos_token_ids),
                "device": str(model.device),
                "dtype": str(model.dtype).removeprefix("torch."),
            },
            settings=config.to_json(),
            prompt={"messages": [plain_message(message) for message in messages], "num_tokens": prompt_tokens},
            length=len(canvas.tokens) if canvas is not None else config.max_new_tokens,
            images=images or [],
        )
        for position, token in enumerate(canvas.tokens if canvas is not None else ()):
            if token is not None:
                self.trace.given.append([position, token])
                self._learn(token)

    def add(self, step: DenoisingStep) -> TraceStep:
        """Record what `step` did to this row. The one transfer of the step's tensors to the host."""
        row, (start, end) = self.row, step.spans[self.row]
        length = self.trace.length
        masked = step.masked[row].cpu()
        cells = [i for i, on in enumerate(masked.tolist()) if on and 0 <= start + i < length]
        ids = step.proposals[row].tolist()
        confidences = step.confidences[row].tolist()
        revealed = step.revealed[row].tolist()
        record = TraceStep(
            block=step.block,
            step=step.step,
            span=[max(0, start), min(end, length)],
            masked=[start + i for i in cells],
            proposals=[ids[i] for i in cells],
            confidences=[_probability(confidences[i]) for i in cells],
            revealed=[start + i for i in cells if revealed[i]],
            milliseconds=round(step.seconds * 1000, 3),
            forwards=self._forwards + step.forwards,
            known=(step.known or None) if self._first else None,
            **self._observed(step, cells),
        )
        self._first = False
        for token in record.proposals:
            self._learn(token)
        for ranking in record.candidates or ():
            for token, _ in ranking:
                self._learn(token)
        self.trace.prefill_milliseconds = round(self._prefill + step.prefill_seconds * 1000, 3)
        self.trace.steps.append(record)
        return record

    def new_vocabulary(self) -> dict[int, bytes]:
        """Vocabulary entries learnt since the last call, for a viewer that follows the run."""
        unsent, self._unsent = self._unsent, {}
        return unsent

    def finish(self, stopped: bool = False) -> DenoisingTrace:
        """Close the record: the answer ended by itself, or was stopped, even where an end token is already settled."""
        reached_end = any(token in self._eos for token in self.trace.canvas() if token is not None)
        self.trace.finish_reason = "stopped" if stopped else "eos" if reached_end else "length"
        return self.trace

    def _observed(self, step: DenoisingStep, cells: list[int]) -> dict[str, Any]:
        observed: dict[str, Any] = {}
        if step.candidate_ids is not None:
            ids, probabilities = step.candidate_ids[self.row].tolist(), step.candidate_probabilities[self.row].tolist()
            observed["candidates"] = [
                [[t, _probability(p)] for t, p in zip(ids[i], probabilities[i], strict=True)] for i in cells
            ]
        if step.entropies is not None:
            entropies = step.entropies[self.row].tolist()
            observed["entropies"] = [round(max(0.0, entropies[i]), _DIGITS) for i in cells]
        if step.attention is not None:
            observed["attention"] = {
                str(layer): [[round(w, _DIGITS) for w in weights[self.row, i].tolist()] for i in cells]
                for layer, weights in step.attention.items()
            }
        return observed

    def _learn(self, token: int) -> None:
        if token not in self.trace.vocabulary:
            self.trace.vocabulary[token] = self._unsent[token] = token_bytes(self.tokenizer, token)


def picture_records(
    processor: Any, messages: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]
) -> list[TraceImage]:
    """The conversation's pictures for its trace: size, the grid of their tokens, and a small copy.

    Args:
        messages: with their pictures opened (PIL).
        inputs: what the processor made of them.
    """
    pictures = [part["image"] for message in messages for part in message_parts(message) if part.get("type") == "image"]
    if not pictures:
        return []
    grids = processor.picture_grids(inputs, [picture.size for picture in pictures])
    return [
        TraceImage(
            width=pictures[grid.picture].width,
            height=pictures[grid.picture].height,
            grid=[grid.rows, grid.columns],
            box=list(grid.box),
            sha256=hashlib.sha256(pictures[grid.picture].tobytes()).hexdigest(),
            data=_small_copy(pictures[grid.picture]),
        )
        for grid in grids
    ]


def _small_copy(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_COPY_SIDE, _COPY_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def message_parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a chat message; a plain text is one."""
    content = message.get("content", "")
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def plain_message(message: Mapping[str, Any]) -> dict[str, str]:
    """Role and text of a chat message, pictures left out; half of a surrogate pair, which no file can hold, is a
    question mark."""
    text = "\n".join(part["text"] for part in message_parts(message) if part.get("type") == "text")
    return {"role": message["role"], "text": as_characters(text)}


def token_bytes(tokenizer, token: int) -> bytes:
    """The bytes a token stands for; byte-level tokens may be part of a character."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None or token in tokenizer.all_special_ids:
        return (piece or "").encode()
    table = _byte_table()
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return tokenizer.decode([token]).encode()


@cache
def _byte_table() -> dict[str, int]:
    """Character -> byte of byte-level tokenizers: printable bytes stand for themselves (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(256) if byte not in set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _probability(value: float) -> float:
    return round(min(1.0, max(0.0, value)), _DIGITS)
