"""A conversation as token ids, with what people typed kept apart from what steers the model.

The ChatML template (Qwen) is laid out as pieces. Only the template's own pieces may be control tokens; a person's
text is always encoded as plain text, even where it spells `<|im_end|>` or `<image>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

TURN_START, TURN_END, PICTURE = "<|im_start|>", "<|im_end|>", "<image>"
QWEN_SYSTEM_PROMPT = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
ROLES = ("system", "user", "assistant")


class ConversationError(ValueError):
    """A conversation that can't be put to a model; the message is one sentence that says what to do about it."""


@dataclass(frozen=True)
class Turn:
    """One message: who speaks, the stripped text, and the pictures that come before it (None: to be given apart)."""

    role: str
    text: str
    pictures: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A stretch of the rendered conversation: a control token, plain text, or a picture's place.

    `answer` marks what the model itself writes: the assistant's text and the end of that turn.
    """

    kind: Literal["control", "text", "picture"]
    text: str
    answer: bool = False


def parse_messages(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Check chat messages and bring them to turns.

    Args:
        messages: `{"role": "system" | "user" | "assistant", "content": text or parts}` in order; a part is
            `{"type": "text", "text": ...}` or `{"type": "image", "image" (or "path", "url"): ...}`. The pictures of
            a turn come before its text, whatever their order, because that is how the models were trained.

    Raises:
        ConversationError: wrong types or roles, no question, or an empty one.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ConversationError(f"A conversation is a list of messages, not {type(messages).__name__}.")
    turns = [_parse_message(message, number) for number, message in enumerate(messages, start=1)]
    if any(turn.role == "system" for turn in turns[1:]):
        raise ConversationError("A system message can only be the first message of a conversation.")
    questions = [turn for turn in turns if turn.role == "user"]
    if not questions or any(not turn.text for turn in questions):
        raise ConversationError("The question is empty: type what you want to know.")
    return turns


def _parse_message(message: Any, number: int) -> Turn:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise ConversationError(f'Message {number} must be {{"role": ..., "content": ...}}.')
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise ConversationError(f"Message {number} has the role {role!r}, it must be one of {', '.join(ROLES)}.")
    if isinstance(content, str):
        return Turn(role, content.strip())
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise ConversationError(f"The content of message {number} must be text or a list of parts.")
    texts, pictures = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"].strip())
        elif kind == "image":
            pictures.append(next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None))
        else:
            raise ConversationError(
                f'A part of message {number} must be {{"type": "text", "text": ...}} or '
                '{"type": "image", "image": ...}.'
            )
    if pictures and role != "user":
        raise ConversationError(f"Message {number} is the {role}'s, only a user's message may hold pictures.")
    return Turn(role, "\n".join(text for text in texts if text), tuple(pictures))


# How LLaVA and DiffusionVL write a picture.
PICTURE_LINE = (Piece("picture", PICTURE), Piece("text", "\n"))


def render_pieces(
    turns: Sequence[Turn],
    system_prompt: str | None = QWEN_SYSTEM_PROMPT,
    add_generation_prompt: bool = True,
    picture: Sequence[Piece] = PICTURE_LINE,
) -> list[Piece]:
    """The turns in Qwen's ChatML, the pictures of a turn before its text.

    Args:
        turns: as `parse_messages` returns them; a system turn of their own replaces `system_prompt`.
        system_prompt: text of the system turn, None for none.
        add_generation_prompt: end with the header of the answer to be written.
        picture: the pieces that stand for one picture.
    """
    if add_generation_prompt and turns[-1].role != "user":
        raise ConversationError(
            f"The last message is the {turns[-1].role}'s: add a question, or set add_generation_prompt=False."
        )
    if system_prompt is not None and turns[0].role != "system":
        turns = [Turn("system", system_prompt), *turns]
    pieces = []
    for turn in turns:
        answer = turn.role == "assistant"
        pieces += [Piece("control", TURN_START), Piece("text", turn.role + "\n")]
        for _ in turn.pictures:
            pieces += picture
        pieces += [Piece("text", turn.text, answer), Piece("control", TURN_END, answer), Piece("text", "\n")]
    if add_generation_prompt:
        pieces += [Piece("control", TURN_START), Piece("text", "assistant\n")]
    return pieces


def rendered_text(pieces: Sequence[Piece]) -> str:
    """The conversation as one string, for people to read."""
    return "".join(piece.text for piece in pieces)


class SafeEncoder:
    """Encodes pieces with a tokenizer so that plain text never yields a control token.

    Control tokens are the tokenizer's special tokens and its added tokens in angle brackets. Encoding the pieces
    one by one gives what encoding the whole string would: Qwen's pre-tokenizer always cuts at a newline before
    text that doesn't begin with white space.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        added = {str(token): number for token, number in tokenizer.get_added_vocab().items()}
        special = set(tokenizer.all_special_ids)
        self.controls = {
            token: number
            for token, number in added.items()
            if number in special or (token.startswith("<") and token.endswith(">"))
        }
        self._forbidden = set(self.controls.values()) | special
        self._forbidden.discard(tokenizer.unk_token_id)  # an unknown word is still text
        missing = [token for token in (TURN_START, TURN_END) if token not in self.controls]
        if missing:
            raise ValueError(f"the tokenizer lacks the special tokens {', '.join(missing)} of the chat template")

    def __deepcopy__(self, memo: dict) -> SafeEncoder:
        return self  # a processor is deep-copied to be described; its vocabulary need not be

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text (`as_characters`); what spells a control token is encoded as the characters it is made
        of."""
        text = as_characters(text)
        ids = self._encode(text)
        if self._forbidden.isdisjoint(ids):
            return ids
        ids = [number for stretch in self._broken_up(text) for number in self._encode(stretch)]
        if not self._forbidden.isdisjoint(ids):
            raise ConversationError("The text spells one of the model's control tokens: write it differently.")
        return ids

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        return self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]

    def _broken_up(self, text: str) -> list[str]:
        """Cut after the first character of every control token's spelling."""
        cuts = {0, len(text)}
        for token in self.controls:
            at = text.find(token)
            while at >= 0:
                cuts.add(at + 1)
                at = text.find(token, at + 1)
        edges = sorted(cuts)
        return [text[start:end] for start, end in pairwise(edges)]

    def encode(
        self, pieces: Sequence[Piece], picture_token_id: int, picture_lengths: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """(ids, answer mask), one entry per token; picture i becomes `picture_lengths[i]` times `picture_token_id`."""
        ids: list[int] = []
        answer: list[int] = []
        lengths = iter(picture_lengths)
        for piece in pieces:
            if piece.kind == "control":
                new = [self.controls[piece.text]]
            elif piece.kind == "picture":
                new = [picture_token_id] * next(lengths)
            else:
                new = self.encode_text(piece.text)
            ids += new
            answer += [int(piece.answer)] * len(new)
        return ids, answer


def as_characters(text: str) -> str:
    """The text with a question mark for half of a surrogate pair, which is no character and can't be written."""
    return text.encode("utf-8", "replace").decode("utf-8")


def split_rendered(text: str, controls: Sequence[str], pictures: Sequence[str] = (PICTURE,)) -> list[Piece]:
    """Pieces of an already rendered prompt, in which every spelled control token counts as one."""
    marks = sorted((*controls, *pictures), key=len, reverse=True)
    stretches = re.split("(" + "|".join(map(re.escape, marks)) + ")", text)
    kinds = dict.fromkeys(controls, "control") | dict.fromkeys(pictures, "picture")
    return [Piece(kinds.get(stretch, "text"), stretch) for stretch in stretches if stretch]


def check_length(length: int, picture_tokens: int, limit: int) -> None:
    """Raise a ConversationError when a prompt of `length` tokens (pictures included) is beyond `limit`."""
    if length > limit:
        pictures = f" ({picture_tokens:,} of them for pictures)" if picture_tokens else ""
        raise ConversationError(
            f"The conversation is {length:,} tokens long{pictures} and the model takes at most {limit:,}: "
            "shorten the question or start a new conversation."
        )
